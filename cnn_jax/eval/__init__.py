"""Exact evaluation of a network on a part of the data, by any protocol."""
