"""Unlabeled crops in, a re-ID encoder checkpoint out."""
