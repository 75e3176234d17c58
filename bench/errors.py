"""Errors that a user can mend. Each message is a sentence that names the file or key at fault and says what
to do."""


class BenchError(Exception):
    exit_code = 1


class ConfigError(BenchError):
    """Usage or configuration."""

    exit_code = 2


class DataError(BenchError):
    """Data missing or invalid."""

    exit_code = 3


class Interrupted(BenchError):
    """Stopped by a signal; the run can be resumed."""

    exit_code = 75
