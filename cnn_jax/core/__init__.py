"""Errors, fields and their rules, files that are written atomically, trees of arrays. Imports no room."""
