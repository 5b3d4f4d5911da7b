"""The front door: one command, `reidge`, with one thin module per stage."""
