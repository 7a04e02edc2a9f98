from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeai.errors import DataError
from model_defs.tokenization import (
    END_OF_TEXT,
    SPECIAL_TOKENS,
    cached_tokenizer,
    encode,
    train_byte_pairs,
    train_wordpiece,
)

TEXTS = ["The film is wonderful, truly wonderful!", "the filming was dull; a dull film."] * 20


def test_wordpiece_keeps_bert_conventions() -> None:
    tokenizer = train_wordpiece(TEXTS, 80)
    assert [tokenizer.id_to_token(index) for index in range(5)] == list(SPECIAL_TOKENS)
    assert tokenizer.encode("Film").tokens == ["[CLS]", "film", "[SEP]"]
    pair = tokenizer.encode("film", "dull")
    assert pair.tokens == ["[CLS]", "film", "[SEP]", "dull", "[SEP]"]
    assert pair.type_ids == [0, 0, 0, 1, 1]


def test_encoding_pads_and_truncates_to_one_length() -> None:
    tokenizer = train_wordpiece(TEXTS, 80)
    rows = encode(tokenizer, ["film", TEXTS[0]], 6)
    assert {name: array.shape for name, array in rows.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (2, 6)
    )
    assert all(array.dtype == "int64" for array in rows.values())
    assert rows["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert rows["input_ids"][0, 3:].tolist() == [0, 0, 0]
    assert rows["input_ids"][1, -1] == tokenizer.token_to_id("[SEP]")
    assert len(tokenizer.encode(TEXTS[0]).ids) > 6  # the tokenizer itself is as it was


@pytest.mark.parametrize("text", ["In the beginning", "tabs\tand  spaces\n", "naïve 漢字 🙂"])
def test_byte_pairs_give_back_any_text(text: str) -> None:
    tokenizer = train_byte_pairs(TEXTS, 300)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.token_to_id(END_OF_TEXT) == 0


def test_a_saved_tokenizer_is_used_again_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    first = cached_tokenizer(path, train_wordpiece, TEXTS, 80)
    again = cached_tokenizer(path, train_wordpiece, ["entirely other words"], 80)
    assert again.get_vocab() == first.get_vocab()
    saved = json.loads(path.read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None
    with pytest.raises(DataError, match="room for 10"):
        cached_tokenizer(path, train_wordpiece, TEXTS, 10)


@pytest.mark.parametrize("train", [train_wordpiece, train_byte_pairs])
def test_training_is_repeatable(train) -> None:  # type: ignore[no-untyped-def]
    assert train(TEXTS, 280).to_str() == train(TEXTS, 280).to_str()
