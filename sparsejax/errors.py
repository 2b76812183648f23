"""The errors a user can cause. Each says what was given, what was expected and what to do."""


class ConfigError(ValueError):
    """A configuration that cannot be run: an unknown name, a value out of range, two fields at odds."""


class DataMissingError(FileNotFoundError):
    """A data set that is not where it was looked for."""


class DataDamagedError(ValueError):
    """A data file whose size, magic number or checksum is wrong."""


class RunFolderError(ValueError):
    """A run folder that belongs to another run, to another configuration, or cannot be written."""


class DivergedError(ArithmeticError):
    """A loss, or parameters, that are no longer finite numbers."""


class Interrupted(Exception):
    """Not an error: the run was asked to stop, has saved where it stands, and can be gone on with."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged, incomplete or of another network."""
