"""The errors that a user can cause, each one sentence: what was expected, what was found, what to do."""

from __future__ import annotations


class SymmdError(Exception):
    """Base of every error that SymMD raises on purpose; the command line prints it without a traceback."""


class ConfigurationError(SymmdError):
    """A configuration key is unknown, of the wrong type, or contradicts another one."""


class DataError(SymmdError):
    """A structure file or a frame in it cannot be used."""


class CheckpointError(SymmdError):
    """A checkpoint is missing, damaged, or belongs to a different run."""


class ModelFileError(SymmdError):
    """A model file is missing, damaged, hostile, or of a newer format."""


class EngineError(SymmdError):
    """Atoms that the compiled engine cannot compute: coinciding, not finite, of an unknown element."""
