"""`python -m sparsejax.reproduce NAME`: reproduce a figure or table of a paper, with its number next to ours."""

import sys

from sparsejax.signals import end_at_signals


def main() -> int:
    """Runs the command line of this process; returns its exit status."""
    with end_at_signals():  # before the imports
        from sparsejax.commands.reproduce import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
