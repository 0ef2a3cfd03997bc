"""Speed: this step and this input compared with others, in one run."""
