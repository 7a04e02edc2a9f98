"""What only a GPU can show. Skipped elsewhere, with the reason that the preflight gives."""

from collections.abc import Callable
from pathlib import Path

import pytest

import edgeai
from edgeai.runtime import available

REASONS = available()
Paths = Callable[[str], Path]


def needs(provider: str) -> pytest.MarkDecorator:
    reason = REASONS[provider]
    return pytest.mark.skipif(reason is not None, reason=f"{provider} does not run here: {reason}")


PROVIDERS = [pytest.param(name, marks=needs(name)) for name in ("cuda", "tensorrt")]


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
