"""Reads finished runs: tables, and what papers and the project's own runs reached."""
