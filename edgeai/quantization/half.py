"""What half precision can hold: constants that survive rounding, and masks that lie beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeai.spec import Array

_ROUNDING_ERROR = 0.01  # relative, of a whole constant: rounding leaves 0.0005, what underflows leaves up to 1
_LARGE = 128  # elements; less is not worth a Cast
_HIDDEN = -1e9  # masks hide with what lies beyond


@dataclass(frozen=True)
class Half:
    """`dtype`, and the largest value that a tensor may have reached on the samples if it is to be of that dtype."""

    dtype: ir.DataType
    allowed: float

    def rounded(self, array: Array) -> Array | None:
        """The constant in half precision; None if that would change what it says."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            result: Array = array.astype(self.dtype.numpy())
            back = result.astype(np.float32)
            same = array == back
            error, size = np.where(same, 0, back - array), np.where(np.isfinite(array), array, 0)
        if not np.isfinite(error).all() or _norm(error) > _ROUNDING_ERROR * _norm(size):
            return None
        return result


FLOAT16 = Half(ir.DataType.FLOAT16, 65504.0 / 4)  # a quarter: other inputs reach farther than the samples
BFLOAT16 = Half(ir.DataType.BFLOAT16, 3.38e38)


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def soften_masks(model: ir.Model, half: Half) -> list[str]:
    """Raise constants that hide (-1e9, -3.4e38) to a quarter of the lowest value allowed; the names of those constants.

    To a quarter, so that a score and a second mask can be added without leaving the range: rounded to minus infinity,
    they would make a row without softmax of what has one. What is minus infinity already stays so.
    """
    softened = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype is not ir.DataType.FLOAT or value.is_graph_output():
            continue
        array = tensor.numpy()
        hidden = np.isfinite(array) & (array <= _HIDDEN) & (array < -half.allowed)
        if hidden.any():
            value.const_value = ir.tensor(np.where(hidden, np.float32(-half.allowed / 4), array), name=value.name)
            softened.append(str(value.name))
    return softened


def store_in_half(model: ir.Model, half: Half) -> int:
    """Store large constants in half precision, each with a Cast beside it that gives float32; how many there are."""
    stored = 0
    for graph in model.graphs():
        for value in [v for v in graph.initializers.values() if v.const_value is not None and not v.is_graph_output()]:
            tensor = value.const_value
            if tensor is None or tensor.dtype is not ir.DataType.FLOAT or tensor.size < _LARGE:
                continue
            if (array := half.rounded(tensor.numpy())) is None:
                continue
            rounded = ir.Tensor(array, dtype=half.dtype)
            name = f"{value.name}_{half.dtype.name.lower()}"
            small = ir.Value(name=name, shape=value.shape, type=ir.TensorType(half.dtype), const_value=rounded)
            cast = ir.node("Cast", [small], {"to": ir.DataType.FLOAT}, name=f"{name}_cast")
            cast.outputs[0].name, cast.outputs[0].type = f"{name}_float", ir.TensorType(ir.DataType.FLOAT)
            ir.convenience.replace_all_uses_with(value, cast.outputs[0])
            graph.initializers.pop(str(value.name))
            graph.register_initializer(small)
            graph.insert_before(graph[0], cast)
            stored += 1
    return stored
