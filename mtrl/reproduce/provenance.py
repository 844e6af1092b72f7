"""Which code made a page: version, commit where there is one, libraries."""

import subprocess
from pathlib import Path

import mtrl

__all__ = ["commit"]

PACKAGE = Path(mtrl.__file__).parent
UNKNOWN = "unknown"


def commit() -> str:
    """Return the commit of the checkout that mtrl is imported from; "unknown" if it is none."""
    try:
        # A package installed below some other project's checkout is not part of its commits.
        _git("ls-files", "--error-unmatch", "__init__.py")
        revision = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)*.py")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return f"{revision} with uncommitted changes" if changed else revision


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
