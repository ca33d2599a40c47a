"""Fault injection by the thousand: `make faults` runs it and writes docs/reliability.md."""
