"""Train private, fair models with the Lightning code you already have."""
