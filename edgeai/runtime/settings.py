"""How a session runs: threads, memory, graph optimization.

Every name is checked, because ONNX Runtime ignores the ones that it does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from edgeai.errors import UsageError
from edgeai.machine import usable_cores
from edgeai.runtime.options import from_mapping, nearest, refuse_below

# Keys of onnxruntime_session_options_config_keys.h (1.31) that change how a model runs, not what files are written.
_CONFIG_KEYS = """
    ep.cuda.fpa_intb_gemm
    mlas.disable_kleidiai mlas.enable_gemm_fastmath_arm64_bfloat16 mlas.qnbit.force_fp32 mlas.use_lut_gemm
    optimization.constant_folding_max_output_size_in_bytes optimization.enable_cast_chain_elimination
    optimization.enable_gelu_approximation
    session.disable_aot_function_inlining session.disable_double_qdq_remover session.disable_prepacking
    session.disable_qdq_constant_folding session.disable_quant_qdq session.dynamic_block_base
    session.enable_dq_matmulnbits_fusion session.enable_quant_qdq_cleanup session.force_spinning_stop
    session.graph_optimizations_loop_level session.inter_op.allow_spinning session.inter_op.spin_backoff_max
    session.inter_op.spin_duration_us session.intra_op.spin_backoff_max session.intra_op.spin_duration_us
    session.intra_op_thread_affinities session.prepack.enable_parallel session.qdq_matmulnbits_accuracy_level
    session.qdq_matmulnbits_block_size session.qdqisint8allowed session.set_denormal_as_zero
    session.use_deterministic_compute session.use_device_allocator_for_initializers
    session.use_memory_mapped_ort_model session.use_ort_model_bytes_directly
    session.use_ort_model_bytes_for_initializers session.x64quantprecision
"""
# Graph transformers and rewrite rules of ONNX Runtime 1.31 (graph_transformer_utils.cc).
_OPTIMIZERS = """
    AttentionFusion Avx2WeightS8ToU8Transformer BiasDropoutFusion BiasGeluFusion BiasSkipLayerNormFusion
    BiasSoftmaxFusion CastChainElimination CastElimination CommonSubexpressionElimination ConstantFolding
    ConstantSharing ConvActivationFusion ConvAddActivationFusion ConvAddFusion ConvBNFusion ConvMulFusion
    DQMatMulNBitsFusion DivMulFusion DoubleQDQPairsRemover DynamicQuantizeMatMulFusion EliminateDropout
    EliminateIdentity EliminateSlice EmbedLayerNormFusion EnsureUniqueDQForNodeUnit ExpandElimination FastGeluFusion
    FuseReluClip GatherSliceToSplitFusion GatherToSliceFusion GeluApproximation GeluFusion GeluFusionL1 GeluFusionL2
    GemmActivationFusion GemmSumFusion GemmTransposeFusion GroupQueryAttentionFusion LabelEncoderFusion
    LayerNormFusion LayerNormFusionL1 LayerNormFusionL2 MatMulActivationFusion MatMulAddFusion
    MatMulIntegerToFloatFusion MatMulNBitsFusion MatMulNBitsMlpFusion MatMulNBitsQkvFusion MatMulScaleFusion
    MatMul_BatchNormalization_Fusion MatmulTransposeFusion NchwcTransformer NhwcTransformer NoopElimination
    NotWhereFusion Pad_Fusion PreShapeNodeElimination QDQFinalCleanupTransformer QDQPropagationTransformer
    QDQS8ToU8Transformer QDQSelectorActionTransformer QuickGeluFusion ReshapeFusion SimplifiedLayerNormFusion
    SkipLayerNormFusion SliceConcatToSpaceToDepthFusion TransposeOptimizer UnsqueezeElimination WeightBiasQuantization
    WhereDummyDq
"""
CONFIG_KEYS, OPTIMIZERS = frozenset(_CONFIG_KEYS.split()), frozenset(_OPTIMIZERS.split())
Shrink = Literal["burst", "always", "never"]
NonFinite = Literal["pass", "warn", "refuse"]
_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}

# Microseconds. To wake a thread costs a small model half of its latency, so it waits for the next run of a loop; with
# ONNX Runtime's own limit it keeps a core busy between runs that are milliseconds apart (`benchmarks/overhead.py`).
_SPIN_US = "200"


@dataclass(frozen=True)
class SessionSettings:
    """`threads=None` takes all cores that this process may use: its affinity mask, cut by the cgroup's CPU quota.

    With `spinning`, threads wait busily for each other and for the next run, 0.2 ms at most, and then sleep; without it
    they sleep at once, which saves power and costs latency. `arena` keeps freed memory for the next run, and `shrink`
    says when it goes back to the system: after a burst of large inputs, after every run, or never.
    `bfloat16` lets float32 products be computed in bfloat16 where the CPU has instructions for it: on ARM by the CPU
    provider, and by OpenVINO's CPU device, which takes `threads` from here as well. Elsewhere it changes nothing.
    `huge_pages` moves the memory of the process into the large pages of Linux once the session is open: a run that
    reads many weights looks them up faster. Opening takes longer; where there are none the log says so
    (`edgeai.runtime.huge_pages`).
    `non_finite` says what happens to NaN and infinity: inputs and outputs pass as they are, are warned of, or are
    refused; the last two look at every element of every run.
    `disabled_optimizers` and `config` take ONNX Runtime's own names; `config` has the last word over the other fields.
    Raises UsageError for a name that is not known.
    """

    threads: int | None = None
    spinning: bool = True
    arena: bool = True
    graph_level: Literal["none", "basic", "extended", "layout", "all"] = "all"
    disabled_optimizers: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    shrink: Shrink = "burst"
    non_finite: NonFinite = "pass"
    bfloat16: bool = False
    huge_pages: bool = False

    def __post_init__(self) -> None:
        refuse_below("session settings: threads", 1, self.threads)
        for value, choices, what in (
            (self.graph_level, tuple(_LEVELS), "graph level"),
            (self.shrink, get_args(Shrink), "moment to shrink at"),
            (self.non_finite, get_args(NonFinite), "way with NaN and infinity"),
        ):
            if value not in choices:
                raise UsageError(f"session settings: no {what} {value!r}", hint=f"one of {', '.join(choices)}")
        for names, known, what in (
            (self.disabled_optimizers, OPTIMIZERS, "optimizer"),
            (self.config, CONFIG_KEYS, "config key"),
        ):
            for name in names:
                if name not in known:
                    raise UsageError(f"session settings: no {what} {name!r}", hint=nearest(name, known))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Raises UsageError for an unknown setting or a wrong type."""
        return from_mapping(cls, data, "session settings")

    def apply(self, ort: Any) -> Any:
        """A new `onnxruntime.SessionOptions` with these settings; log messages are off, errors are exceptions."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads or usable_cores()
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = self.arena
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[self.graph_level])
        config = {
            "session.intra_op.allow_spinning": str(int(self.spinning)),
            "session.intra_op.spin_duration_us": _SPIN_US,
            "session.record_ep_graph_assignment_info": "1",
            **({"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"} if self.bfloat16 else {}),
            **self.config,
        }
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        return options
