"""The tables against the library they stand for, for every code point that Unicode has assigned, and private ones."""

from __future__ import annotations

import unicodedata

import pytest
from tokenizers import normalizers, pre_tokenizers

from edgeai.runtime import characters

# Planes 4 to 13 are empty; of the private planes the ends will do.
BLOCKS = ((0, 0xD800), (0xE000, 0x34000), (0xE0000, 0xE0200), (0xF0000, 0xF0010), (0x10FFF0, 0x110000))
EVERY = [chr(code) for first, end in BLOCKS for code in range(first, end)]


@pytest.fixture(scope="module")
def chunks() -> list[list[str]]:
    return [EVERY[start : start + 512] for start in range(0, len(EVERY), 512)]


def bert(**on: bool) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(
        **{"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False, **on}
    )


def test_controls_and_white_space_are_what_bert_cleans(chunks: list[list[str]]) -> None:
    clean = bert(clean_text=True)
    for chunk in chunks:
        kept = "|".join("" if characters.is_control(c) else " " if characters.is_white_space(c) else c for c in chunk)
        assert clean.normalize_str("|".join(chunk)) == kept


def test_accents_are_what_bert_strips(chunks: list[list[str]]) -> None:
    # "|" between them keeps marks of different characters from being reordered
    strip = bert(strip_accents=True)
    for chunk in chunks:
        ours = ("".join(d for d in characters.decompose(c) if not characters.is_accent(d)) for c in chunk)
        assert strip.normalize_str("|".join(chunk)) == "|".join(ours)


def test_lower_is_the_librarys_for_every_character(chunks: list[list[str]]) -> None:
    lower = bert(lowercase=True)
    for chunk in chunks:
        assert lower.normalize_str("|".join(chunk)) == characters.lower("|".join(chunk))


def test_lower_knows_no_final_sigma() -> None:
    assert characters.lower("ΟΔΟΣ") == "οδοσ"


def test_punctuation_is_what_bert_isolates(chunks: list[list[str]]) -> None:
    split = pre_tokenizers.BertPreTokenizer()
    for chunk in chunks:
        letters = [c for c in chunk if not characters.is_white_space(c)]
        alone = [word for word, _ in split.pre_tokenize_str(" ".join(f"a{c}" for c in letters)) if word != "a"]
        expected = [c if characters.is_punctuation(c) else f"a{c}" for c in letters]
        assert alone == [word for word in expected if word != "a"]


def test_letters_and_numbers_are_those_of_the_published_pattern(chunks: list[list[str]]) -> None:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for chunk in chunks:
        for lead, member in (("x", characters.is_letter), ("1", characters.is_number)):
            asked = [c for c in chunk if not characters.is_white_space(c) and c not in "'x1"]
            text = "\n".join(lead + c for c in asked)
            words = {start for _, (start, _) in split.pre_tokenize_str(text)}
            joined = [3 * i + 1 not in words for i in range(len(asked))]
            assert joined == [member(c) for c in asked]


def test_a_younger_python_changes_nothing() -> None:
    # U+11938 decomposes since Unicode 13; the library's tables are older
    assert unicodedata.normalize("NFD", "\U00011938") != "\U00011938"
    assert characters.decompose("e\u0301\U00011938é") == "e\u0301\U00011938e\u0301"
