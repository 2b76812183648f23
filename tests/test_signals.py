"""Signals: one sentence and a status from the start of a process to its exit; training saves first."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from sparsejax.signals import defer_signals
from tests.command import ROOT, environment
from tests.stop_campaign import stop_until_done

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
WAITS = """
from sparsejax.signals import end_at_signals
with end_at_signals():
    print('ready', flush=True)
    input()
print('done', flush=True)
input()
"""


@pytest.fixture(autouse=True)
def usual_handlers():
    """Undoes what `nohup` and a shell's background do, for this process and those it starts."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def waiting(before: str = "") -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal; {before}\n{WAITS}"], cwd=ROOT, env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", NUMBERS)
def test_a_process_that_is_not_training_ends_with_one_sentence(number):
    process = waiting("signal.signal(signal.SIGHUP, signal.SIG_DFL)")
    for _ in range(6):
        process.send_signal(number)
        time.sleep(0.01)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    expected = f"Received {number.name} and stopped; run the same command to resume from the last checkpoint."
    assert said.strip() == expected


def test_signals_after_training_has_saved_are_one_with_the_first():
    work = """
import contextlib, signal, time
from sparsejax.signals import defer_signals, end_at_signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with end_at_signals():
    with contextlib.suppress(KeyError), defer_signals() as received:
        print('ready', flush=True)
        while not received():
            time.sleep(0.001)
        raise KeyError
    time.sleep(0.3)
"""
    process = subprocess.Popen([sys.executable, "-c", work], cwd=ROOT, env=environment(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for number in 4 * NUMBERS:
        process.send_signal(number)
        time.sleep(0.01)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0 and said == ""


def test_an_ignored_signal_stays_ignored():
    process = waiting("signal.signal(signal.SIGHUP, signal.SIG_IGN)")  # as `nohup` starts it
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate("\n\n", timeout=30)
    assert process.returncode == 0 and said == ""


def test_signals_do_not_change_the_status_of_finished_work():
    process = waiting("signal.signal(signal.SIGHUP, signal.SIG_DFL)")
    assert process.stdin is not None and process.stdout is not None
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "done\n"
    for number in NUMBERS:
        process.send_signal(number)
    _, said = process.communicate("\n", timeout=30)
    assert process.returncode == 0 and said == ""


@pytest.mark.parametrize("number", NUMBERS)
def test_signals_are_deferred_and_the_last_one_is_delivered(number):
    delivered = []
    before = signal.signal(number, lambda *_: delivered.append(number))
    try:
        with pytest.raises(ZeroDivisionError), defer_signals() as received:
            assert received() == 0
            for _ in range(6):
                os.kill(os.getpid(), number)
            assert received() == number and not delivered
            raise ZeroDivisionError  # as `Interrupted`, which acts on it
        assert not delivered
        with defer_signals():
            os.kill(os.getpid(), number)
        assert delivered == [number], "nobody asked for it before the end"
    finally:
        signal.signal(number, before)


def test_a_second_ctrl_c_does_not_wait_for_the_end_of_a_step(monkeypatch):
    monkeypatch.setattr("sparsejax.signals._PATIENCE_S", 0.0)
    with pytest.raises(KeyboardInterrupt), defer_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received() == signal.SIGINT
        time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.optimized
def test_a_run_stopped_again_and_again_keeps_three_checkpoints_and_its_history(tmp_path):
    told = stop_until_done(tmp_path, 3, random.Random(3))
    assert sum(told.values()) == 3 and len(told) > 1


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no alarms")
def test_a_reader_that_stalls_does_not_keep_a_process_alive():
    code = ("import sys\nfrom sparsejax.signals import end_at_signals\nwith end_at_signals():\n"
            " sys.stderr.write('x'); sys.stderr.flush()\n while True: print('y' * 2**12)\n")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None and process.stderr.read(1) == b"x"
    time.sleep(0.2)  # the pipe is full
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
