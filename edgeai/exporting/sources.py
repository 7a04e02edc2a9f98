"""What a user may name as the thing to export, and what is known about it: module, inputs, an example, a task.

    DIR               a directory that `edgeai train` left
    bert, bert:base   a model family, with random weights
    file.py:Class     a class or a factory in a file; pkg.mod:name in an installed module
    m.pt2             an exported program (torch.export.save)
    m.onnx            an ONNX file, passed through

A user's code tells its inputs by `example_inputs()` (a dict, or a tuple in the order of `forward`) and, if it
likes, `dynamic_axes = {"x": {0: "batch"}}`, both on the class or beside it; or the caller declares them.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from edgeai import modelfile
from edgeai.eager import Call, EagerEngine, to_array
from edgeai.errors import InputError, MissingDependencyError, SourceError
from edgeai.exporting.decoder import DecoderGraph, decoder_signature
from edgeai.exporting.inputs import Dynamic, DynamicAxes, dynamics, make_dynamic, parse_dynamic, parse_signature
from edgeai.exporting.program import load_program
from edgeai.exporting.user_code import build, load_code, load_weights, told
from edgeai.probing import is_mask, probe_feeds, shape_plans
from edgeai.spec import Array, Feed, Signature, TensorSpec

BATCH = "batch"
FORMS = "a trained directory, a family (bert), file.py:Class, pkg.mod:name, m.pt2 or m.onnx"


@dataclass(frozen=True)
class Source:
    """`module` is None for an ONNX file, whose `path` is given instead.

    `assumed` says that nobody declared the batch axis dynamic: it was taken to be, and may turn out not to be.
    `task` is what a device must know (its name, labels, preprocessing), `extras` the files that go with it,
    `samples` the files of calibration, scoring and golden samples, `metric` the one they are scored by.
    """

    name: str
    module: nn.Module | None
    signature: Signature
    example: Mapping[str, Array] = field(default_factory=dict)
    path: Path | None = None
    assumed: bool = False
    task: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Path] = field(default_factory=dict)
    samples: Mapping[str, Path] = field(default_factory=dict)
    metric: str | None = None

    @property
    def is_decoder(self) -> bool:
        return isinstance(self.module, DecoderGraph)


def resolve(
    source: str,
    *,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    init: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> Source:
    """Find what `source` names. `inputs` and `dynamic` are declarations as on the command line (see `inputs`).

    Raises SourceError if it is not there, is not a module, or does not tell its inputs; IntegrityError if
    `weights` do not fit; UsageError if a declaration does not parse or an option does not apply to this source.
    """
    path = Path(source)
    place, _, name = source.rpartition(":")
    if path.suffix == ".onnx":
        _refuse("an ONNX file", source, inputs=inputs, dynamic=dynamic, init=init, weights=weights)
        return Source(path.stem, None, _declared(path), path=path)
    if path.suffix == ".pt2":
        _refuse("an exported program", source, inputs=inputs, dynamic=dynamic, init=init, weights=weights)
        return from_program(path)
    if path.is_dir():
        _refuse("a trained directory", source, inputs=inputs, dynamic=dynamic, init=init, weights=weights)
        return from_training(path)
    if place.endswith(".py"):
        return from_code(source, inputs=inputs, dynamic=dynamic, init=init, weights=weights, seed=seed)
    if path.suffix == ".py":
        raise SourceError(f"{source}: which class or factory?", hint=f"write {source}:Name")
    if _is_family(place or name):
        _refuse("a family", source, inputs=inputs, dynamic=dynamic, init=init)
        return from_family(place or name, name if place else "reference", weights=weights, seed=seed)
    if place and "/" not in place:
        return from_code(source, inputs=inputs, dynamic=dynamic, init=init, weights=weights, seed=seed)
    raise SourceError(f"{source}: nothing of that name was found", hint=f"name {FORMS}")


def eager(
    source: str,
    *,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    init: Mapping[str, Any] | None = None,
    weights: str | None = None,
    threads: int | None = None,
) -> EagerEngine:
    """The PyTorch engine of a source; all arguments are JSON, so that a benchmark worker can call it by name."""
    found = resolve(source, inputs=inputs, dynamic=dynamic, init=init, weights=weights)
    if found.module is None:
        raise SourceError(f"{source} is an ONNX file: PyTorch cannot run it", hint="load it with edgeai.load")
    return EagerEngine(found.module, found.signature, threads=threads, fast_path=True)


def from_module(
    module: nn.Module,
    example: Mapping[str, Array | Tensor] | Sequence[Array | Tensor] | Tensor | None,
    *,
    dynamic: DynamicAxes | Sequence[Dynamic] | None = None,
    signature: Signature | None = None,
    name: str = "",
) -> Source:
    """A module in memory. Its inputs are `signature`'s, or those of `example` with `dynamic` axes.

    With neither `dynamic` nor `signature`, axis 0 is assumed to be the batch if all inputs share its size.
    Integer inputs are taken to range over the values that the example has, from 0.
    """
    feed = {} if example is None else _feed(module, example)
    assumed = False
    if signature is None:
        if not feed:
            raise SourceError(
                f"{type(module).__name__}: nothing says what its inputs are",
                hint="give example inputs, example_inputs() in the code, or --input x:float32[batch,3,224,224]",
            )
        signature = Signature(tuple(_spec(key, array) for key, array in feed.items()), ())
        declared = dynamics(dynamic) if isinstance(dynamic, Mapping) else dynamic
        if declared is None:
            declared, assumed = _assumed_batch(signature), True
        signature = make_dynamic(signature, declared)
        assumed = assumed and bool(declared)
    Call(module, signature.input_names)
    if not feed:
        feed = probe_feeds(signature, count=1)[0].feed
    signature.check(feed)
    signature = dataclasses.replace(signature, outputs=_outputs(module, signature, feed))
    return Source(name or type(module).__name__, module, signature, feed, assumed=assumed)


def from_code(
    source: str,
    *,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    init: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> Source:
    """`file.py:name` or `pkg.mod:name`: the user's code runs with the user's rights."""
    place, _, name = source.rpartition(":")
    code = load_code(place)
    module = build(code, name, init, seed=seed)
    if weights is not None:
        load_weights(module, weights)
    if inputs:
        return from_module(module, None, signature=parse_signature(inputs, dynamic), name=name)
    declared: Any = [parse_dynamic(text) for text in dynamic] or told(module, code, "dynamic_axes")
    return from_module(module, told(module, code, "example_inputs"), dynamic=declared, name=name)


def from_family(name: str, preset: str, *, weights: str | Path | None = None, seed: int = 0) -> Source:
    """A family of `model_defs` with random but lively weights (or `weights`)."""
    family = reference_models().FAMILIES[name]
    module = family.create(preset, seed)
    if weights is not None:
        load_weights(module, weights)
    return _of_family(f"{name}-{preset}", family, family.config(preset), module)


def from_training(directory: Path) -> Source:
    """A directory that `edgeai train` left: trained weights, task, samples, metric."""
    if not (directory / "training.json").is_file():
        raise SourceError(f"{directory} has no training.json: it is not a trained directory", hint=f"name {FORMS}")
    family, config, module = reference_models("trained").load(directory)
    task = json.loads((directory / "task.json").read_text(encoding="utf-8"))
    found = {kind: directory / f"{kind}.npz" for kind in ("calibration", "scoring", "golden")}
    tokenizer = directory / "tokenizer.json"
    return dataclasses.replace(
        _of_family(directory.resolve().name, family, config, module),
        task=task,
        extras={tokenizer.name: tokenizer} if tokenizer.is_file() else {},
        samples={kind: path for kind, path in found.items() if path.is_file()},
    )


def from_program(path: Path) -> Source:
    """An ExportedProgram: inputs, dynamic axes and their ranges are the program's own."""
    program = load_program(path)
    signature = Signature(
        tuple(
            dataclasses.replace(spec, low=told.low, high=told.high)
            for spec in program.signature.inputs
            for told in (_spec(spec.name, program.example[spec.name]),)
        ),
        (),
        program.signature.axes,
    )
    return from_module(program.module, program.example, signature=signature, name=path.stem)


