"""Speed of training steps and input, compared with other implementations in one run."""
