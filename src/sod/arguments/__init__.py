"""The command line: recipes and flags become options, and options become help."""
