"""Sample trajectories: an agent for one problem, groups of attempts, and the harness that they share."""
