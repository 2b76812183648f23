"""Several processes as one run: joining, agreement on inputs, the writing process, and termination.

JAX's distributed runtime connects them. Every process runs the same program; arrays are sharded over all devices.
"""

import os
import re
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.signals import defer_signals

_SHUTDOWN_S = 15
_MOST = 100_000
_HEARTBEAT_S = 20
"""Seconds after which the others detect a lost process; JAX's defaults are minutes."""


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the other processes of a run; call before any device is used.

    Missing arguments are read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else detected by
    JAX, on Cloud TPU, SLURM, Open MPI and Kubernetes.

    Args:
      coordinator: HOST:PORT of the first process, reachable by the others.
      processes: number of processes.
      process: index of this process, from 0.

    Raises:
      ConfigError: the settings do not fit each other, or cannot be detected.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = _number("--processes", "JAX_NUM_PROCESSES", processes)
    process = _number("--process", "JAX_PROCESS_ID", process)
    host, _, port = (coordinator or "").rpartition(":")
    if coordinator is not None and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ConfigError(f"--coordinator is {coordinator!r}; expected HOST:PORT, such as 10.0.0.2:8476.")
    if processes is not None and not 1 <= processes <= _MOST:
        raise ConfigError(f"--processes is {processes}; expected a number from 1 to {_MOST:,}.")
    if process is not None and not 0 <= process < (processes or _MOST):
        raise ConfigError(f"--process is {process}; expected a number from 0 to {(processes or _MOST) - 1}.")
    whole = None not in (coordinator, processes, process)
    try:
        jax.distributed.initialize(
            coordinator, processes, process, cluster_detection_method="deactivate" if whole else None,
            heartbeat_timeout_seconds=_HEARTBEAT_S, shutdown_timeout_seconds=_SHUTDOWN_S,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(
            f"The processes of this run cannot be detected ({error}). Pass --coordinator HOST:PORT, --processes N and "
            "--process I (from 0), or the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID; on Cloud TPU and under SLURM --distributed alone is enough."
        ) from None
    if threading.current_thread() is threading.main_thread() and (own := signal.getsignal(signal.SIGTERM)) is not None:
        signal.signal(signal.SIGTERM, own)  # JAX has replaced the handler: see `termination`


def _number(option: str, variable: str, given: int | None) -> int | None:
    text = os.environ.get(variable)
    if given is not None or text is None:
        return given
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigError(f"{variable} is {text!r}; expected an integer, or pass {option}.")
    return int(text)


def is_first() -> bool:
    """Returns whether this process writes files and prints to the terminal."""
    return jax.process_index() == 0


def agree(what: str, content: str) -> None:
    """Checks that all processes were given the same.

    Raises:
      ConfigError: they were not.
    """
    if jax.process_count() == 1:
        return
    digest = np.uint32(zlib.crc32(content.encode()))
    digests = np.asarray(multihost_utils.process_allgather(digest)).reshape(-1)
    differing = np.flatnonzero(digests != digests[0])
    if differing.size:
        raise ConfigError(
            f"Process {differing[0]} was given another {what} than process 0; start all {jax.process_count()} with the "
            "same command, data and version."
        )


def run_in_first_process(action: Callable[[], Any]) -> None:
    """Runs an action in the first process while the others wait; if it fails, all fail.

    Raises:
      RunFolderError: in the others if the first one failed; in the first one, the error of its action.
    """
    if jax.process_count() == 1:
        action()
        return
    error = None
    if is_first():
        try:
            action()
        except Exception as caught:  # tell the others before raising it
            error = caught
    failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
    if error is not None:
        raise error
    if int(failed):
        raise RunFolderError("Process 0 failed; see its message for the reason.")


def gather(tree: Any) -> Any:
    """Returns NumPy arrays, also of arrays sharded over the devices of several processes.

    All processes must then call it. PRNG keys become their data.
    """

    def of(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
                return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(of, tree)


@contextmanager
def termination() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the number of the signal that the run has received, or 0: see `defer_signals`.

    With several processes all of them must call it equally often: it returns the number in all of them at the same
    call, whichever process received the signal, and from then on. JAX's own sync point does not work here: it is a
    number of steps, and a step agreed on may never be one of ours.
    """
    agreed = 0

    def agree_to_stop() -> int:
        nonlocal agreed
        own = received()  # read once: a signal after the broadcast counts for the next call
        if jax.process_count() > 1:
            own = int(np.max(multihost_utils.process_allgather(np.int32(own))))
        agreed = agreed or own
        return agreed

    with defer_signals() as received:
        yield agree_to_stop


def leave(status: int) -> NoReturn:
    """Ends a failed process immediately, without waiting for the others, which then end too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
