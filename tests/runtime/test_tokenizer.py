"""Ids and text equal to the `tokenizers` library's, and a refusal by name of everything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeai.errors import EdgeAIError, InputError, ModelFormatError
from edgeai.runtime.tokenizer import Tokenizer

CORPUS = [
    "hello world the cat sat on the mat, it's déjà vu! don't stop",
    "In the beginning God created 1234 heavens & earth.",
    "naïve café Ünïcode 日本語 текст здесь can't won't they'll I've we're",
] * 3

# Assigned code points only: two marks younger than the library's Unicode 12 may be reordered differently by Python's
# normalization, and this Python does not know what a code point assigned after its own Unicode will be.
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=12),
        st.text(st.characters(max_codepoint=0x5FF), max_size=12),
        st.sampled_from(
            [
                "hello",
                " the",
                "cat",
                "'ll",
                "n't",
                "  ",
                "\n",
                "\t\r",
                "[CLS]",
                "[MASK]",
                "<|endoftext|>",
                "İ",
                "ß",
                "日",
            ]
        ),
    ),
    max_size=8,
).map("".join)


def train_wordpiece(**normalizer: Any) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def train_bpe() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


NORMALIZERS = (
    {"lowercase": True},
    {"lowercase": False},
    {"lowercase": False, "strip_accents": True},
    {"lowercase": True, "strip_accents": False, "clean_text": False, "handle_chinese_chars": False},
)
KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    **{f"wordpiece-{i}": (lambda options=options: train_wordpiece(**options)) for i, options in enumerate(NORMALIZERS)},
    "bpe": train_bpe,
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """The library's tokenizer, and ours read from its file."""
    theirs = KINDS[request.param]()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    theirs.save(str(path))
    return theirs, Tokenizer.load(path)


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, Any]]:
    return {"wordpiece": json.loads(train_wordpiece().to_str()), "bpe": json.loads(train_bpe().to_str())}


def load(data: Any, directory: Path) -> Tokenizer:
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(data))
    return Tokenizer.load(path)


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_encode_and_decode_equal_the_library(pair: tuple[Any, Tokenizer], text: str) -> None:
    theirs, ours = pair
    encoded = theirs.encode(text).ids
    assert ours.encode(text) == encoded
    assert ours.decode(encoded) == theirs.decode(encoded)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_ids_decode_as_the_library_does_and_in_whole_characters(pair: tuple[Any, Tokenizer], data: Any) -> None:
    theirs, ours = pair
    ids = data.draw(st.lists(st.integers(0, theirs.get_vocab_size() - 1), max_size=12))
    stream = ours.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == ours.decode(ids) == theirs.decode(ids)


@given(first=TEXT, second=TEXT, length=st.integers(3, 20))
@settings(max_examples=100, deadline=None)
def test_pairs_and_truncation_equal_the_library(
    pair: tuple[Any, Tokenizer], first: str, second: str, length: int
) -> None:
    theirs, ours = pair
    theirs.enable_truncation(length)
    try:
        one, two = theirs.encode(first), theirs.encode(first, second)
    finally:
        theirs.no_truncation()
    assert list(ours.encode_pair(first, max_length=length).ids) == one.ids
    both = ours.encode_pair(first, second, max_length=length)
    assert (list(both.ids), list(both.type_ids)) == (two.ids, two.type_ids)


