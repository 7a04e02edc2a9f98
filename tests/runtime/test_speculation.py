"""Guesses come from where the text had the same words before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import UsageError
from edgeai.runtime.speculation import PromptLookup


def reference(text: list[int], count: int, longest: int, shortest: int) -> list[int]:
    """The definition, place by place."""
    for size in range(longest, shortest - 1, -1):
        if size >= len(text):
            continue
        after = [end for end in range(size, len(text)) if text[end - size : end] == text[-size:]]
        if after:
            enough = [end for end in after if end + count <= len(text)]
            start = enough[-1] if enough else after[0]
            return text[start : start + count]
    return []


@given(
    st.lists(st.integers(0, 3), max_size=25), st.integers(1, 6), st.integers(0, 6), st.integers(1, 3), st.integers(0, 2)
)
def test_guesses_are_those_of_the_definition(
    text: list[int], tokens: int, limit: int, shortest: int, more: int
) -> None:
    guessed = PromptLookup(tokens, shortest + more, shortest).propose(text, limit)
    assert guessed == (reference(text, min(tokens, limit), shortest + more, shortest) if limit else [])


def test_the_last_occurrence_that_goes_on_long_enough_is_taken() -> None:
    assert PromptLookup(2).propose([1, 2, 3, 4, 1, 2, 5, 6, 1, 2], 9) == [5, 6]
    assert PromptLookup(4).propose([7, 7, 7, 7, 7, 7], 9) == [7, 7, 7]
    assert PromptLookup(2).propose([1, 2, 3], 9) == []


@pytest.mark.parametrize(
    ("options", "reason"), [((0,), "tokens = 0"), ((4, 1, 2), "2..1 tokens"), ((4, 3, 0), "0..3 tokens")]
)
def test_options_out_of_range_are_refused(options: tuple[int, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        PromptLookup(*options)
