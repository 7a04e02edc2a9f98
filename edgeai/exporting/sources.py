"""What a user may name as the thing to export, and what is known about it: module, inputs, an example, a task.

    DIR               a directory that `edgeai train` left
    bert, bert:base   a model family, with random weights
    file.py:Class     a class or a factory in a file; pkg.mod:name in an installed module
    hf:DIR_OR_ID      a model of the transformers library
    m.pt2             an exported program (torch.export.save)
    m.onnx            an ONNX file, passed through

A user's code tells its inputs by `example_inputs()` (a dict, or a tuple in the order of `forward`) and, if it
likes, `dynamic_axes = {"x": {0: "batch"}}`, both on the class or beside it; or the caller declares them, or gives
example inputs in a file.
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
from edgeai.errors import MissingDependencyError, SourceError, UsageError
from edgeai.exporting.decoder import DecoderGraph, decoder_signature
from edgeai.exporting.huggingface import FORWARD, GENERATE, PREFIX, load_pretrained
from edgeai.exporting.inputs import Dynamic, DynamicAxes, dynamics, make_dynamic, parse_dynamic, parse_signature
from edgeai.exporting.outputs import outputs_of
from edgeai.exporting.program import load_program
from edgeai.exporting.user_code import build, load_code, load_weights, told
from edgeai.probing import is_mask, probe_feeds
from edgeai.samples import load_arrays
from edgeai.spec import Array, Signature, TensorSpec

BATCH = "batch"
IDS_DECLARED = "--input 'input_ids:int64[batch,sequence]<VOCABULARY' --dynamic input_ids:1=sequence:1..LONGEST"
FORMS = "a trained directory, a family (bert), file.py:Class, pkg.mod:name, hf:DIR_OR_ID, m.pt2 or m.onnx"


@dataclass(frozen=True)
class Source:
    """`module` is None for an ONNX file, whose `path` is given instead.

    `assumed` says that nobody declared the batch axis dynamic: it was taken to be, and may turn out not to be.
    `task` is what a device must know (its name, labels, preprocessing), `extras` the files that go with it,
    `samples` the files of calibration, scoring and golden samples, `metric` the one they are scored by. `notes` are
    what was assumed and should be said.
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
    notes: tuple[str, ...] = ()

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
    example: str | Path | None = None,
    task: str | None = None,
) -> Source:
    """Find what `source` names. `inputs` and `dynamic` are declarations as on the command line (see `inputs`);
    `example` is an `.npz` of one feed by input names; `task` is generate or forward (default: by the model).

    Raises SourceError if it is not there, is not a module, or does not tell its inputs; IntegrityError if
    `weights` do not fit; UsageError if a declaration does not parse or an option does not apply to this source.
    """
    path = Path(source)
    place, _, name = source.rpartition(":")
    declared = {"inputs": inputs, "dynamic": dynamic, "example": example}
    if task not in (None, FORWARD, GENERATE):
        raise UsageError(f"there is no task {task}", hint=f"use {GENERATE} or {FORWARD}")
    if source.startswith(PREFIX):
        _refuse("a pretrained model", source, init=init, weights=weights)
        return from_pretrained(source, inputs=inputs, dynamic=dynamic, example=example, task=task)
    if path.suffix == ".onnx":
        _refuse("an ONNX file", source, **declared, init=init, weights=weights, task=task)
        return Source(path.stem, None, _declared(path), path=path)
    if path.suffix == ".pt2":
        _refuse("an exported program", source, **declared, init=init, weights=weights, task=task)
        return from_program(path)
    if path.is_dir():
        _refuse("a trained directory", source, **declared, init=init, weights=weights)
        return _for_task(from_training(path), task)
    if path.suffix == ".py":
        raise SourceError(f"{source}: which class or factory?", hint=f"write {source}:Name")
    if not place.endswith(".py") and _is_family(place or name):
        _refuse("a family", source, **declared, init=init)
        return _for_task(from_family(place or name, name if place else "reference", weights=weights, seed=seed), task)
    if place and (place.endswith(".py") or "/" not in place):
        return from_code(
            source, inputs=inputs, dynamic=dynamic, init=init, weights=weights, seed=seed, example=example, task=task
        )
    raise SourceError(f"{source}: nothing of that name was found", hint=f"name {FORMS}")


