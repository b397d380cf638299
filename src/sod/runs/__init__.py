"""The directory of a run: options, metrics, samples, checkpoints and alarms, written atomically."""
