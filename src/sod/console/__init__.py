"""Write to the terminal: progress bars, lines, safe text, and output that may become unwritable."""
