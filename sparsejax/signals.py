"""Ends of a process from outside: SIGINT (Ctrl-C), SIGTERM (preemption, end of a job), SIGHUP (a closed terminal).

Every file is replaced in one step, so that a process may end at any point of its work. Only training defers these
signals, to save what it has done.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

HOW_TO_RESUME = "run the same command to resume from the last checkpoint"

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_PATIENCE_S = 1.0
"""A terminal and the programs between it and this process may each pass on the same Ctrl-C."""


@contextlib.contextmanager
def end_at_signals() -> Iterator[None]:
    """Ends this process at a signal with one sentence and the status 128 + its number.

    After the block they are ignored: all is done, and Python's exit would restore the system's handlers.
    """
    for number in _handled():
        signal.signal(number, _end)
    yield
    _ignore()


def _ignore() -> None:
    for number in _handled():
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def defer_signals() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the number of the first signal received since, or 0.

    Signals do nothing else, except that another Ctrl-C after a second does immediately what it did before. One that the
    function never returned is delivered after the block. Outside of the main thread, signals are not handled.
    """
    received: list[int] = []
    first_at, told = 0.0, False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        if not received:
            first_at = time.monotonic()
        received.append(number)
        usual = before[number]
        if number == signal.SIGINT and time.monotonic() - first_at > _PATIENCE_S and callable(usual):
            usual(number, frame)

    def ask() -> int:
        nonlocal told
        told = told or bool(received)
        return received[0] if received else 0

    before = {number: signal.getsignal(number) for number in _handled()}
    for number in before:
        signal.signal(number, note)
    try:
        yield ask
    finally:
        for number, handler in before.items():  # a process that has saved is ending, and does not end twice
            signal.signal(number, signal.SIG_IGN if told and handler is _end else handler)
    if received and not told:
        signal.raise_signal(received[0])


def _handled() -> list[int]:
    """Returns the signals to handle; those that are ignored, as by `nohup`, stay so."""
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _end(number: int, _: FrameType | None) -> None:
    _ignore()
    if hasattr(signal, "SIGALRM"):  # nobody may read from a pipe that is full
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S)
    with contextlib.suppress(Exception):  # the terminal may be gone, or this may interrupt a write to it
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"\nReceived {signal.Signals(number).name} and stopped; {HOW_TO_RESUME}.\n".encode())
    os._exit(128 + number)
