"""Text to token ids and back, from a Hugging Face `tokenizer.json`, with the standard library alone.

Two kinds are read: WordPiece as in BERT, and byte-level BPE as in GPT-2, with special tokens and a template around
the text. A file that asks for anything else is refused by name: ids are the `tokenizers` library's own or none.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgeai.errors import InputError, ModelFormatError
from edgeai.runtime.byte_pairs import BYTE_CHARACTERS, BytePairs, token_bytes
from edgeai.runtime.wordpiece import BertNormalizer, WordPiece

_PARTS = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
          "decoder", "model")  # fmt: skip
_LARGEST_BYTES = 256 << 20


@dataclass(frozen=True)
class Encoding:
    """Token ids, and for each the segment (0, or 1 in the second text of a pair) it stands in."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]


@dataclass(frozen=True)
class _Template:
    """Items are (segment, special ids); in `single` and `pair` no ids stand for the next text."""

    single: tuple[tuple[int, tuple[int, ...]], ...]
    pair: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Tokenizer:
    """Use `Tokenizer.load`."""

    model: WordPiece | BytePairs
    tokens: Mapping[str, int]
    special: frozenset[int]
    added: re.Pattern[str] | None
    template: _Template
    names: Mapping[int, str]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a `tokenizer.json`. Raises ModelFormatError naming the component that is not implemented."""
        try:
            if Path(path).stat().st_size > _LARGEST_BYTES:
                raise ModelFormatError(f"{path}: larger than {_LARGEST_BYTES >> 20} MiB, not a tokenizer.json")
            data = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise ModelFormatError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise ModelFormatError(f"{path}: not a tokenizer.json ({error})") from error
        try:
            return cls._of(data)
        except _NotReadError as refusal:
            hint = "use a WordPiece (BERT) or byte-level BPE (GPT-2) tokenizer with plain settings"
            raise ModelFormatError(f"{path}: {refusal} is not implemented", hint=hint) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ModelFormatError(f"{path}: not a valid tokenizer.json ({reason})") from error

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Self:
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        for name in ("truncation", "padding"):
            _expect(name, data.get(name), None)
        for name in sorted(data.keys() - set(_PARTS)):
            raise _NotReadError(name)
        vocabulary = _vocabulary(data["model"])
        model: WordPiece | BytePairs
        match data["model"].get("type"):
            case "WordPiece":
                model = _wordpiece(data, vocabulary)
            case "BPE":
                model = _byte_pairs(data, vocabulary)
            case other:
                raise _NotReadError(f"model {other}")
        added = [_added(token) for token in data.get("added_tokens") or ()]
        tokens = vocabulary | {content: index for content, index, _ in added}
        names = {index: token for token, index in vocabulary.items()} | {index: content for content, index, _ in added}
        # Longest first: an alternation takes the first that fits.
        contents = sorted((content for content, _, _ in added), key=len, reverse=True)
        return cls(
            model,
            tokens,
            frozenset(index for _, index, special in added if special),
            re.compile("|".join(map(re.escape, contents))) if contents else None,
            _template(data.get("post_processor")),
            names,
        )

    def __len__(self) -> int:
        return len(self.names)

    def token_to_id(self, token: str) -> int | None:
        return self.tokens.get(token)

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens that the template adds. Raises InputError for a lone surrogate."""
        return list(self.encode_pair(text).ids)

    def encode_pair(self, text: str, pair: str | None = None, *, max_length: int | None = None) -> Encoding:
        """Ids of one text or two; the longer one is cut first, at its end, until all fit `max_length`."""
        texts = [self._plain(text)] if pair is None else [self._plain(text), self._plain(pair)]
        template = self.template.single if pair is None else self.template.pair
        if max_length is not None:
            room = max_length - sum(len(special) for _, special in template)
            if room < 0:
                raise InputError(f"max_length {max_length} has no room for the special tokens")
            texts = _truncated(texts, room)
        parts = iter(texts)
        ids, type_ids = list[int](), list[int]()
        for segment, special in template:
            part = special or tuple(next(parts))
            ids.extend(part)
            type_ids.extend([segment] * len(part))
        return Encoding(tuple(ids), tuple(type_ids))

    def _plain(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise InputError(f"expected text, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text has a lone surrogate at character {error.start}") from None
        ids, end = list[int](), 0
        for match in self.added.finditer(text) if self.added else ():
            ids.extend(self.model.encode(text[end : match.start()]))
            ids.append(self.tokens[match.group()])
            end = match.end()
        ids.extend(self.model.encode(text[end:]))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens; broken UTF-8 becomes U+FFFD. Raises InputError for a foreign id."""
        stream = self.stream()
        return "".join([stream.push(token) for token in ids]) + stream.flush()

    def stream(self) -> Stream:
        """For decoding token by token; the pieces joined are what `decode` gives for all."""
        return Stream(self)


class Stream:
    """Holds back the bytes of a character until the character is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first = True

    def push(self, token: int) -> str:
        """The text that is certain now that `token` has come; often empty."""
        tokenizer = self._tokenizer
        name = tokenizer.names.get(int(token))
        if name is None:
            raise InputError(f"token id {token} is not in the vocabulary of {len(tokenizer)} tokens")
        if int(token) in tokenizer.special:
            return ""
        first, self._first = self._first, False
        if isinstance(tokenizer.model, WordPiece):
            return tokenizer.model.text_of(name, first=first)
        return self._bytes.decode(token_bytes(name))

    def flush(self) -> str:
        """What is left when no more tokens come."""
        return self._bytes.decode(b"", final=True)


class _NotReadError(Exception):
    pass


def _expect(what: str, value: object, *accepted: object) -> None:
    # `1 == True` must not pass for a setting
    if not any(value == one and type(value) is type(one) for one in accepted):
        raise _NotReadError(f"{what} = {json.dumps(value)[:60]}")


def _component(data: Mapping[str, Any], name: str, kind: str, options: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """The part of the file called `name`, if it is of this kind and has no option beyond these."""
    component = data.get(name) or {"type": None}
    if component.get("type") != kind:
        raise _NotReadError(f"{name} {component.get('type')}")
    for option in sorted(component.keys() - {"type", *options}):
        raise _NotReadError(f"{name} {kind}.{option}")
    return component


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, dict) or not all(type(index) is int and index >= 0 for index in vocabulary.values()):
        raise ValueError("model.vocab does not map tokens to ids")
    return vocabulary


def _wordpiece(data: Mapping[str, Any], vocabulary: dict[str, int]) -> WordPiece:
    options = ("vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word")
    model = _component(data, "model", "WordPiece", options)
    settings = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    normalizer = _component(data, "normalizer", "BertNormalizer", settings)
    for setting in settings:
        _expect(
            f"normalizer.{setting}",
            normalizer[setting],
            True,
            False,
            *([None] * (setting == "strip_accents")),
        )
    _component(data, "pre_tokenizer", "BertPreTokenizer")
    decoder = _component(data, "decoder", "WordPiece", ("prefix", "cleanup"))
    prefix, unknown, longest = (model[option] for option in options[2:0:-1] + options[3:])
    _expect("decoder.prefix", decoder["prefix"], prefix)
    _expect("decoder.cleanup", decoder["cleanup"], True)
    if not isinstance(prefix, str) or unknown not in vocabulary or type(longest) is not int:
        raise ValueError("model: the unknown token is not in the vocabulary, or a setting has the wrong type")
    return WordPiece(
        vocabulary, BertNormalizer(*(normalizer[setting] for setting in settings)), unknown, prefix, longest
    )


def _byte_pairs(data: Mapping[str, Any], vocabulary: dict[str, int]) -> BytePairs:
    plain: dict[str, tuple[object, ...]] = {
        "dropout": (None,),
        "unk_token": (None,),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "fuse_unk": (False,),
        "byte_fallback": (False,),
        "ignore_merges": (False,),
    }
    model = _component(data, "model", "BPE", ("vocab", "merges", *plain))
    for option, accepted in plain.items():
        _expect(f"model.{option}", model.get(option, accepted[0]), *accepted)
    _expect("normalizer", data.get("normalizer"), None)
    splitter = _component(data, "pre_tokenizer", "ByteLevel", ("add_prefix_space", "trim_offsets", "use_regex"))
    _expect("pre_tokenizer.add_prefix_space", splitter["add_prefix_space"], False)
    _expect("pre_tokenizer.use_regex", splitter.get("use_regex", True), True)
    _component(data, "decoder", "ByteLevel", ("add_prefix_space", "trim_offsets", "use_regex"))
    if missing := [byte for byte, char in BYTE_CHARACTERS.items() if char not in vocabulary]:
        raise ValueError(f"model.vocab lacks {len(missing)} of the 256 bytes")
    merges = dict[tuple[int, int], tuple[int, int]]()
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges[vocabulary[left], vocabulary[right]] = (rank, vocabulary[left + right])
    return BytePairs(vocabulary, merges)


def _added(token: Mapping[str, Any]) -> tuple[str, int, bool]:
    content, index = token["content"], token["id"]
    if not isinstance(content, str) or not content or type(index) is not int or index < 0:
        raise ValueError("added_tokens: a token without content or id")
    for option in ("single_word", "lstrip", "rstrip", "normalized"):
        _expect(f"added_tokens {content} {option}", token[option], False)
    return content, index, bool(token["special"])


def _template(post_processor: Mapping[str, Any] | None) -> _Template:
    nothing = ((0, ()),), ((0, ()), (1, ()))
    if post_processor is None or post_processor.get("type") == "ByteLevel":  # which only moves offsets
        return _Template(*nothing)
    data = {"post_processor": post_processor}
    processor = _component(data, "post_processor", "TemplateProcessing", ("single", "pair", "special_tokens"))

    def items(name: str, texts: list[str]) -> tuple[tuple[int, tuple[int, ...]], ...]:
        found, seen = list[tuple[int, tuple[int, ...]]](), list[str]()
        for item in processor[name]:
            (kind, value), *more = item.items()
            if more or kind not in ("SpecialToken", "Sequence"):
                raise _NotReadError(f"post_processor item {kind}")
            ids = tuple(processor["special_tokens"][value["id"]]["ids"]) if kind == "SpecialToken" else ()
            if kind == "Sequence":
                seen.append(value["id"])
            if not all(type(index) is int for index in (value["type_id"], *ids)) or (kind != "Sequence" and not ids):
                raise ValueError(f"post_processor.{name}: ids are not integers")
            found.append((value["type_id"], ids))
        if seen != texts:
            raise _NotReadError(f"post_processor.{name} with texts in the order {seen}")
        return tuple(found)

    return _Template(items("single", ["A"]), items("pair", ["A", "B"]))


def _truncated(texts: list[list[int]], room: int) -> list[list[int]]:
    """Cut the longer of two texts to what the shorter leaves, or both to half (`longest_first` of the library)."""
    if len(texts) == 1:
        return [texts[0][:room]]
    short, long = sorted(map(len, texts))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    first, second = (short, long) if len(texts[0]) <= len(texts[1]) else (long, short)
    return [texts[0][:first], texts[1][:second]]
