"""Faces: do two pictures show the same person, and who of those known is it? By the features of a trained network."""
