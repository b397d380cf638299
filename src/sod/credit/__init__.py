"""The credit of every sampled token: systems, their weighting rules, history, and the correction of the sampler's error."""
