"""Questions, one in each file: `cnn_jax sweep NAME` answers one with runs of the ordinary loop."""
