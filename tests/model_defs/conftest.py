"""Each family's tiny preset, trained for a few steps once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model_defs import family
from model_defs.train import TrainingReport, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, TrainingReport]]:
    """Give the directory and the report of a family's tiny preset."""
    done: dict[str, tuple[Path, TrainingReport]] = {}

    def result(name: str) -> tuple[Path, TrainingReport]:
        if name not in done:
            out = tmp_path_factory.mktemp("trained") / name
            done[name] = out, train(family(name), out, preset="tiny", baseline=True)
        return done[name]

    return result
