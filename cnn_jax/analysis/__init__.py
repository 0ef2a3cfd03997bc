"""What a network is, without training it: layer tables, receptive fields, the maps of its layers."""
