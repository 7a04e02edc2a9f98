"""Make the graph say the same with less. One pass a file; each result is proven or rolled back."""

from edgeai.graph.clean_up import CleanUp
from edgeai.graph.drop_nan_guard import DropNaNGuard
from edgeai.graph.flatten_attention import FlattenAttention
from edgeai.graph.fold_batch_norm import FoldBatchNorm
from edgeai.graph.fold_transposed_weight import FoldTransposedWeight
from edgeai.graph.forms import DEFAULT_FORMS, DEFAULT_PASSES, FORMS, NARROW_FORMS, TARGETS, Form
from edgeai.graph.fuse_attention import FuseAttention
from edgeai.graph.fuse_gelu import FuseGelu
from edgeai.graph.fuse_group_query_attention import FuseGroupQueryAttention
from edgeai.graph.fuse_layer_norm import FuseLayerNorm
from edgeai.graph.keep_logits import KeepLogits
from edgeai.graph.optimizing import optimize
from edgeai.graph.pack_qkv import PackQKV
from edgeai.graph.raise_opset import RaiseOpset
from edgeai.graph.separate_qkv import SeparateQKV
from edgeai.graph.share_cache import share_cache
from edgeai.graph.specializing import specialize
from edgeai.graph.split_heads import SplitHeads

__all__ = [
    "DEFAULT_FORMS",
    "DEFAULT_PASSES",
    "FORMS",
    "NARROW_FORMS",
    "TARGETS",
    "CleanUp",
    "DropNaNGuard",
    "FlattenAttention",
    "FoldBatchNorm",
    "FoldTransposedWeight",
    "Form",
    "FuseAttention",
    "FuseGelu",
    "FuseGroupQueryAttention",
    "FuseLayerNorm",
    "KeepLogits",
    "PackQKV",
    "RaiseOpset",
    "SeparateQKV",
    "SplitHeads",
    "optimize",
    "share_cache",
    "specialize",
]
