"""The terminal: progress bars, lines, widths, control characters, and a screen that goes away."""
