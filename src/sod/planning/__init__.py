"""Before anything is loaded: what options refer to, the memory they need, dry runs and `sod plan`."""
