"""The errors a user can cause. Each says what was given, what was expected and what to do."""


class SparsejaxError(Exception):
    """The base of all of them: a command says it in a sentence, without a traceback, and exits with `status`."""

    status = 1


class ConfigError(SparsejaxError, ValueError):
    """A configuration that cannot be run: an unknown name, a value out of range, two fields at odds."""

    status = 2


class DataMissingError(SparsejaxError, FileNotFoundError):
    """A data set that is not where it was looked for."""


class DataDamagedError(SparsejaxError, ValueError):
    """A data file whose size, magic number or checksum is wrong."""


class RunFolderError(SparsejaxError, ValueError):
    """A run folder that belongs to another run, to another configuration, or cannot be written."""


class DivergedError(SparsejaxError, ArithmeticError):
    """A loss, or parameters, that are no longer finite numbers."""


class Interrupted(Exception):
    """Not an error: the run was asked to stop, has saved where it stands, and can be resumed."""


class CheckpointError(SparsejaxError, ValueError):
    """A checkpoint that is damaged, incomplete or of another network."""
