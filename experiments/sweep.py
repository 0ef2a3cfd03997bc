"""The same as `cnn_jax sweep`."""

import sys

from cnn_jax.sweep import main

if __name__ == "__main__":
    sys.exit(main())
