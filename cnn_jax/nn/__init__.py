"""Layers, and what a network of them is: a `Network` of named layers, made by a `Family`."""
