"""Which passes make which form of a graph, and where that form can run.

None of them is the fastest everywhere (benchmarks/graph_forms.py measures them): a target has a default that was
not measured slower than the graph as exported, and the others are there to be tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgeai.graph.clean_up import CleanUp
from edgeai.graph.drop_nan_guard import DropNaNGuard
from edgeai.graph.flatten_attention import ATTENTION_SINCE, FlattenAttention
from edgeai.graph.fold_batch_norm import FoldBatchNorm
from edgeai.graph.fold_transposed_weight import FoldTransposedWeight
from edgeai.graph.fuse_attention import FuseAttention
from edgeai.graph.fuse_gelu import FuseGelu
from edgeai.graph.fuse_group_query_attention import FuseGroupQueryAttention
from edgeai.graph.fuse_layer_norm import FuseLayerNorm
from edgeai.graph.keep_logits import KeepLogits
from edgeai.graph.pack_qkv import PackQKV
from edgeai.graph.raise_opset import RaiseOpset
from edgeai.graph.separate_qkv import SeparateQKV
from edgeai.graph.split_heads import SplitHeads
from edgeai.runtime.kv_cache import IN_PLACE

Passes = tuple[ir.passes.PassBase, ...]

# In the order in which one makes work for the next: constants first, then what looks for constants.
STANDARD_PASSES: Passes = (CleanUp(), FoldBatchNorm(), FoldTransposedWeight(), FuseLayerNorm(), FuseGelu())

# At the end goes what the fusions left lying about.
DEFAULT_PASSES: Passes = (*STANDARD_PASSES, FuseGelu(contrib=True), FuseAttention(), CleanUp())

# Where the graph will run, and whether ONNX Runtime's own (com.microsoft) operators run there.
TARGETS: Mapping[str, bool] = {
    "cpu": True,
    "cuda": True,
    "tensorrt": False,
    "openvino": False,
    "portable": False,
}


@dataclass(frozen=True)
class Form:
    """`targets` are those that run it; `about` says in a few words what it is."""

    passes: Passes
    targets: tuple[str, ...]
    about: str


FORMS: Mapping[str, Form] = {
    "portable": Form((*STANDARD_PASSES, CleanUp()), tuple(TARGETS), "standard operators of the model's own opset"),
    "mha": Form(DEFAULT_PASSES, ("cpu", "cuda"), "attention as com.microsoft.MultiHeadAttention"),
    "separate-qkv": Form(
        (*STANDARD_PASSES, FuseGelu(contrib=True), SplitHeads(), SeparateQKV(), FuseAttention(), CleanUp()),
        ("cpu", "cuda"),
        "mha, with a product each for query, key and value",
    ),
    "packed-qkv": Form(
        (*STANDARD_PASSES, FuseGelu(contrib=True), SplitHeads(), PackQKV(), FuseAttention(), CleanUp()),
        ("cpu", "cuda"),
        "mha, with one product for query, key and value",
    ),
    "attention3d": Form(
        (RaiseOpset(ATTENTION_SINCE), *STANDARD_PASSES, SplitHeads(), SeparateQKV(), FlattenAttention(), CleanUp()),
        ("cpu", "cuda"),
        "opset 23's Attention without Transposes, with a product each for query, key and value",
    ),
    "gqa": Form(
        (*STANDARD_PASSES, FuseGelu(contrib=True), SplitHeads(), FuseGroupQueryAttention(), CleanUp()),
        ("cpu", "cuda"),
        "a decoder's attention as com.microsoft.GroupQueryAttention; on the CPU for a batch of one",
    ),
    "portable-separate-qkv": Form(
        (*STANDARD_PASSES, SplitHeads(), SeparateQKV(), DropNaNGuard(), CleanUp()),
        ("openvino",),
        "portable, with a product each for query, key and value, and no guard against NaN that cannot fire",
    ),
}

# These take less than the model did, so they are made only where they are asked for by name.
NARROW_FORMS: Mapping[str, Form] = {
    IN_PLACE: Form(
        (*FORMS["gqa"].passes, KeepLogits()),
        ("cpu", "cuda"),
        "gqa with its cache written in place and logits only where they are read, for one text at a time",
    ),
}

DEFAULT_FORMS: Mapping[str, str] = {
    **{target: "mha" if contrib else "portable" for target, contrib in TARGETS.items()},
    "openvino": "portable-separate-qkv",
}
