"""Small real models, tokenizers and bundles for the runtime's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeai.artifact import Artifact, Step
from edgeai.bundle import Golden
from edgeai.samples import Samples
from edgeai.spec import Signature

from .decoders import Engines, Plain

DOUBLE = "d (float[batch,3] x) => (float[batch,3] y) <float two = {2}> { y = Mul(x, two) }"

Write = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path) -> Write:
    """onnx.parser text of a graph -> an ONNX file, stamped with `signature` and one step if given."""

    def write(text: str, name: str = "model.onnx", signature: Signature | None = None) -> Path:
        parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        path = tmp_path / name
        if signature is not None:
            stamp = Artifact(path, (Step("test", {"k": 1}, {"v": "2"}),), signature).metadata()
            helper.set_model_props(parsed, stamp)
        onnx.save(parsed, path)
        return path

    return write


@pytest.fixture
def golden_double() -> Golden:
    """Golden vectors of DOUBLE."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    return Golden(Samples.from_rows({"x": x}), Samples.from_rows({"y": 2 * x}), tolerance=1e-4)


def decoder_weights(vocabulary: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    table = random.normal(size=(vocabulary, width)).astype(np.float32)
    return table, random.normal(size=(width, vocabulary)).astype(np.float32)


def write_decoder(path: Path, vocabulary: int = 16, width: int = 4) -> Path:
    """One attention layer over token embeddings, with a KV cache in the layout of `edgeai.runtime.generation`."""
    table, head = decoder_weights(vocabulary, width)
    past = [f"past_key_values.0.{kind}" for kind in ("key", "value")]
    present = [f"present.0.{kind}" for kind in ("key", "value")]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("Unsqueeze", ["x", "one"], ["x4"]),
        *(helper.make_node("Concat", [a, "x4"], [b], axis=2) for a, b in zip(past, present, strict=True)),
        helper.make_node("Transpose", [present[0]], ["keys"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x4", "keys"], ["scores"]),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "middle"], ["seen4"]),
        helper.make_node("Sub", ["seen4", "seen_one"], ["unseen"]),
        helper.make_node("Mul", ["unseen", "far"], ["bias"]),
        helper.make_node("Add", ["scores", "bias"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", present[1]], ["mixed"]),
        helper.make_node("Squeeze", ["mixed", "one"], ["mixed3"]),
        helper.make_node("MatMul", ["mixed3", "head"], ["logits"]),
    ]
    weights = {"table": table, "head": head, "one": np.array([1]), "middle": np.array([1, 2])}
    weights |= {"seen_one": np.array(1, np.float32), "far": np.array(1e9, np.float32)}
    cache = ["batch", 1, "past", width]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in past),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "seq", vocabulary]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "total", width]) for name in present),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def decoder_logits(ids: list[int], vocabulary: int = 16, width: int = 4) -> np.ndarray:
    """What `write_decoder` computes for the last of `ids`, all at once and without a cache: (vocabulary,)."""
    table, head = decoder_weights(vocabulary, width)
    x = table[ids]
    scores = x[-1] @ x.T
    weights = np.exp(scores - scores.max())
    return (weights / weights.sum()) @ x @ head


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A decoder over the ids of `byte_tokenizer`, with a KV cache."""
    return write_decoder(tmp_path / "decoder.onnx", vocabulary=258)


@pytest.fixture
def next_logits() -> Callable[[list[int]], np.ndarray]:
    """What `decoder` computes for the last of some ids, all at once and without a cache: (258,)."""
    return lambda ids: decoder_logits(ids, vocabulary=258)


@pytest.fixture
def double(model: Write) -> Path:
    """A model: y = 2 x, float32 (batch, 3)."""
    return model(DOUBLE)


@pytest.fixture
def byte_tokenizer(tmp_path: Path) -> Path:
    """A byte-level BPE tokenizer.json: 256 bytes, one merge, one end token; 258 ids."""
    from edgeai.runtime.byte_pairs import BYTE_CHARACTERS

    vocabulary = {char: byte for byte, char in BYTE_CHARACTERS.items()} | {"th": 256}
    end = {"id": 257, "content": "<|endoftext|>", "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    path = tmp_path / "tokenizer.json"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["t", "h"]]}
    path.write_text(json.dumps({"added_tokens": [end], "pre_tokenizer": level, "decoder": level, "model": model}))
    return path


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """An untrained GPT of 512 tokens and 32 positions, once for each way to keep its cache."""
    from edgeai.exporting import export, resolve
    from edgeai.graph import share_cache
    from edgeai.runtime.session import Session

    directory = tmp_path_factory.mktemp("gpt")
    artifact = export(resolve("gpt:tiny"), out=directory / "gpt.onnx")
    shared = share_cache(artifact, out=directory / "shared.onnx")
    with Session(artifact.path, ep="cpu") as session, Session(shared.path, ep="cpu") as in_place:
        yield {"handed": Plain(session), "swapping": session, "in place": in_place}
