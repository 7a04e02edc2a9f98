"""The TorchScript exporter: for the modules that torch.export cannot capture, or captures wrongly."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from edgeai.errors import ExportError
from edgeai.exporting.silence import quiet
from edgeai.frames import is_users
from edgeai.spec import Signature

OPSETS = range(7, 21)  # what it writes itself


def script(module: nn.Module, values: Sequence[Tensor], signature: Signature, opset: int) -> ir.Model:
    """Trace `module` at `values` and write it at `opset`, or at the nearest that this exporter knows.

    Raises ExportError if it fails, or if the user's code turns a tensor into a number: what a trace bakes in is
    right for one input alone.
    """
    axes = {
        spec.name: {i: axis for i, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for spec in (*signature.inputs, *signature.outputs)
    }
    with (
        quiet(descriptors=True),
        warnings.catch_warnings(record=True) as warned,
        tempfile.TemporaryDirectory() as directory,
    ):
        warnings.simplefilter("always", TracerWarning)
        path = Path(directory, "traced.onnx")
        try:
            torch.onnx.export(
                module, tuple(values), str(path), dynamo=False, dynamic_axes=axes,
                opset_version=min(max(opset, OPSETS[0]), OPSETS[-1]),
                input_names=list(signature.input_names), output_names=list(signature.output_names),
            )  # fmt: skip
        except Exception as error:  # its errors and those of the module's own code share no base
            first = (str(error).strip().splitlines() or [""])[0]
            raise ExportError(f"the TorchScript exporter fails too: {type(error).__name__}: {first}") from error
        # In torch's own modules a tracer warning is a check of the input; in a user's code it is the very lie that
        # this gate is for.
        tracer = [one for one in warned if issubclass(one.category, TracerWarning) and is_users(one.filename)]
        if tracer:
            baked, where = str(tracer[0].message).split(". ")[0], f"{Path(tracer[0].filename).name}:{tracer[0].lineno}"
            raise ExportError(f"the TorchScript exporter bakes in a value ({where}): {baked}")
        model = ir.load(path)
        _free_weights(model)
        ir.external_data.load_to_model(model)
        return model


def _free_weights(model: ir.Model) -> None:
    """Before IR version 4, and so below opset 9, every weight was listed among the inputs."""
    model.ir_version = max(model.ir_version, 4)
    for value in [value for value in model.graph.inputs if value.name in model.graph.initializers]:
        model.graph.inputs.remove(value)
