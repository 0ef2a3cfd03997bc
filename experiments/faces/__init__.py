"""Faces: do two pictures show the same person, and which known person? By the features of a trained network."""
