"""Pictures of the data as the network sees them, and of what happens inside a network."""
