"""Analysis of a network without training: layer tables, receptive fields, the maps of its layers."""
