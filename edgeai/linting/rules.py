"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeai.linting.products import Product
from edgeai.linting.report import Runs


@dataclass(frozen=True)
class Rule:
    """The first rule of a target that `applies` to a product says how it runs and why. `source`: where that is from."""

    name: str
    applies: Callable[[Product], bool]
    runs: Runs
    reason: str
    source: str


@dataclass(frozen=True)
class Warn:
    """A rule about products that run, but not well. All that apply are said."""

    name: str
    applies: Callable[[Product], bool]
    text: str
    source: str


def always(product: Product) -> bool:  # noqa: ARG001 - a rule like the others
    return True


def has_no_weights(product: Product) -> bool:
    """Both operands are computed while the model runs."""
    return not product.weights and not product.is_integer_op


def is_integer_op(product: Product) -> bool:
    return product.is_integer_op


def is_qdq(product: Product) -> bool:
    """Both operands come from DequantizeLinear."""
    return product.is_qdq


def weight_alone_is_quantized(product: Product) -> bool:
    return product.weight is not None and product.activation is None


def multiplies_in_float(product: Product) -> bool:
    """MatMulNBits unpacks its weights to float unless it may round the activations to int8 (accuracy_level 4)."""
    return product.node.op_type == "MatMulNBits" and product.node.attributes.get_int("accuracy_level", 0) != 4
