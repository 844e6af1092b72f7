"""Fetch learn2learn's MAML and Meta-SGD, which the tests and benchmarks compare mtrl with.

Its released source does not compile on Python 3.11 and importing it needs gym and torchvision, but
these algorithms are pure Python on torch. So this downloads the pinned source archive with pip and
unpacks the few files named here, and installs nothing:

    python scripts/install_peers.py [folder]
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements" / "learn2learn.txt"
DEFAULT = ROOT / ".peers" / "learn2learn"
ARCHIVE = "learn2learn-0.2.0"
MEMBERS = (
    "LICENSE",
    "learn2learn/algorithms/base_learner.py",
    "learn2learn/algorithms/maml.py",
    "learn2learn/algorithms/meta_sgd.py",
    "learn2learn/utils/__init__.py",
)
MAX_BYTES = 64 * 1024


def download(folder: Path) -> Path:
    """Download the source archive with pip, which refuses any other content than the pinned one."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", "learn2learn"]
    pinned = ["--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *pinned], check=True)
    return folder / f"{ARCHIVE}.tar.gz"


def verify(archive: Path) -> None:
    """Exit unless the archive has the pinned SHA-256."""
    pinned = re.findall(r"--hash=sha256:(\w+)", REQUIREMENTS.read_text())
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual not in pinned:
        sys.exit(f"{archive.name} has SHA-256 {actual}, not the pinned {pinned[0]}: not unpacked")


def unpack(archive: Path, folder: Path) -> None:
    """Write the named members below `folder`; nothing else in the archive is looked at."""
    with tarfile.open(archive) as tar:
        for name in MEMBERS:
            member = tar.getmember(f"{ARCHIVE}/{name}")
            source = tar.extractfile(member) if member.isreg() else None
            if source is None or member.size > MAX_BYTES:
                sys.exit(f"{name} is not a file of at most {MAX_BYTES} bytes: not unpacked")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())


def main() -> None:
    """Put the files in place unless they are there."""
    parser = argparse.ArgumentParser(description="Fetch the code that the tests compare mtrl with.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    folder = parser.parse_args().folder
    if all((folder / name).is_file() for name in MEMBERS):
        return
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(Path(temporary))
        verify(archive)
        unpack(archive, folder)
    print(f"learn2learn 0.2.0 (MAML, Meta-SGD) is in {folder}")


if __name__ == "__main__":
    main()
