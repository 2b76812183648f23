"""`python -m sparsejax.launch --config NAME`: train a named experiment, or a grid of it."""

import sys

from sparsejax.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
