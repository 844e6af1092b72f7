"""Other people's implementations that the tests compare mtrl with."""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

from mtrl.benchmarks.adaptation.peers.by_learn2learn import load

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / ".peers" / "learn2learn"
VARIABLE = "MTRL_LEARN2LEARN"


def load_learn2learn(path: Path | None = None) -> SimpleNamespace:
    """Return learn2learn's `MAML`, `MetaSGD`, `maml_update` and `meta_sgd_update`.

    Its package __init__ would need gym and torchvision, so the two modules are imported below empty
    packages, which are taken out of `sys.modules` again: a complete learn2learn is not disturbed.

    Args:
        path: the folder that holds the package folder `learn2learn`. By default
            $MTRL_LEARN2LEARN, else `.peers/learn2learn` in the repository, else an installed one.

    Raises:
        FileNotFoundError: it is nowhere; the message has the command that fetches it.
    """
    return load(_locate(path))


def _locate(path: Path | None) -> Path:
    named = path or os.environ.get(VARIABLE)
    folder = Path(named) if named else DEFAULT
    candidates = [folder / "learn2learn"]
    spec = None if named else importlib.util.find_spec("learn2learn")
    if spec is not None:
        candidates += [Path(place) for place in spec.submodule_search_locations or ()]
    for candidate in candidates:
        if (candidate / "algorithms" / "meta_sgd.py").is_file():
            return candidate
    raise FileNotFoundError(
        f"learn2learn 0.2.0 is not in {folder}: run `python scripts/install_peers.py`, "
        f"or set {VARIABLE} to the folder of its unpacked source"
    )
