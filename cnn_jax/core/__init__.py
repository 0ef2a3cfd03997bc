"""Errors, fields and their rules, files that are written whole or not at all, trees of arrays. Imports no room."""
