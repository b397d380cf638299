"""Measure models: samples, scores, intervals, results, paired comparisons, calibration."""
