"""Rows of a batch say what they would say alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeai.errors import InputError, UsageError
from edgeai.runtime.generation import generate
from edgeai.runtime.padded import generate_rows, in_groups, widest_batch
from edgeai.runtime.sampling import Sampling

from .decoders import Engines, scripted


@pytest.mark.parametrize("kind", ["handed", "swapping"])
@pytest.mark.parametrize("chunk", [4, 256])
def test_rows_say_what_each_prompt_says_alone(engines: Engines, kind: str, chunk: int) -> None:
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 512, length).tolist() for length in (3, 11, 7)]
    steps = list(generate_rows(engines[kind], prompts, max_new_tokens=12, chunk=chunk))
    alone = [list(generate(engines["handed"], prompt, max_new_tokens=12)) for prompt in prompts]
    assert [list(row) for row in zip(*steps, strict=True)] == alone


def test_each_row_ends_by_itself_and_the_batch_with_the_last() -> None:
    engine = scripted([4, 5, 1, 1, 1], [3, 5, 1, 1, 1], [2, 2, 2, 5, 1])
    steps = list(generate_rows(engine, [[1], [1], [1]], max_new_tokens=9, stop_ids=[5]))
    assert steps == [[4, 3, 2], [None, None, 2], [None, None, 2]]
    assert list(generate_rows(engine, [[1], [1], [1]], max_new_tokens=9, max_positions=2)) == [[4, 3, 2]]
    assert list(generate_rows(scripted([4]), [[1]], max_new_tokens=9, stop_ids=[4])) == []


def test_shorter_prompts_are_padded_on_the_left() -> None:
    engine = scripted([4], [4], prompt=3)
    list(generate_rows(engine, [[1], [1, 2, 3]], max_new_tokens=1))
    assert engine.calls[0]["input_ids"].tolist() == [[0, 0, 1], [1, 2, 3]]
    assert engine.calls[0]["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_rows_draw_their_own_numbers_and_the_seed_fixes_them(engines: Engines) -> None:
    def draw(count: int) -> list[Any]:
        sampling = Sampling(5.0, seed=1)
        return list(
            zip(*generate_rows(engines["swapping"], [[7]] * count, max_new_tokens=9, sampling=sampling), strict=True)
        )

    assert draw(3) == draw(3)
    assert draw(3)[0] == draw(1)[0] != draw(3)[1]
    assert draw(1)[0] == tuple(generate(engines["swapping"], [7], max_new_tokens=9, sampling=Sampling(5.0, seed=1)))


def test_it_is_cancelled_before_a_run() -> None:
    engine = scripted([4, 4], [4, 4])
    steps = generate_rows(engine, [[1], [1]], max_new_tokens=2, cancelled=lambda: bool(engine.calls))
    assert list(steps) == [[4, 4]]
    assert len(engine.calls) == 1


def test_no_more_prompts_than_the_model_takes(engines: Engines) -> None:
    assert {kind: widest_batch(engine) for kind, engine in engines.items()} == {
        "handed": 64, "swapping": 64, "in place": 1
    }  # fmt: skip
    for prompts in ([], [[1]] * 5):
        with pytest.raises(InputError, match=f"{len(prompts)} prompts in one batch, the model takes 1 to 4"):
            generate_rows(scripted([1]), prompts, max_new_tokens=1)


def test_a_prompt_comes_in_pieces_of_something() -> None:
    with pytest.raises(UsageError, match="chunk = 0, must be at least 1"):
        generate_rows(scripted([1]), [[1]], max_new_tokens=1, chunk=0)


def test_groups_take_no_item_too_early() -> None:
    source = iter(range(5))
    groups = in_groups(source, 2)
    assert next(groups) == [0, 1]
    assert next(source) == 2
    assert list(groups) == [[3, 4]]
    with pytest.raises(UsageError, match="batch = 0"):
        in_groups([], 0)
