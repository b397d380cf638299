"""A run is a directory: options, metrics, samples and checkpoints, written whole; and the alarms."""
