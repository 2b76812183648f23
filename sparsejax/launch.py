"""`python -m sparsejax.launch --config NAME`: train a named experiment, or a grid of it."""

import sys

from sparsejax.signals import end_at_signals


def main() -> int:
    """Runs the command line of this process; returns its exit status."""
    with end_at_signals():  # before the imports
        from sparsejax.commands.train import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
