"""Shared fixtures. Tests run on one thread: results must not depend on how sums are split."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _single_thread() -> None:
    torch.set_num_threads(1)
