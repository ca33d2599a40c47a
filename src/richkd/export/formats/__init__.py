"""The formats of artifacts, one module for each; `richkd.export.format.Format` says what a format is."""
