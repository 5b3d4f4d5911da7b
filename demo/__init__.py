"""A simulated site with ground truth, and the whole trip run and scored on it."""
