"""`python -m sparsejax.reproduce NAME`: reproduce a figure or table of a paper, with its number next to ours."""

import sys

from sparsejax.commands.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
