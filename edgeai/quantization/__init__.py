"""Make the weights, and where it pays the activations, integers. One recipe a file; one verb applies it."""

from __future__ import annotations

from collections.abc import Mapping

from edgeai.quantization.coverage import Coverage, measure_coverage
from edgeai.quantization.int8_dynamic import Int8Dynamic
from edgeai.quantization.int8_static import Int8Static
from edgeai.quantization.observers import Range, observe
from edgeai.quantization.quantizing import quantize
from edgeai.quantization.recipe import Applied, Recipe, Setting

__all__ = [
    "RECIPES",
    "Applied",
    "Coverage",
    "Int8Dynamic",
    "Int8Static",
    "Range",
    "Recipe",
    "Setting",
    "measure_coverage",
    "observe",
    "quantize",
]

RECIPES: Mapping[str, type[Int8Dynamic] | type[Int8Static]] = {
    recipe.name: recipe for recipe in (Int8Dynamic, Int8Static)
}
