"""Whatever way a cache is kept, the logits are those of one run over everything."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeai.errors import InputError, UsageError
from edgeai.runtime import kv_cache
from edgeai.runtime.kv_cache import (
    CACHE_KEY,
    IN_PLACE,
    Cache,
    HandedCache,
    InPlaceCache,
    Layout,
    SwappingCache,
    open_cache,
)
from edgeai.runtime.session import Session
from edgeai.spec import Signature, TensorSpec

from .decoders import KINDS, Engines, scripted


def advance(cache: Cache, ids: list[int]) -> np.ndarray:
    mask = np.ones((1, cache.length + len(ids)), np.int64)
    return cache.advance(np.array([ids], np.int64), mask, keep=len(ids))[0].copy()


def test_each_engine_gets_the_cache_that_it_can_have(engines: Engines) -> None:
    kinds = {name: type(open_cache(engine, 1, 8)) for name, engine in engines.items()}
    assert kinds == {"handed": HandedCache, "swapping": SwappingCache, "in place": InPlaceCache}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1) | st.just(1.0)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_truncations_give_what_one_run_gives(
    engines: Engines, kind: str, steps: list[tuple[int, float]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    cache = open_cache(engines[kind], 1, 32)
    advance(cache, random.integers(0, 512, 32).tolist())  # what an earlier text leaves in the buffers
    cache.truncate(0)
    ids = list[int]()
    for count, share in steps:
        count = min(count, 32 - len(ids))
        if count:
            new = random.integers(0, 512, count).tolist()
            got = advance(cache, new)
            ids += new
            want = advance(open_cache(engines["handed"], 1, 32), ids)[-count:]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
            assert cache.length == len(ids)
        ids = ids[: round(share * len(ids))]
        cache.truncate(len(ids))
        assert cache.length == len(ids)


@pytest.mark.parametrize("kind", ["swapping", "in place"])
def test_the_cache_lies_on_the_device_that_its_session_was_given(
    engines: Engines, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = MagicMock()  # of the second GPU: no machine of the tests has one
    session.get_providers.return_value = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session.get_provider_options.return_value = {"CUDAExecutionProvider": {"device_id": "1"}}
    session.get_overridable_initializers.return_value = []
    session.get_modelmeta().custom_metadata_map = {CACHE_KEY: IN_PLACE} if kind == "in place" else {}
    allocate = MagicMock()
    monkeypatch.setattr(kv_cache, "_allocate", allocate)
    engine: Any = SimpleNamespace(signature=engines[kind].signature, _session=session)
    advance(open_cache(engine, 1, 8), [1, 2])
    binding = session.io_binding()
    bound = [call.args[1:3] for call in (*binding.bind_input.mock_calls, *binding.bind_output.mock_calls)]
    places = {call.args[-2:] for call in allocate.mock_calls if call.args} | {one for one in bound if one[0] == "cuda"}
    assert places == {("cuda", 1)}


def test_what_lies_behind_the_end_of_a_shared_buffer_is_never_read(engines: Engines) -> None:
    cache = open_cache(engines["in place"], 1, 32)
    assert isinstance(cache, InPlaceCache)
    for buffer in cache.buffers:
        buffer.numpy().fill(np.nan)
    got = np.concatenate([advance(cache, part) for part in ([1, 2, 3, 4, 5], [6], [7, 8])])
    np.testing.assert_allclose(
        got, advance(open_cache(engines["handed"], 1, 32), list(range(1, 9))), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["swapping", "in place"])
def test_nothing_is_allocated_from_token_to_token(engines: Engines, kind: str) -> None:
    cache = open_cache(engines[kind], 1, 32)
    places = set()
    for _ in range(20):
        logits = cache.advance(np.array([[5]]), np.ones((1, cache.length + 1), np.int64), keep=1)
        places.add((logits.ctypes.data, *(buffer.data_ptr() for buffer in cache.buffers)))
    assert len(places) == (1 if kind == "in place" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_fails_leaves_the_cache_as_it_was(engines: Engines, kind: str) -> None:
    cache, other = (open_cache(engines[kind], 1, 32) for _ in range(2))
    for one in (cache, other):
        advance(one, [1, 2, 3])
    with pytest.raises(InputError, match="cannot compute"):
        advance(cache, [9, 10**6])
    assert cache.length == 3
    np.testing.assert_array_equal(advance(cache, [4, 5]), advance(other, [4, 5]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_of_the_last_positions_alone(engines: Engines, kind: str) -> None:
    ids, mask = np.arange(7)[None], np.ones((1, 7), np.int64)
    whole = advance(open_cache(engines["handed"], 1, 8), list(range(7)))
    for keep in (1, 3, 7):
        logits = open_cache(engines[kind], 1, 8).advance(ids, mask, keep=keep)
        np.testing.assert_allclose(logits[0], whole[-keep:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_behind_the_end(engines: Engines, kind: str) -> None:
    cache = open_cache(engines[kind], 1, 4)
    advance(cache, [1, 2, 3])
    with pytest.raises(InputError, match="5 tokens, but the cache has room for 4"):
        advance(cache, [4, 5])
    assert advance(cache, [4]).shape == (1, 512)


def test_rows_of_a_batch_are_kept_apart(engines: Engines) -> None:
    ids = np.random.default_rng(0).integers(0, 512, (3, 6))
    caches = [open_cache(engines[kind], 3, 9) for kind in ("handed", "swapping")]
    for start, end, keep in ((0, 4, 2), (2, 5, 5), (5, 6, 6)):
        want, got = (
            cache.advance(ids[:, start:end], np.ones((3, end), np.int64), keep=end - start) for cache in caches
        )
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        for cache in caches:
            cache.truncate(keep)


def test_a_vocabulary_of_unknown_size_is_asked_for_anew(decoder: Path) -> None:
    with Session(decoder, ep="cpu") as session:
        want = advance(open_cache(session, 1, 8), [3, 4])
        outputs = tuple(
            dataclasses.replace(spec, shape=("batch", "seq", "any")) if spec.name == "logits" else spec
            for spec in session.signature.outputs
        )
        session.signature = dataclasses.replace(session.signature, outputs=outputs)
        np.testing.assert_array_equal(advance(open_cache(session, 1, 8), [3, 4]), want)


def test_an_engine_that_is_no_decoder_is_refused(double: Path) -> None:
    with (
        Session(double) as session,
        pytest.raises(UsageError, match=r"no decoder with a KV cache: it has .*no input_ids"),
    ):
        open_cache(session, 1, 8)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (TensorSpec("past_key_values.0.key", "float16", ("batch", "heads", "past", 1)), "with fixed heads"),
        (TensorSpec("past_key_values.0.key", "float16", ("batch", 1, 1)), "with fixed heads"),
        (TensorSpec("past_key_values.0.key", "bfloat16", ("batch", 1, "past", 1)), "of bfloat16, float16"),
    ],
)
def test_a_cache_that_cannot_be_kept_is_refused(odd: TensorSpec, reason: str) -> None:
    signature = scripted([1]).signature
    inputs = tuple(odd if spec.name == odd.name else spec for spec in signature.inputs)
    with pytest.raises(UsageError, match=reason):
        Layout.of(Signature(inputs, signature.outputs))