def _of_family(name: str, family: Any, config: Any, module: nn.Module) -> Source:
    signature: Signature = family.signature(config)
    if family.task == "text-generation":
        ids = signature.inputs[0]
        positions = max(axis.maximum for axis in signature.axes if axis.name in ids.shape[1:])
        signature = decoder_signature(module, vocabulary=ids.high or 2, positions=positions)
        module = DecoderGraph(module)
    feed = probe_feeds(signature, count=1)[0].feed
    return Source(name, module, signature, feed, metric=family.metric)


def _feed(module: nn.Module, example: Any) -> dict[str, Array]:
    """Example inputs by name: a tuple is taken in the order of `forward`'s parameters."""
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        values = list(example) if isinstance(example, list | tuple) else [example]
        names = list(inspect.signature(module.forward).parameters)[: len(values)]
        if len(names) < len(values):
            raise SourceError(f"{len(values)} example inputs, but {type(module).__name__}.forward takes {len(names)}")
        named = dict(zip(names, values, strict=True))
    feed = {}
    for name, value in named.items():
        if not isinstance(value, Tensor | np.ndarray):
            raise SourceError(f"example input {name} is a {type(value).__name__}, not a tensor")
        feed[str(name)] = to_array(value) if isinstance(value, Tensor) else value
    return feed


