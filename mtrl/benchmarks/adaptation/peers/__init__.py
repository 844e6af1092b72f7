"""Other libraries' meta-steps. Their modules import neither mtrl nor each other's library.

Each runs in the environment of its library, which `scripts/install_peers.py` makes, by `worker.py`.
"""
