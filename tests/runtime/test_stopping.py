"""A text ends before its first stop string, however it was cut into pieces, and shows nothing too early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeai.errors import UsageError
from edgeai.runtime.stopping import StopStrings, pieces
from edgeai.runtime.tokenizer import Tokenizer

TEXT = st.text("ab", max_size=12)


@example(["abb", "b"], ["b", "abbb"])
@example(["abbb"], ["b", "abbb"])
@given(st.lists(TEXT), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_is_the_text_up_to_the_first_stop_string(parts: list[str], stops: list[str]) -> None:
    whole = "".join(parts)
    ends = [(place + len(stop), place) for stop in stops if (place := whole.find(stop)) >= 0]
    finder = StopStrings(stops)
    shown, fed = "", ""
    for part in parts:
        shown += finder.push(part)
        fed += part
        assert finder.stopped == any(stop in fed for stop in stops)
        held = len(fed) - len(shown)
        # Nothing is held back that could be shown, nothing shown that could be the start of a stop string.
        if not finder.stopped:
            possible = [n for n in range(1, len(fed) + 1) if any(s.startswith(fed[-n:]) and n < len(s) for s in stops)]
            assert held == max(possible, default=0)
    assert shown + finder.flush() == whole[: min(ends, default=(0, len(whole)))[1]]


@pytest.mark.parametrize("stop", ["ab", [""], [1]])
def test_what_is_no_list_of_texts_is_refused(stop: Any) -> None:
    with pytest.raises(UsageError, match="must be a list of texts"):
        StopStrings(stop)


def test_no_token_is_taken_after_a_stop_string(byte_tokenizer: Path) -> None:
    taken: list[int] = []

    def tokens() -> Iterator[int]:
        for token in b"one. two":
            taken.append(token)
            yield token

    assert "".join(pieces(Tokenizer.load(byte_tokenizer), tokens(), stop=["."])) == "one"
    assert bytes(taken) == b"one."


def test_characters_come_whole(byte_tokenizer: Path) -> None:
    tokens = [*"日é".encode(), "é".encode()[0]]
    assert list(pieces(Tokenizer.load(byte_tokenizer), tokens)) == ["日", "é", "\ufffd"]
    assert list(pieces(Tokenizer.load(byte_tokenizer), tokens, stop=["é"])) == ["日"]
