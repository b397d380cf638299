"""The student at work: an agent for one problem, groups of them, and the harness they share."""
