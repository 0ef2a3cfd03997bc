"""Several devices and several processes: meshes, and what all processes do together."""
