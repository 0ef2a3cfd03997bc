"""Questions, one in each file: `cnn_jax sweep NAME` answers one with ordinary training runs."""
