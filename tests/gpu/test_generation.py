"""The cache lies on the device, and says what the CPU says."""

from collections.abc import Callable
from pathlib import Path

import pytest

import edgeai
from edgeai.runtime.generation import generate
from edgeai.runtime.padded import generate_rows
from edgeai.runtime.providers import runs
from edgeai.runtime.speculation import PromptLookup

REASON = runs("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(REASON is not None, reason=f"cuda does not run here: {REASON}")
def test_tokens_are_those_of_the_cpu(exported: Callable[[str], Path]) -> None:
    prompt = [5, 6, 7, 5, 6, 7, 5, 6]
    with edgeai.load(exported("gpt"), ep="cpu") as cpu, edgeai.load(exported("gpt"), ep="cuda") as cuda:
        want = list(generate(cpu, prompt, max_new_tokens=12))
        assert list(generate(cuda, prompt, max_new_tokens=12, chunk=3)) == want
        assert list(generate(cuda, prompt, max_new_tokens=12, lookup=PromptLookup(4, 2, 1))) == want
        rows = list(generate_rows(cuda, [prompt, prompt[:3]], max_new_tokens=12))
        assert [row[0] for row in rows] == want
