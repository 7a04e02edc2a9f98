"""The signature of a loaded model: what was stamped into it, checked against what its graph declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeai.artifact import Artifact
from edgeai.errors import ModelFormatError
from edgeai.spec import Signature, TensorSpec

_DTYPES = {"float": "float32", "double": "float64"}  # the others are called as numpy calls them


def open_artifact(session: Any, path: Path) -> Artifact:
    """Lineage and signature of an `onnxruntime.InferenceSession`; a model without a stamp gets the graph's signature.

    Raises ModelFormatError if the stamp is unreadable or belongs to another graph, or for inputs that are no tensors.
    """
    artifact = Artifact.from_metadata(path, session.get_modelmeta().custom_metadata_map)
    declared = Signature(_specs(session.get_inputs(), path), _specs(session.get_outputs(), path))
    if artifact.signature is None:
        return Artifact(path, artifact.lineage, declared)
    for stamped, real in zip(_tensors(artifact.signature), _tensors(declared), strict=False):
        # ONNX Runtime shows no rank both for scalars and where the graph does not declare one.
        if (stamped.name, stamped.dtype) != (real.name, real.dtype) or len(real.shape) not in (0, len(stamped.shape)):
            raise ModelFormatError(f"{path}: its stamped signature has {stamped} where the graph has {real}")
    if len(_tensors(artifact.signature)) != len(_tensors(declared)):
        raise ModelFormatError(f"{path}: its stamped signature has another number of inputs or outputs than the graph")
    return artifact


def _tensors(signature: Signature) -> tuple[TensorSpec, ...]:
    return (*signature.inputs, *signature.outputs)


def _specs(nodes: Sequence[Any], path: Path) -> tuple[TensorSpec, ...]:
    specs = []
    for node in nodes:
        kind, _, element = node.type.rstrip(")").partition("(")
        if kind != "tensor":
            raise ModelFormatError(f"{path}: {node.name} is {node.type}, and only tensors are supported")
        shape = tuple(
            size if isinstance(size, int) else size or f"{node.name}_{i}" for i, size in enumerate(node.shape)
        )
        specs.append(TensorSpec(node.name, _DTYPES.get(element, element), shape))
    return tuple(specs)
