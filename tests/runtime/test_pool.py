"""A pool runs so many at once and no more, over one session."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeai.artifact import Artifact
from edgeai.bundle import pack
from edgeai.errors import DeadlineError, UsageError
from edgeai.machine import usable_cores
from edgeai.runtime.engine import Engine
from edgeai.runtime.pool import SessionPool
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_answers_in_order_with_the_cores_shared_out(double: Path) -> None:
    with SessionPool(double, ep="cpu") as pool:
        assert isinstance(pool, Engine)
        assert (pool.size, pool.session.settings.threads) == (usable_cores(), 1)
        feeds = [{"x": np.full((n, 3), n, np.float32)} for n in range(1, 40)]
        for feed, answer in zip(feeds, pool.map(iter(feeds)), strict=True):
            np.testing.assert_array_equal(answer["y"], 2 * feed["x"])
        np.testing.assert_array_equal(pool.run({"x": X}, timeout=60)["y"], 2 * X)
    with SessionPool(double, size=1, settings=SessionSettings(threads=3)) as pool:
        assert pool.session.settings.threads == 3
    with pytest.raises(UsageError, match="the session is closed"):
        pool.run({"x": X})
    with pytest.raises(UsageError, match="size = 0, must be at least 1"):
        SessionPool(double, size=0)


def test_a_bundle_keeps_its_own_settings_but_for_the_threads(tmp_path: Path, double: Path) -> None:
    recorded = SessionSettings(threads=7, spinning=False, graph_level="basic")
    path = pack(Artifact(double, signature=Session(double).signature), tmp_path / "m.zip", settings=recorded.to_json())
    with SessionPool(path.path, size=usable_cores()) as pool:
        assert pool.session.settings == replace(recorded, threads=1)
        np.testing.assert_array_equal(pool.run({"x": X})["y"], 2 * X)
    with SessionPool(path.path, size=1, settings=SessionSettings(threads=2)) as pool:
        assert pool.session.settings == SessionSettings(threads=2)


def test_no_more_than_its_size_run_at_once_and_waiting_ends_with_the_deadline(double: Path) -> None:
    running, most, lock, go, full = [0], [0], threading.Lock(), threading.Event(), threading.Semaphore(0)
    with SessionPool(double, size=2) as pool:
        call = pool.session._call

        def slow(*arguments: object) -> object:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            full.release()
            assert go.wait(60)
            with lock:
                running[0] -= 1
            return call(*arguments)

        pool.session._call = slow
        threads = [threading.Thread(target=pool.run, args=({"x": X},)) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert full.acquire(timeout=60) and full.acquire(timeout=60)
        with pytest.raises(DeadlineError, match="all 2 places of the pool were taken"):
            pool.run({"x": X}, timeout=0.05)
        go.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert most == [2]
        np.testing.assert_array_equal(pool.run({"x": X})["y"], 2 * X)
