"""Trained networks from anywhere: opened, recognized, used on pictures, exported."""
