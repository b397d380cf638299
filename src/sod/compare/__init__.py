"""Compare methods over several seeds on equal terms: the training runs, their processes and the tables."""
