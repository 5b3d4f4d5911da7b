"""Readers of labelled benchmark layouts; crop folders are read by `reidge.edge.crops`."""
