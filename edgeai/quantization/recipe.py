"""What a recipe is, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir

from edgeai.errors import UsageError
from edgeai.machine import Machine
from edgeai.progress import Progress
from edgeai.samples import Samples
from edgeai.spec import Array, Signature


class Store(Protocol):
    """Where a recipe leaves the weights that it has made."""

    def __call__(self, name: str, array: Array) -> ir.TensorProtocol:
        """The tensor that holds `array` from now on; it need not be in memory."""


def in_memory(name: str, array: Array) -> ir.TensorProtocol:
    """The `Store` of models that fit there."""
    return ir.Tensor(np.ascontiguousarray(array), name=name)


@dataclass(frozen=True)
class Setting:
    """Everything around the model that a recipe may look at. `target` is the machine the model will run on."""

    source: str
    signature: Signature
    samples: Samples | None
    target: Machine
    progress: Progress
    store: Store = in_memory


@dataclass(frozen=True)
class Applied:
    """The quantized model, and the choices that the recipe made by itself (they go into the lineage).

    `shows` is what the result must have some of: nodes that multiply integers, weights that are stored as integers, or
    weights in half precision.
    """

    model: ir.Model
    choices: Mapping[str, object]
    shows: Literal["integers", "stored", "halves"] = "integers"


class Recipe(Protocol):
    """A frozen dataclass: its fields are its options. `minimum_opset` is the first that has its operators."""

    name: ClassVar[str]
    minimum_opset: ClassVar[int]

    @property
    def needs_samples(self) -> bool: ...

    def apply(self, model: ir.Model, setting: Setting) -> Applied:
        """Quantize a prepared model, which is the recipe's to change. Raises QuantizationError with the reason."""


@runtime_checkable
class Streaming(Protocol):
    """A recipe that can do with one float weight in memory at a time, if `streams`: it leaves each in the store."""

    @property
    def streams(self) -> bool: ...


def without(candidates: list[ir.Node], exclude: tuple[str, ...], model: ir.Model) -> list[ir.Node]:
    """The candidates that are not named in `exclude`. Raises UsageError for a name that no node has."""
    names = {str(node.name) for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    if unknown := sorted(set(exclude) - names):
        raise UsageError(f"exclude: no node is named {', '.join(unknown)}")
    return [node for node in candidates if node.name not in exclude]


def resolved_reduce_range(asked: bool | None, weight_type: str, target: Machine) -> bool:
    """Whether weights leave one bit unused: as asked, else only where signed weights would saturate.

    x86 CPUs without int8 dot products sum pairs of u8 x s8 products in 16 bits and clamp (onnxruntime docs,
    "When to use reduce-range or per-channel quantization"). Unsigned weights take another path that does not.
    """
    if asked is not None:
        return asked
    return weight_type == "int8" and not target.has_int8_dot_product
