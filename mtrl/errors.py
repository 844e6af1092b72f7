"""Errors that a user meets: each says what is wrong and the way out.

The command line turns them into one line on stderr and an exit code: 2 for a usage error, 1 for a failure.
"""


class MtrlError(Exception):
    """A failure that is not the caller's doing: a damaged file, a dead worker, a full disk."""

    exit_code = 1


class UsageError(MtrlError, ValueError):
    """A request that cannot be carried out as stated; the message names the field and the fix."""

    exit_code = 2


class CheckpointError(MtrlError):
    """A checkpoint that cannot be trusted; the message names the file and what to use instead."""


class RunLockedError(MtrlError):
    """A run directory that another process is writing to."""


class WorkerError(MtrlError):
    """An environment in a worker process that failed; the message names worker, task and cause.

    What it raised there, with the traceback, is in the notes of this error.
    """


class MissingExtraError(MtrlError, ImportError):
    """An optional package is needed and absent; the message names what to install."""
