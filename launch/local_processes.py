"""Runs several processes on this machine, for testing: `python launch/local_processes.py N -- --config NAME`.

They connect over the loopback interface. Output lines are prefixed with the process index; if one fails, or this one is
ended, all are ended.
"""

import argparse
import ctypes
import functools
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the processes and waits for them; returns 0, or the status of the one that failed first."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        usage="%(prog)s N [--devices D] [--dry-run] -- --config NAME ...",
        description="Run N processes of sparsejax.launch on this machine; what follows -- are its arguments.",
        allow_abbrev=False,
    )
    parser.add_argument("processes", type=int, metavar="N", help="number of processes")
    parser.add_argument("--devices", type=int, default=1, metavar="D", help="CPU devices of each (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")
    options = parser.parse_args(arguments[:end])
    if options.processes < 1 or options.devices < 1:
        parser.error(f"N is {options.processes} and --devices {options.devices}; expected 1 or more")
    command = [sys.executable, "-m", "sparsejax.launch", "--distributed", *arguments[end + 1 :]]
    address = f"127.0.0.1:{8476 if options.dry_run else _free_port()}"
    settings = [_settings(address, options.processes, i, options.devices) for i in range(options.processes)]
    if options.dry_run:
        for own in settings:
            print(" ".join(f"{name}={shlex.quote(value)}" for name, value in own.items()), shlex.join(command))
        return 0
    return _run(command, settings)


def _settings(address: str, processes: int, process: int, devices: int) -> dict[str, str]:
    return {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(process),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }


def _run(command: list[str], settings: list[dict[str, str]]) -> int:
    running: list[subprocess.Popen[str]] = []
    forwarded: list[int] = []

    def forward(number: int, _: object) -> None:
        forwarded.append(number)
        for process in running:
            process.send_signal(number)

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):  # forwarded to all processes; Windows has no SIGHUP
        signal.signal(getattr(signal, name, signal.SIGTERM), forward)
    for own in settings:
        running.append(
            subprocess.Popen(
                command, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                preexec_fn=functools.partial(_end_with, os.getpid()),
            )
        )  # fmt: skip
    readers = [threading.Thread(target=_relay, args=(i, process)) for i, process in enumerate(running)]
    for reader in readers:
        reader.start()
    failed = 0
    waiting = set(range(len(running)))
    while waiting:
        for i in sorted(waiting):
            try:
                status = running[i].wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            waiting.discard(i)
            # Of processes that are ended by a signal, JAX aborts those that notice that another one has gone.
            if status and (not failed or (forwarded and status == 128 + forwarded[0])):
                failed = status
                rest = threading.Timer(20, lambda: [process.kill() for process in running])
                rest.daemon = True
                rest.start()
    for reader in readers:
        reader.join()
    return failed if failed >= 0 else 128 - failed


def _end_with(parent: int) -> None:
    """Asks the system to end this process when its parent is killed (on Linux)."""
    if sys.platform == "linux":
        terminate = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(terminate, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before
            os._exit(143)


def _relay(number: int, process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    reader_left = False
    for line in process.stdout:  # to its end, or the process would wait
        try:
            if not reader_left:
                print(f"[{number}] {line}", end="", flush=True)
        except OSError:
            reader_left = True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
