"""Tokenizers trained on the data at hand, in plain settings that a small reader on the device can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeai.errors import DataError
from edgeai.spec import Array
from edgeai.storage import atomic_file

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END_OF_TEXT = "<|endoftext|>"
CONTINUED = 0xF0000  # a private plane of Unicode

Train = Callable[[Iterable[str], int], Tokenizer]


def train_wordpiece(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Lower-casing WordPiece as in BERT (Wu et al., 2016, arXiv:1609.08144), its pieces found by merging pairs.

    The library's own WordPiece trainer breaks ties by hash order, so two runs would give two vocabularies. Here
    the continuing letters of a word move to a private plane of Unicode, and the byte-pair trainer, which is
    repeatable, finds the pieces.
    """
    normalizer, words = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()

    def marked(text: str) -> str:
        found = (word for word, _ in words.pre_tokenize_str(normalizer.normalize_str(text)))
        return " ".join(word[0] + "".join(chr(ord(letter) + CONTINUED) for letter in word[1:]) for word in found)

    def piece(token: str) -> str:
        letters = "".join(chr(ord(letter) % CONTINUED) for letter in token)
        return letters if ord(token[0]) < CONTINUED else "##" + letters

    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - len(SPECIAL_TOKENS), show_progress=False)
    pairs.train_from_iterator(map(marked, texts), trainer)
    pieces = [piece(token) for token, _ in sorted(pairs.get_vocab().items(), key=lambda item: item[1])]

    vocab = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, words
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return tokenizer


def train_byte_pairs(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE as in GPT-2 (Sennrich et al., 2016, arXiv:1508.07909)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def cached_tokenizer(path: Path, train: Train, texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """The tokenizer saved at `path`, or a new one trained on `texts` and saved there."""
    if not path.exists():
        with atomic_file(path) as temporary:
            train(texts, vocabulary).save(str(temporary))
    tokenizer = Tokenizer.from_file(str(path))
    if tokenizer.get_vocab_size() > vocabulary:
        raise DataError(f"{path} has {tokenizer.get_vocab_size()} tokens, the model has room for {vocabulary}")
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Any, length: int) -> dict[str, Array]:
    """`input_ids`, `attention_mask` and `token_type_ids`, each int64 (N, length), of texts or pairs of texts.

    What is too long loses its end, but keeps a closing [SEP].
    """
    encodings = tokenizer.encode_batch(texts)
    shape = (len(encodings), length)
    rows = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for row, encoding in enumerate(encodings):
        used = min(len(encoding.ids), length)
        rows["input_ids"][row, :used] = encoding.ids[: used - 1] + encoding.ids[-1:]
        rows["attention_mask"][row, :used] = 1
        rows["token_type_ids"][row, :used] = encoding.type_ids[:used]
    return rows
