"""Encoder checkpoint in, a deployable bundle out."""
