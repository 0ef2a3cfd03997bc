"""From a configuration to a trained network: setup, state, step, and the loop over a session."""
