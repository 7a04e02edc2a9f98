"""The fake engine keeps an engine's promises."""

from __future__ import annotations

import numpy as np
import pytest

from edgeai.errors import InputError, UsageError
from edgeai.runtime.engine import Engine
from edgeai.runtime.testing import FakeEngine
from edgeai.spec import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("n",)),))
X = np.ones(2, np.float32)


def test_answers_as_scripted_and_remembers() -> None:
    engine = FakeEngine(SIGNATURE, lambda feed: {"y": feed["x"] * 3})
    assert isinstance(engine, Engine)
    assert engine.run({"x": X})["y"].tolist() == [3, 3]
    assert FakeEngine(SIGNATURE, {"y": X}).run({"x": X})["y"] is X
    assert [call["x"].tolist() for call in engine.calls] == [[1, 1]]


def test_refuses_what_a_session_would() -> None:
    engine = FakeEngine(SIGNATURE, {"z": X})
    with pytest.raises(InputError, match="missing x"):
        engine.run({})
    with pytest.raises(UsageError, match=r"scripted answer has \['z'\], not \['y'\]"):
        engine.run({"x": X})
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.run({"x": X})
