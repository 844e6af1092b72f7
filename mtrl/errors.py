"""Errors that a user meets: each says what is wrong and the way out.

The command line turns them into one line on stderr and an exit code: 2 for a usage error, 1 for a failure.
"""

import os
import sys
from collections.abc import Callable


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


def guarded(work: Callable[[], int | None]) -> int:
    """Run `work` and return its exit code; an error of ours becomes one line on standard error."""
    try:
        return work() or 0
    except MtrlError as error:
        sys.stderr.write(f"mtrl: {' '.join(str(error).splitlines())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("mtrl: interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
