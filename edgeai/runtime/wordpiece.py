"""Text to tokens as BERT does it: clean, split at spaces and punctuation, then the longest known pieces.

WordPiece is greedy longest-match-first (Wu et al., 2016, arXiv:1609.08144; Devlin et al., 2018, arXiv:1810.04805).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgeai.runtime import characters

# The CJK blocks that BERT splits into single characters, as the reference implementation has them.
_CJK = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
# What its decoder glues back together, in this order.
_CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


@dataclass(frozen=True)
class BertNormalizer:
    """`strip_accents=None` means: where `lowercase` is on."""

    clean_text: bool
    handle_chinese_chars: bool
    strip_accents: bool | None
    lowercase: bool

    def __call__(self, text: str) -> str:
        if self.clean_text:
            kept = (char for char in text if not characters.is_control(char))
            text = "".join(" " if characters.is_white_space(char) else char for char in kept)
        if self.handle_chinese_chars:
            text = "".join(f" {char} " if _is_cjk(char) else char for char in text)
        if self.strip_accents or (self.strip_accents is None and self.lowercase):
            text = "".join(char for char in characters.decompose(text) if not characters.is_accent(char))
        return characters.lower(text) if self.lowercase else text


def bert_words(text: str) -> Iterator[str]:
    """Runs between white space, with every punctuation character alone."""
    word = ""
    for char in text:
        alone = characters.is_punctuation(char)
        if alone or characters.is_white_space(char):
            if word:
                yield word
            word = ""
            if alone:
                yield char
        else:
            word += char
    if word:
        yield word


@dataclass(frozen=True)
class WordPiece:
    """Longest-match-first over a vocabulary; a word with any unknown part is `unknown` as a whole."""

    vocabulary: Mapping[str, int]
    normalizer: BertNormalizer
    unknown: str
    prefix: str
    longest_word: int

    def encode(self, text: str) -> Iterator[int]:
        for word in bert_words(self.normalizer(text)):
            yield from self.pieces(word)

    def pieces(self, word: str) -> list[int]:
        """Ids of one word; never more lookups than `longest_word` squared."""
        found: list[int] = []
        start, unknown = 0, [self.vocabulary[self.unknown]]
        if len(word) > self.longest_word:
            return unknown
        while start < len(word):
            lead = self.prefix if start else ""
            for end in range(len(word), start, -1):
                piece = self.vocabulary.get(lead + word[start:end])
                if piece is not None:
                    found.append(piece)
                    start = end
                    break
            else:
                return unknown
        return found

    def text_of(self, token: str, *, first: bool) -> str:
        """What a token adds to the decoded text."""
        if not first:
            token = token.removeprefix(self.prefix) if token.startswith(self.prefix) else f" {token}"
        for spaced, joined in _CLEAN_UP:
            token = token.replace(spaced, joined)
        return token


def _is_cjk(char: str) -> bool:
    code = ord(char)
    return code >= _CJK[0][0] and any(first <= code <= last for first, last in _CJK)
