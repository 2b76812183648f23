"""Events for TensorBoard, written without threads and without an end to the run if they cannot be written."""

import contextlib
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsejax.errors import SparsejaxWarning
from sparsejax.files import is_supported


class Events:
    """Writes numbers as events for TensorBoard; if it cannot, it warns once and does nothing from then on.

    On resuming, TensorBoard drops the events after the restored step, because those steps are repeated.
    """

    def __init__(self, folder: Path, *, resumed_step: int):
        from tensorboardX.proto import event_pb2  # here, because the import is slow
        from tensorboardX.record_writer import RecordWriter

        self._folder = folder
        self._protocol: Any = event_pb2
        self._writer: Any = None
        with self._warn_once():
            folder.mkdir(parents=True, exist_ok=True)
            # The name has the second of the start, in which a run may be resumed twice, but from different steps.
            name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{resumed_step}"
            self._writer = RecordWriter(str(folder / name))
            self._event(0, file_version="brain.Event:2")
            if resumed_step:
                start = self._protocol.SessionLog(status=self._protocol.SessionLog.START)
                self._event(resumed_step + 1, session_log=start)
            is_supported(self._writer.flush)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes numbers; for a list, with one number per network, their mean."""
        with self._warn_once():
            for name, value in values.items():
                mean = sum(value) / len(value) if isinstance(value, list) else value
                self._event(step, summary={"value": [{"tag": name, "simple_value": mean}]})

    def sync(self) -> None:
        """Returns when all events are on disk."""
        with self._warn_once():
            if self._writer is not None:
                is_supported(self._writer.flush)

    def close(self) -> None:
        """Closes the file."""
        with self._warn_once():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    def _event(self, step: int, **content: Any) -> None:
        if self._writer is not None:
            event = self._protocol.Event(wall_time=time.time(), step=step, **content)
            self._writer.write(event.SerializeToString())

    @contextlib.contextmanager
    def _warn_once(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError, AttributeError):  # AttributeError: it could not be opened
                writer.close()
            said = f"Events for TensorBoard cannot be written to {self._folder}: {error.strerror or error}."
            warnings.warn(f"{said} The run continues without them.", SparsejaxWarning, stacklevel=4)
