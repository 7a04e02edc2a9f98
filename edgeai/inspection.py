"""What a model file or a bundle is, without running it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeai.artifact import Step
from edgeai.bundle import open_bundle
from edgeai.errors import MissingDependencyError
from edgeai.external import external_files
from edgeai.runtime.made_for import MadeFor, made_for
from edgeai.spec import Signature


@dataclass(frozen=True)
class Description:
    """`operators` counts nodes by type; `weight_bytes` sums initializers by dtype (empty for a bundle).

    `made_for` is None for a model that runs anywhere.
    """

    path: Path
    kind: str
    size_bytes: int
    signature: Signature | None
    lineage: tuple[Step, ...]
    opsets: Mapping[str, int] = field(default_factory=dict)
    ir_version: int | None = None
    operators: Mapping[str, int] = field(default_factory=dict)
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    made_for: MadeFor | None = None


def inspect(path: str | Path) -> Description:
    """Describe an `.onnx` file, or a bundle after checking every byte of it.

    Raises ModelFormatError or IntegrityError naming the file, MissingDependencyError where reading an `.onnx`
    needs a package that is not installed.
    """
    path = Path(path)
    return _model(path) if path.suffix == ".onnx" else _bundle(path)


def _bundle(path: Path) -> Description:
    with open_bundle(path) as bundle:
        return Description(
            path, "bundle", bundle.size_bytes, bundle.signature, bundle.lineage, manifest=bundle.manifest
        )


def _model(path: Path) -> Description:
    try:
        import edgeai.modelfile as modelfile
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {path} needs {error.name}", hint="pip install 'edgeai[build]'"
        ) from error
    with warnings.catch_warnings():  # prepacked weights stand under keys that onnx_ir does not know
        warnings.filterwarnings("ignore", "Ignoring unknown external data key", UserWarning)
        artifact = modelfile.open_artifact(path)
        model = modelfile.load(path)
    operators: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for graph in model.graphs():
        operators.update(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph)
        for value in graph.initializers.values():
            if value.const_value is not None:
                weights[str(value.const_value.dtype.name).lower()] += value.const_value.nbytes
    files = [path, *(path.parent / name for name in external_files(path))]
    return Description(
        path=path,
        kind="model",
        size_bytes=sum(file.stat().st_size for file in files),
        signature=artifact.signature,
        lineage=artifact.lineage,
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        ir_version=model.ir_version,
        operators=dict(operators.most_common()),
        weight_bytes=dict(weights.most_common()),
        made_for=made_for(path),
    )
