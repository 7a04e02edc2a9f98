"""llama.cpp through llama-cpp-python: a GPT-2 as GGUF, in float and at 8 and 4 bits.

Through the C functions, not the class `Llama`, whose copies of the logits would be timed too. One token of the prompt
is answered for, the last: that is what llama.cpp does when it generates.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from protocol import Feed, Feeds, Run, serve

_NAMES = {
    "token.weight": "token_embd.weight",
    "position.weight": "position_embd.weight",
    "norm.weight": "output_norm.weight",
    "norm.bias": "output_norm.bias",
}
_PARTS = {
    "attention.qkv": "attn_qkv",
    "attention.out": "attn_output",
    "attention_norm": "attn_norm",
    "feed_forward.0": "ffn_up",
    "feed_forward.2": "ffn_down",
    "feed_forward_norm": "ffn_norm",
}


def to_gguf(source: Path, out: Path, calibration: Feeds, *, heads: int) -> None:  # noqa: ARG001
    """`source`: an `.npz` of a GPT-2's float32 weights by their PyTorch names; the head is the embedding."""
    with np.load(source) as weights:
        layers = 1 + max(int(name.split(".")[1]) for name in weights.files if name.startswith("blocks."))
        vocabulary, width = weights["token.weight"].shape
        writer = gguf.GGUFWriter(out, "gpt2")
        writer.add_vocab_size(vocabulary)
        writer.add_context_length(len(weights["position.weight"]))
        writer.add_embedding_length(width)
        writer.add_feed_forward_length(4 * width)
        writer.add_block_count(layers)
        writer.add_head_count(heads)
        writer.add_layer_norm_eps(1e-5)
        writer.add_file_type(llama_cpp.LLAMA_FTYPE_ALL_F32)
        writer.add_tokenizer_model("no_vocab")
        for name in weights.files:
            writer.add_tensor(_renamed(name), weights[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _renamed(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    _, layer, rest = name.split(".", 2)
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_PARTS[part]}.{kind}"


def quantized(source: Path, out: Path, calibration: Feeds, *, heads: int, kind: str) -> None:
    """`kind` as llama.cpp calls it: Q4_0, Q8_0. Its own mixture: some tensors get more bits."""
    full = out.with_suffix(".f32.gguf")
    to_gguf(source, full, calibration, heads=heads)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    failed = llama_cpp.llama_model_quantize(str(full).encode(), str(out).encode(), ctypes.byref(options))
    full.unlink()
    if failed:
        raise RuntimeError(f"llama_model_quantize to {kind} returned {failed}")


def opened(source: Path, *, prompt: Sequence[int] = ()) -> Run:
    """Answer `input_ids` (1, S) that follow `prompt`, which is in the cache already."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(source).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp does not load {source.name}")
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = 1024
    settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
    context = llama_cpp.llama_init_from_model(model, settings)
    memory = llama_cpp.llama_get_memory(context)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def decode(tokens: Sequence[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if failed := llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError(f"llama_decode returned {failed}")

    if prompt:
        decode(prompt)

    def run(feed: Feed) -> np.ndarray:
        llama_cpp.llama_memory_seq_rm(memory, 0, len(prompt), -1)
        decode(feed["input_ids"][0].tolist())
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(vocabulary,))

    return run


if __name__ == "__main__":
    serve(
        recipes={"gguf": to_gguf, "quantized": quantized},
        forms={"opened": opened},
        packages=("llama-cpp-python", "gguf", "numpy"),
    )
