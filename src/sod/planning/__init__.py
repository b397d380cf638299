"""Dry runs and `sod plan`: the inputs, memory and time of a command, computed before anything is loaded."""
