"""Configurations: every field once, recipes by name, the command line, what a run recorded."""
