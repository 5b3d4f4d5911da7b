"""Footage to crops; crops to activation ranges and a match threshold."""
