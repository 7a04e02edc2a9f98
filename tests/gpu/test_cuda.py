"""What only a GPU can show. Skipped elsewhere, with the reason that the preflight gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeai
from edgeai.errors import ProviderError, ResourceLimitError, UsageError
from edgeai.runtime.providers import runs

Paths = Callable[[str], Path]


def needs(provider: str) -> pytest.MarkDecorator:
    reason = runs(provider)
    return pytest.mark.skipif(reason is not None, reason=f"{provider} does not run here: {reason}")


PROVIDERS = [pytest.param(name, marks=needs(name)) for name in ("cuda", "tensorrt")]
cuda = needs("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("family", ["mlp", "cnn", "bert"])
def test_it_runs_where_it_was_asked_to_and_agrees_with_the_cpu(provider: str, family: str, exported: Paths) -> None:
    with edgeai.load(exported(family), ep=provider) as session:
        assert session.providers[0] == provider
        assert session.placement.share(provider) > 0
    with edgeai.load(exported(family), ep="cpu") as reference, edgeai.load(exported(family), ep=provider) as candidate:
        # TF32 keeps 10 bits of the mantissa: the lossy tolerance is the honest one.
        agreement = edgeai.verify(reference, candidate, lossy=True)
    assert agreement.verdict == "verified", agreement.summary


@pytest.mark.gpu
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_bundle_is_verified_on_the_device(provider: str, built: Paths) -> None:
    from edgeai.runtime import verify_bundle

    report = verify_bundle(built("mlp"), ep=provider)
    assert report.providers[0] == provider
    assert report.vectors == 4


@pytest.mark.gpu
@pytest.mark.parametrize("provider", PROVIDERS)
def test_case_14_a_device_that_is_not_there_is_named(provider: str, exported: Paths) -> None:
    with pytest.raises(ProviderError, match=r"there is no device 63 \(devices: 0: "):
        edgeai.load(exported("mlp"), ep=provider, options={provider: {"device_id": 63}})


@pytest.fixture
def product(tmp_path: Path) -> Callable[[int | str], Path]:
    """y = x @ w with w of 64 x 64, for a batch of a given or any size."""

    def write(batch: int | str) -> Path:
        graph = f"p (float[{batch},64] x, float[64,64] w) => (float[{batch},64] y) {{ y = MatMul(x, w) }}"
        path = tmp_path / f"product-{batch}.onnx"
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}'), path)
        return path

    return write


def feed(batch: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"x": random.random((batch, 64), np.float32), "w": random.random((64, 64), np.float32)}


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_recorded_graph_reads_what_the_buffers_hold_now_and_plain_runs_what_they_are_given(
    product: Callable[[int | str], Path], place: str
) -> None:
    import torch

    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("the installed torch has no CUDA, so there are no buffers on the device")
    options = {"cuda": {"enable_cuda_graph": True, "use_tf32": False}}
    with edgeai.load(product(4), ep="cuda", options=options, min_on_ep=1.0) as session:
        given = {name: torch.from_numpy(array).to(place) for name, array in feed(4, 0).items()}
        binding = session.bind(given, {"y": torch.empty((4, 64), device=place)})
        for seed in range(3):
            fresh = feed(4, seed)
            for name, tensor in given.items():
                tensor.copy_(torch.from_numpy(fresh[name]))
            expected = fresh["x"] @ fresh["w"]
            np.testing.assert_allclose(session.run_bound(binding)["y"].cpu().numpy(), expected, rtol=1e-4)
            other = feed(4, seed + 10)
            np.testing.assert_allclose(session.run(other)["y"], other["x"] @ other["w"], rtol=1e-4)


@pytest.mark.gpu
@cuda
def test_a_graph_is_not_recorded_for_changing_shapes(product: Callable[[int | str], Path]) -> None:
    with pytest.raises(UsageError, match="recorded at fixed shapes, and x has symbolic axes"):
        edgeai.load(product("n"), ep="cuda", options={"cuda": {"enable_cuda_graph": True}})


@pytest.mark.gpu
@cuda
def test_case_19_a_request_beyond_the_gpus_memory_fails_alone(product: Callable[[int | str], Path]) -> None:
    options = {"cuda": {"gpu_mem_limit_bytes": 64 << 20, "use_tf32": False}}
    with edgeai.load(product("n"), ep="cuda", options=options) as session:
        small = feed(4, 0)
        with pytest.raises(ResourceLimitError, match="out of memory"):
            session.run({"x": np.ones((1 << 20, 64), np.float32), "w": small["w"]})
        np.testing.assert_allclose(session.run(small)["y"], small["x"] @ small["w"], rtol=1e-4)
