"""Which split fusion and temperatures are fitted on."""

from __future__ import annotations

# Splits that fusion and temperatures may be fitted on, the first that there is.
HELD_OUT = ("calibration", "val")