def test_a_character_of_several_tokens_comes_whole(byte_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(byte_tokenizer)
    ids = tokenizer.encode("a日é")
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == ["a", "", "", "日", "", "é"]
    assert stream.push("日".encode()[0]) == ""
    assert stream.flush() == "\ufffd"


def test_a_long_word_takes_no_quadratic_time(byte_tokenizer: Path) -> None:
    # 200,000 merges in one word: a scan for each would not end
    assert Tokenizer.load(byte_tokenizer).encode("th" * 200_000) == [256] * 200_000


def test_merges_written_as_text_are_the_same(files: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    data = copy.deepcopy(files["bpe"])
    expected = load(data, tmp_path).encode(CORPUS[0])
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    data["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    assert load(data, tmp_path).encode(CORPUS[0]) == expected


def test_token_to_id_and_length(pair: tuple[Any, Tokenizer]) -> None:
    theirs, ours = pair
    assert len(ours) == theirs.get_vocab_size()
    assert all(ours.token_to_id(token) == index for token, index in theirs.get_vocab().items())
    assert ours.token_to_id("no such token") is None


@pytest.mark.parametrize(
    ("kind", "place", "value", "component"),
    [
        ("bpe", "normalizer", {"type": "NFKC"}, "normalizer"),
        ("bpe", "model.dropout", 0.1, "model.dropout = 0.1"),
        ("bpe", "model.byte_fallback", True, "model.byte_fallback"),
        ("bpe", "model.ignore_merges", True, "model.ignore_merges"),
        ("bpe", "model.fuse_unk", 0, "model.fuse_unk = 0"),
        ("bpe", "model.type", "Unigram", "model Unigram"),
        ("bpe", "model.shiny", 1, "model BPE.shiny"),
        ("bpe", "pre_tokenizer.add_prefix_space", True, "add_prefix_space = true"),
        ("bpe", "pre_tokenizer.use_regex", False, "use_regex = false"),
        ("bpe", "pre_tokenizer", {"type": "Metaspace"}, "pre_tokenizer Metaspace"),
        ("bpe", "decoder", None, "decoder None"),
        ("bpe", "post_processor", {"type": "RobertaProcessing"}, "post_processor RobertaProcessing"),
        ("bpe", "padding", {"strategy": "BatchLongest"}, "padding"),
        ("bpe", "extra", 1, "extra"),
        ("wordpiece", "truncation", {"max_length": 5}, "truncation"),
        ("wordpiece", "normalizer.type", "Sequence", "normalizer Sequence"),
        ("wordpiece", "normalizer.lowercase", 1, "normalizer.lowercase = 1"),
        ("wordpiece", "decoder.cleanup", False, "decoder.cleanup"),
        ("wordpiece", "decoder.prefix", "@@", "decoder.prefix"),
        ("wordpiece", "added_tokens.0.lstrip", True, "[PAD] lstrip"),
        ("wordpiece", "added_tokens.0.normalized", True, "[PAD] normalized"),
        ("wordpiece", "post_processor.single", [{"Sequence": {"id": "B", "type_id": 0}}], "post_processor.single"),
        ("wordpiece", "post_processor.single", [{"Odd": {"id": "A", "type_id": 0}}], "post_processor item Odd"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    files: dict[str, dict[str, Any]], tmp_path: Path, kind: str, place: str, value: Any, component: str
) -> None:
    data = copy.deepcopy(files[kind])
    *way, last = place.split(".")
    inner: Any = data
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = value
    with pytest.raises(ModelFormatError, match="is not implemented") as refusal:
        load(data, tmp_path)
    assert component in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("bpe", lambda d: d.pop("model"), "no 'model'"),
        ("bpe", lambda d: d["model"]["vocab"].pop("Ġ"), "lacks 1 of the 256 bytes"),
        ("bpe", lambda d: d["model"]["merges"].append(["zzz", "y"]), "no 'zzzy'"),
        ("bpe", lambda d: d["model"]["vocab"].update(a="b"), "does not map tokens to ids"),
        ("bpe", lambda d: d["added_tokens"][0].update(content=""), "a token without content"),
        ("wordpiece", lambda d: d["model"].update(unk_token="[NO]"), "unknown token is not in the vocabulary"),
        ("wordpiece", lambda d: d["post_processor"]["special_tokens"]["[CLS]"].update(ids=["x"]), "not integers"),
        ("wordpiece", lambda d: d.update(model=[]), "not a valid tokenizer.json"),
    ],
)
def test_a_malformed_file_is_refused_with_its_reason(
    files: dict[str, dict[str, Any]], tmp_path: Path, kind: str, change: Callable[[Any], Any], reason: str
) -> None:
    data = copy.deepcopy(files[kind])
    change(data)
    with pytest.raises(ModelFormatError, match=reason):
        load(data, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"t\.json: not a"):
        Tokenizer.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"no\.json: cannot be read"):
        Tokenizer.load(tmp_path / "no.json")


@given(data=st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
@settings(max_examples=60, deadline=None)
def test_no_json_gives_a_traceback(
    files: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    for kind, part in (("bpe", "model"), ("bpe", "pre_tokenizer"), ("wordpiece", "post_processor")):
        changed = {**files[kind], part: data}
        try:
            load(changed, tmp_path_factory.getbasetemp())
        except EdgeAIError as error:
            assert isinstance(error, ModelFormatError)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda t: t.encode("a\ud800b"), "lone surrogate at character 1"),
        (lambda t: t.encode(b"bytes"), "expected text, got bytes"),
        (lambda t: t.decode([99999]), "token id 99999 is not in the vocabulary"),
        (lambda t: t.decode([-1]), "token id -1 is not in the vocabulary"),
    ],
)
def test_what_cannot_be_encoded_is_explained(
    byte_tokenizer: Path, call: Callable[[Tokenizer], Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        call(Tokenizer.load(byte_tokenizer))


def test_a_length_without_room_for_the_template_is_refused(files: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_length 1 has no room for the special tokens"):
        load(files["wordpiece"], tmp_path).encode_pair("a", max_length=1)
