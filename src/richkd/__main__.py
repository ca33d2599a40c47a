"""``python -m richkd``, which launchers of several processes need."""

from richkd.cli import main

main()