def _spec(name: str, array: Array) -> TensorSpec:
    spec = TensorSpec(name, array.dtype.name, tuple(array.shape))
    if array.dtype.kind not in "iu" or not array.size:
        return spec
    low, high = min(0, int(array.min())), max(1, int(array.max())) + 1
    mask = TensorSpec(name, spec.dtype, spec.shape, 0, 2)
    return mask if "mask" in name and is_mask(mask) and high == 2 and low == 0 else TensorSpec(
        name, spec.dtype, spec.shape, low, high
    )  # fmt: skip


def _assumed_batch(signature: Signature) -> list[Dynamic]:
    tensors = [spec for spec in signature.inputs if spec.shape]
    sizes = {spec.shape[0] for spec in tensors}
    shared = len(sizes) == 1 and 0 not in sizes
    return dynamics({spec.name: {0: BATCH} for spec in tensors}) if shared else []


def _outputs(module: nn.Module, signature: Signature, example: Feed) -> tuple[TensorSpec, ...]:
    """Names, dtypes and axes of the outputs, from two runs at different sizes."""
    with EagerEngine(module, signature) as engine:
        runs: list[tuple[Mapping[str, int], dict[str, Array]]] = [(_sizes(signature, example), engine.run(example))]
        for probe in probe_feeds(signature)[-len(shape_plans(signature)) :]:
            if len(runs) == 1 and all(probe.sizes[axis] != size for axis, size in runs[0][0].items()):
                try:
                    runs.append((probe.sizes, engine.run(probe.feed)))
                except InputError:  # not a size that the module takes; the verification will say so
                    continue
    (sizes, first), (others, second) = runs[0], runs[-1]

    def axis(name: str, index: int, size: int) -> int | str:
        now = second[name].shape[index]
        matching = [key for key, value in sizes.items() if value == size and others[key] == now]
        return size if now == size else next(iter(matching), f"{name}_{index}")

    return tuple(
        TensorSpec(name, array.dtype.name, tuple(axis(name, i, size) for i, size in enumerate(array.shape)))
        for name, array in first.items()
    )


def _sizes(signature: Signature, feed: Feed) -> dict[str, int]:
    pairs = [
        (axis, size) for spec in signature.inputs for axis, size in zip(spec.shape, feed[spec.name].shape, strict=True)
    ]
    return {axis: size for axis, size in pairs if isinstance(axis, str) and "+" not in axis}


def _declared(path: Path) -> Signature:
    signature = modelfile.open_artifact(path).signature
    assert signature is not None  # open_artifact reads it off the graph where none is stamped
    return signature


def _is_family(name: str) -> bool:
    try:
        return name in reference_models().NAMES
    except MissingDependencyError:
        return False


def reference_models(module: str = "") -> ModuleType:
    """`model_defs`, or a module of it. Raises MissingDependencyError where the reference models are not installed."""
    name = f"model_defs.{module}" if module else "model_defs"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{name} cannot be imported: there is no {error.name}",
            hint="pip install 'edgeai[build,train]', which brings the reference models",
        ) from error


def _refuse(kind: str, source: str, **options: object) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise SourceError(f"{source} is {kind}: {', '.join(given)} cannot be given to it", hint="it knows its own")
