"""Speed: this step and this input beside others, in one run."""
