"""SOD inside other trainers: one module for each, named after it."""
