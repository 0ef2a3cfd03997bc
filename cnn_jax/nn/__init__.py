"""Layers, and networks of them: a `Family` makes a `Network` of named layers."""
