"""The int8 recipe that an execution provider has integer kernels for, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping

from edgeai.errors import QuantizationError, UsageError
from edgeai.quantization.int8_static import Int8Static

# Integer embeddings are ONNX Runtime's own operator: another provider would leave them to the CPU.
_RECIPES: Mapping[str, Int8Static] = {
    "cpu": Int8Static(),
    "openvino": Int8Static(reduce_range=False, embeddings=False),  # its kernels do not clamp
    # int8 on both sides with zero points of 0, no integer biases (docs.nvidia.com, "Working with Quantized Types");
    # since TensorRT 11 no flag changes the precision that stands in the graph.
    "tensorrt": Int8Static(
        activation_type="int8", symmetric_activations=True, float_biases=True, reduce_range=False, embeddings=False
    ),
}
_REFUSED: Mapping[str, str] = {
    "cuda": "the CUDA provider has no int8 products: it would dequantize both sides and multiply in float",
}


def int8_for(provider: str) -> Int8Static:
    """The static recipe for "cpu", "openvino" or "tensorrt"; change its other options with `dataclasses.replace`.

    Raises QuantizationError with the reason for a provider without int8 products, UsageError for an unknown one.
    """
    if provider in _REFUSED:
        raise QuantizationError(f"int8 for {provider}: {_REFUSED[provider]}", hint="use fp16 or bf16")
    if provider not in _RECIPES:
        raise UsageError(f"no int8 recipe for provider {provider!r}", hint=f"one of {', '.join(_RECIPES)}")
    return _RECIPES[provider]
