"""Make the weights, and where it pays the activations, integers. One recipe a file; one verb applies it."""

from __future__ import annotations

from collections.abc import Mapping

from edgeai.quantization.bfloat16 import BFloat16
from edgeai.quantization.coverage import Coverage, measure_coverage
from edgeai.quantization.float16 import Float16
from edgeai.quantization.int4_weight import Int4Weight
from edgeai.quantization.int8_dynamic import Int8Dynamic
from edgeai.quantization.int8_static import Int8Static
from edgeai.quantization.int8_weight import Int8Weight
from edgeai.quantization.observers import observe
from edgeai.quantization.quantizing import quantize
from edgeai.quantization.ranges import Range
from edgeai.quantization.recipe import Applied, Recipe, Setting
from edgeai.quantization.targets import int8_for

__all__ = [
    "RECIPES",
    "Applied",
    "BFloat16",
    "Coverage",
    "Float16",
    "Int4Weight",
    "Int8Dynamic",
    "Int8Static",
    "Int8Weight",
    "Range",
    "Recipe",
    "Setting",
    "int8_for",
    "measure_coverage",
    "observe",
    "quantize",
]

RECIPES: Mapping[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (Int8Dynamic, Int8Static, Int8Weight, Int4Weight, Float16, BFloat16)
}
