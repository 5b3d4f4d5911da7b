"""Bundle and cameras in, identities and events out. Never imports torch."""
