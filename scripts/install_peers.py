"""Install what the tests and benchmarks compare mtrl with, each in a folder of its own below .peers/.

    python scripts/install_peers.py                    # all of them
    python scripts/install_peers.py torchopt jax       # some

learn2learn   its released source does not compile on Python 3.11 and importing it needs gym and torchvision, but its
              MAML and Meta-SGD are pure Python on torch: the pinned source archive is downloaded with pip, the few
              files named here are unpacked, and nothing is installed
torchopt      differentiable optimisers; on this environment's torch
higher        differentiable inner loops; on this environment's torch
jax           jit and vmap; brings all that it needs
rliable       statistics, for the tests; brings all that it needs

All but the first get a virtual environment. Those that run on torch see this environment's packages behind their own,
so that both sides of a comparison run on the same torch and nothing is downloaded twice.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
PEERS = ROOT / ".peers"
ARCHIVE = "learn2learn-0.2.0"
MEMBERS = (
    "LICENSE",
    "learn2learn/algorithms/base_learner.py",
    "learn2learn/algorithms/maml.py",
    "learn2learn/algorithms/meta_sgd.py",
    "learn2learn/utils/__init__.py",
)
MAX_BYTES = 64 * 1024
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


def download(folder: Path) -> Path:
    """Download learn2learn's source with pip, which refuses any other content than the pinned one."""
    options = ["--no-deps", "--no-binary", "learn2learn", "--require-hashes"]
    pinned = ["--requirement", str(REQUIREMENTS / "learn2learn.txt"), "--dest", str(folder)]
    subprocess.run([sys.executable, *PIP, "download", *options, *pinned], check=True)
    return folder / f"{ARCHIVE}.tar.gz"


def verify(archive: Path) -> None:
    """Exit unless the archive has the pinned SHA-256."""
    pinned = re.findall(
        r"--hash=sha256:(\w+)", (REQUIREMENTS / "learn2learn.txt").read_text(encoding="utf-8")
    )
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


def install_learn2learn(folder: Path) -> None:
    """Put the files in place unless they are there."""
    if all((folder / name).is_file() for name in MEMBERS):
        return
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(Path(temporary))
        verify(archive)
        unpack(archive, folder)


def install_environment(folder: Path, *, on_torch: bool) -> None:
    """Make a virtual environment with the pinned packages of the peer that the folder is named after."""
    requirements = REQUIREMENTS / f"{folder.name}.txt"
    done = folder / "installed.txt"
    if done.is_file() and done.read_bytes() == requirements.read_bytes():
        return
    venv.create(folder, with_pip=True, clear=True)
    python = str(folder / "bin" / "python")
    install = [python, *PIP, "install", "--requirement", str(requirements)]
    subprocess.run([*install, *(["--no-deps"] * on_torch)], check=True)
    if on_torch:
        # Behind its own packages, which win; written last, so that pip did not take ours for its own.
        inside = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        link = Path(inside) / "packages_of_mtrl.pth"
        link.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    # Last: what is there is whole.
    done.write_bytes(requirements.read_bytes())


INSTALLERS: dict[str, Callable[[Path], None]] = {
    "learn2learn": install_learn2learn,
    "torchopt": lambda folder: install_environment(folder, on_torch=True),
    "higher": lambda folder: install_environment(folder, on_torch=True),
    "jax": lambda folder: install_environment(folder, on_torch=False),
    "rliable": lambda folder: install_environment(folder, on_torch=False),
}


def main() -> None:
    """Install the peers that are named, or all; one that does not install does not keep the others from it."""
    parser = argparse.ArgumentParser(description="Install what mtrl is compared with.")
    parser.add_argument("peers", nargs="*", choices=[[], *INSTALLERS], metavar="PEER")
    parser.add_argument("--folder", type=Path, default=PEERS, help="below which they go")
    options = parser.parse_args()
    failed = []
    for name in options.peers or INSTALLERS:
        try:
            INSTALLERS[name](options.folder / name)
        except subprocess.CalledProcessError as error:
            print(f"{name} does not install: {error}", file=sys.stderr)
            failed.append(name)
        else:
            print(f"{name} is in {options.folder / name}")
    if failed:
        sys.exit(f"not installed: {', '.join(failed)}; tests and benchmarks leave them out")


if __name__ == "__main__":
    main()
