"""Pictures of the data as the network sees them, and of what goes on inside a network."""
