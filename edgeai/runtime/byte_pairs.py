"""Text to tokens as GPT-2 does it: split into words, then merge bytes pair by pair.

Byte-pair encoding: Sennrich et al., 2016, arXiv:1508.07909; over bytes: Radford et al., 2019, "Language Models are
Unsupervised Multitask Learners".
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgeai.runtime import characters

# The published pattern with \p{L} and \p{N} cut down to ASCII: the text is mapped to one ASCII stand-in a character.
_WORD = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)  # fmt: skip
_CACHED_WORDS = 8192
_GONE = -1


def _printable_bytes() -> dict[int, str]:
    """GPT-2 writes a byte as a character: itself where that is visible, otherwise one from U+0100 up."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in visible)
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


BYTE_CHARACTERS = _printable_bytes()
_BYTES = {char: byte for byte, char in BYTE_CHARACTERS.items()}


def gpt2_words(text: str) -> Iterator[str]:
    """Contractions, letters, numbers, the rest, and white space; a word keeps the one space before it."""
    shadow = text if text.isascii() else "".join(map(_stand_in, text))
    for match in _WORD.finditer(shadow):
        yield text[match.start() : match.end()]


def _stand_in(char: str) -> str:
    if char.isascii():
        return char
    if characters.is_letter(char):
        return "L"
    if characters.is_number(char):
        return "0"
    return "\t" if characters.is_white_space(char) else "!"


@dataclass(frozen=True)
class BytePairs:
    """`merges` maps a pair of ids to (rank, id of the two together); the lowest rank is merged first."""

    vocabulary: Mapping[str, int]
    merges: Mapping[tuple[int, int], tuple[int, int]]
    cache: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def encode(self, text: str) -> Iterator[int]:
        for word in gpt2_words(text):
            known = self.cache.get(word)
            if known is None:
                known = tuple(self.merged(word))
                if len(self.cache) < _CACHED_WORDS:
                    self.cache[word] = known
            yield from known

    def merged(self, word: str) -> list[int]:
        """Ids of one word. A heap of candidate merges keeps a word of n bytes at O(n log n)."""
        ids = [self.vocabulary[BYTE_CHARACTERS[byte]] for byte in word.encode()]
        after, before = list(range(1, len(ids) + 1)), list(range(-1, len(ids) - 1))
        queue: list[tuple[int, int, int, int, int]] = []  # rank, place, and what was there

        def propose(left: int) -> None:
            right = after[left]
            if right < len(ids) and (merge := self.merges.get((ids[left], ids[right]))):
                heapq.heappush(queue, (merge[0], left, merge[1], ids[left], ids[right]))

        for left in range(len(ids) - 1):
            propose(left)
        while queue:
            _, left, together, first, second = heapq.heappop(queue)
            right = after[left]
            if ids[left] != first or right >= len(ids) or ids[right] != second:
                continue  # one of the two was merged elsewhere meanwhile
            ids[left], ids[right] = together, _GONE
            after[left] = after[right]
            if after[left] < len(ids):
                before[after[left]] = left
            propose(left)
            if before[left] >= 0:
                propose(before[left])
        return [token for token in ids if token != _GONE]


def token_bytes(token: str) -> bytes:
    """The bytes that a token stands for; one that is not written in byte characters stands for its own text."""
    try:
        return bytes(_BYTES[char] for char in token)
    except KeyError:
        return token.encode()