def eager(
    source: str,
    *,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    init: Mapping[str, Any] | None = None,
    weights: str | None = None,
    example: str | None = None,
    task: str | None = None,
    threads: int | None = None,
) -> EagerEngine:
    """The PyTorch engine of a source; all arguments are JSON, so that a benchmark worker can call it by name."""
    found = resolve(source, inputs=inputs, dynamic=dynamic, init=init, weights=weights, example=example, task=task)
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
    notes: tuple[str, ...] = ()
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
        notes = tuple(
            f"{spec.name} is proven for values below {spec.high}, as in the example; declare --input '{spec}' for more"
            for spec in signature.inputs
            if spec.high is not None and not is_mask(spec)
        )
    Call(module, signature.input_names)
    if not feed:
        feed = probe_feeds(signature, count=1)[0].feed
    signature.check(feed)
    signature = dataclasses.replace(signature, outputs=outputs_of(module, signature, feed))
    return Source(name or type(module).__name__, module, signature, feed, assumed=assumed, notes=notes)


def from_code(
    source: str,
    *,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    init: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    example: str | Path | None = None,
    task: str | None = None,
) -> Source:
    """`file.py:name` or `pkg.mod:name`: the user's code runs with the user's rights.

    The task generate wants `forward(input_ids, attention_mask, past)` (see `decoder`) and `input_ids` declared.
    """
    place, _, name = source.rpartition(":")
    code = load_code(place)
    module = build(code, name, init, seed=seed)
    if weights is not None:
        load_weights(module, weights)
    if task == GENERATE:
        if example is not None:
            raise UsageError("example inputs do not say how long a text may be", hint=f"declare {IDS_DECLARED}")
        return _generating(module, parse_signature(inputs, dynamic), name)
    if inputs:
        given = load_arrays(example, "inputs") if example is not None else None
        return from_module(module, given, signature=parse_signature(inputs, dynamic), name=name)
    declared: Any = [parse_dynamic(text) for text in dynamic] or told(module, code, "dynamic_axes")
    given = load_arrays(example, "inputs") if example is not None else told(module, code, "example_inputs")
    return from_module(module, given, dynamic=declared, name=name)


def from_pretrained(
    source: str,
    *,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    example: str | Path | None = None,
    task: str | None = None,
) -> Source:
    """`hf:DIR_OR_ID`. Inputs are known for text, images and sound; other kinds of models need them declared."""
    found = load_pretrained(source, task=task)
    declared = [parse_dynamic(text) for text in dynamic]
    if inputs or example is not None:
        if isinstance(found.module, DecoderGraph):
            raise UsageError(f"{source} generates: its inputs are fixed", hint="use --task forward to declare others")
        given = load_arrays(example, "inputs") if example is not None else None
        signature = parse_signature(inputs, dynamic) if inputs else None
        made = from_module(found.module, given, signature=signature, dynamic=declared or None, name=found.name)
    elif found.signature is None:
        kind = type(found.module).__name__
        raise SourceError(f"{source}: what a {kind} takes is not known here", hint="declare it with --input")
    else:
        signature = make_dynamic(found.signature, declared)
        made = from_module(found.module, None, signature=signature, name=found.name)
    return dataclasses.replace(made, task=found.task, extras=found.extras)


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


def _generating(module: nn.Module, declared: Signature, name: str) -> Source:
    """A user's causal language model with a cache; vocabulary and longest text are those declared for `input_ids`."""
    ids = next((spec for spec in declared.inputs if spec.name == "input_ids" and len(spec.shape) == 2), None)
    if ids is None or ids.high is None or not isinstance(ids.shape[1], str):
        raise UsageError("to generate, the ids and the longest text must be declared", hint=IDS_DECLARED)
    signature = decoder_signature(module, vocabulary=ids.high, positions=declared.axis(ids.shape[1]).maximum)
    return from_module(DecoderGraph(module), None, signature=signature, name=name)


def _for_task(source: Source, task: str | None) -> Source:
    if task == GENERATE and not source.is_decoder:
        raise SourceError(f"{source.name} is no causal language model", hint="leave out --task")
    if task == FORWARD and source.is_decoder:
        raise SourceError(f"{source.name} is exported with its cache", hint="leave out --task")
    return source


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
