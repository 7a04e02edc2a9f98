"""Keys and values of the tokens that a decoder has seen, kept where its graph reads and writes them.

The graph takes `input_ids` int64 (batch, seq), `attention_mask` int64 (batch, past+seq) and, for each layer i,
`past_key_values.{i}.key` and `.value` float (batch, heads, past, head_size); it gives `logits` (batch, seq, vocab) and
`present.{i}.key` and `.value` (batch, heads, past+seq, head_size), which are the next step's past as they are.

Three ways to go from one step to the next, chosen by what the engine is:

- `InPlaceCache`: past and present are one buffer of full length, and the graph writes only what is new. The model's
  metadata says that its graph can (see `edgeai.graph.FuseGroupQueryAttention`).
- `SwappingCache`: a graph that concatenates reads one of two buffers and writes the other.
- `HandedCache`: any other engine gets its own answers as its next feed.

The first two are bound to ONNX Runtime once allocated, on the device where the model runs, and never grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np

from edgeai.errors import InputError, ResourceLimitError, UsageError
from edgeai.ort import onnxruntime
from edgeai.runtime.engine import Engine
from edgeai.runtime.failures import explained
from edgeai.spec import Array, Signature

IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
PAST, PRESENT = "past_key_values.", "present."
# In a model's metadata: how its past and present may be bound. IN_PLACE: to one buffer longer than the past, where
# the lengths are those of `attention_mask` and `input_ids`.
CACHE_KEY, IN_PLACE = "edgeai.kv_cache", "in-place"
# An input with a default that some graphs have: for how many of the last positions logits are wanted.
KEEP, ALL_LOGITS = "logits_to_keep", 1 << 31
_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}


class Cache(Protocol):
    """`length` tokens of each row are known; positions up to `capacity` can be."""

    capacity: int
    length: int

    def advance(self, ids: Array, mask: Array, *, keep: int) -> Array:
        """Logits (batch, keep, vocab) after the last of `ids` (batch, seq), which are now known.

        `mask` (batch, length+seq) is 0 where a row has no token.

        The logits are overwritten by the next call. Raises InputError, and knows no more than before, if there is no
        room or the model cannot compute this.
        """

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""


@dataclass(frozen=True)
class Layout:
    """The cache of one decoder: past input -> present output, and of each (heads, head_size); one dtype for all.

    `vocabulary` is None where the signature does not fix the last axis of the logits.
    """

    names: Mapping[str, str]
    sizes: Mapping[str, tuple[int, int]]
    dtype: np.dtype[Any]
    logits_dtype: np.dtype[Any]
    vocabulary: int | None

    @classmethod
    def of(cls, signature: Signature) -> Layout:
        """Raises UsageError if the signature is not that of a decoder with a cache of known size."""
        names = {name: PRESENT + name.removeprefix(PAST) for name in signature.input_names if name.startswith(PAST)}
        inputs, outputs = {IDS, MASK, *names}, {LOGITS, *names.values()}
        lacks = sorted(inputs - set(signature.input_names)) + sorted(outputs - set(signature.output_names))
        unknown = sorted(set(signature.input_names) - inputs)
        if not names or lacks or unknown:
            why = ["no input past_key_values..."] if not names else []
            why += [f"no {name}" for name in lacks] + [f"an input {name}" for name in unknown]
            raise UsageError(
                f"the model is no decoder with a KV cache: it has {', '.join(why)}",
                hint="export it for text generation",
            )
        sizes = {}
        for spec in signature.inputs:
            if spec.name in names:
                _, heads, _, head_size = spec.shape if len(spec.shape) == 4 else (0, "", 0, "")
                if not isinstance(heads, int) or not isinstance(head_size, int):
                    raise UsageError(f"{spec}: expected (batch, heads, past, head_size) with fixed heads and head_size")
                sizes[spec.name] = heads, head_size
        (logits,) = (spec for spec in signature.outputs if spec.name == LOGITS)
        vocabulary = logits.shape[-1] if logits.shape else ""
        dtypes = {spec.dtype for spec in signature.inputs if spec.name in names}
        if len(dtypes) > 1 or not dtypes | {logits.dtype} <= {"float16", "float32", "float64"}:
            kinds = ", ".join(sorted(dtypes | {logits.dtype}))
            raise UsageError(f"numpy keeps no cache and logits of {kinds}", hint="use one of float16 and float32")
        return cls(
            names,
            sizes,
            np.dtype(dtypes.pop()),
            np.dtype(logits.dtype),
            vocabulary if isinstance(vocabulary, int) else None,
        )


def context(signature: Signature) -> int | None:
    """How many tokens of one text the model was proven for; None where the signature does not say."""
    axes = [spec.shape[1] for spec in signature.inputs if spec.name == MASK and len(spec.shape) == 2]
    declared = {axis.name: axis.maximum for axis in signature.axes}
    return next((axis if isinstance(axis, int) else declared.get(axis) for axis in axes), None)


def open_cache(engine: Engine, batch: int, capacity: int) -> Cache:
    """An empty cache for `batch` texts of up to `capacity` tokens. Raises UsageError for an engine that is no decoder.

    An `edgeai.Session` runs from now on through buffers of the cache's own; sharing the session stays safe.
    """
    layout = Layout.of(engine.signature)
    session = _session(engine)
    if not hasattr(session, "io_binding"):
        return HandedCache(engine, layout, batch, capacity)
    in_place = session.get_modelmeta().custom_metadata_map.get(CACHE_KEY) == IN_PLACE
    return (InPlaceCache if in_place else SwappingCache)(engine, layout, batch, capacity)


def _refuse_full(cache: Cache, ids: Array) -> None:
    """ONNX Runtime would write behind the end of a buffer."""
    if (total := cache.length + ids.shape[1]) > cache.capacity:
        raise InputError(f"{total} tokens, but the cache has room for {cache.capacity}")


def _session(engine: Engine) -> Any:
    """The `onnxruntime.InferenceSession` of an `edgeai.Session`; None where there is none, or none any more."""
    return getattr(engine, "_session", None)


@final
class HandedCache:
    """For any engine: each answer's present is the next feed's past."""

    def __init__(self, engine: Engine, layout: Layout, batch: int, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._engine, self._layout = engine, layout
        self._past: dict[str, Array] = {
            name: np.zeros((batch, heads, 0, size), layout.dtype) for name, (heads, size) in layout.sizes.items()
        }

    def advance(self, ids: Array, mask: Array, *, keep: int) -> Array:
        _refuse_full(self, ids)
        answer = self._engine.run({IDS: ids, MASK: mask, **self._past})
        self._past = {past: answer[present] for past, present in self._layout.names.items()}
        self.length += ids.shape[1]
        return answer[LOGITS][:, -keep:]

    def truncate(self, length: int) -> None:
        self._past = {name: np.ascontiguousarray(array[:, :, :length]) for name, array in self._past.items()}
        self.length = length


class _Bound:
    """What is the same for both bound caches: ids, mask and logits."""

    def __init__(self, engine: Engine, layout: Layout, batch: int, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._engine, self._session = engine, _session(engine)
        self._layout, self._batch = layout, batch
        self._binding = self._session.io_binding()
        self._device, self._device_id = _device(self._session)
        self._logits = np.empty(0, layout.logits_dtype)
        self._keep: Array | None = None
        if KEEP in (spec.name for spec in self._session.get_overridable_initializers()):
            self._keep = np.ones(1, np.int64)
        self._bind_logits((batch, 1))  # the first output to be bound is the first to be asked for

    def _run(self, ids: Array, mask: Array, keep: int) -> Array:
        if _session(self._engine) is not self._session:  # closed, or left behind in the parent of this process
            raise UsageError("the session is closed", hint="load the model again, and begin a new continuation")
        ids, mask = np.ascontiguousarray(ids), np.ascontiguousarray(mask)
        inputs = {IDS: ids, MASK: mask}
        if self._keep is not None:
            self._keep[0] = keep
            inputs[KEEP] = self._keep
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        logits = self._bind_logits(ids.shape if self._keep is None else (len(ids), keep))
        try:
            self._session.run_with_iobinding(self._binding)
            if self._device != "cpu":
                self._binding.synchronize_outputs()
        # onnxruntime's exceptions share no base below Exception.
        except Exception as error:
            raise explained(error, Path(getattr(self._engine, "path", "the model"))) from error
        self.length += ids.shape[1]
        return (self._binding.get_outputs()[0].numpy() if logits is None else logits)[:, -keep:]

    def _bind_logits(self, shape: tuple[int, ...]) -> Array | None:
        """A view of the buffer for logits, which grows to the longest input; none if the vocabulary is not known."""
        if self._layout.vocabulary is None:
            self._binding.bind_output(LOGITS, "cpu")
            return None
        shape = (*shape, self._layout.vocabulary)
        elements = int(np.prod(shape))
        if self._logits.size < elements:
            self._logits = np.empty(elements, self._layout.logits_dtype)
        view = self._logits[:elements].reshape(shape)
        self._binding.bind_output(LOGITS, "cpu", 0, view.dtype.type, shape, view.ctypes.data)
        return view


@final
class InPlaceCache(_Bound):
    """One buffer for each key and value, (batch, heads, capacity, head_size), bound once as past and as present."""

    def __init__(self, engine: Engine, layout: Layout, batch: int, capacity: int) -> None:
        super().__init__(engine, layout, batch, capacity)
        self.buffers: list[Any] = []  # ONNX Runtime keeps no reference to what is bound
        for past, present in layout.names.items():
            heads, size = layout.sizes[past]
            buffer = _allocate((batch, heads, capacity, size), layout.dtype, self._device, self._device_id)
            self.buffers.append(buffer)
            self._binding.bind_ortvalue_input(past, buffer)
            self._binding.bind_ortvalue_output(present, buffer)

    def advance(self, ids: Array, mask: Array, *, keep: int) -> Array:
        _refuse_full(self, ids)
        return self._run(ids, mask, keep)

    def truncate(self, length: int) -> None:
        self.length = length  # what lies behind is never read, and written over


@final
class SwappingCache(_Bound):
    """Two buffers for each key and value: the graph reads (batch, heads, length, head_size) of the one, writes the
    longer present into the other, and they change places."""

    def __init__(self, engine: Engine, layout: Layout, batch: int, capacity: int) -> None:
        super().__init__(engine, layout, batch, capacity)
        self._past = {
            name: _allocate((batch * heads * capacity * size,), layout.dtype, self._device, self._device_id)
            for name, (heads, size) in layout.sizes.items()
        }
        self._present = {
            name: _allocate((batch * heads * capacity * size,), layout.dtype, self._device, self._device_id)
            for name, (heads, size) in layout.sizes.items()
        }

    @property
    def buffers(self) -> list[Any]:
        return [*self._past.values(), *self._present.values()]

    def advance(self, ids: Array, mask: Array, *, keep: int) -> Array:
        _refuse_full(self, ids)
        dtype, total = self._layout.dtype.type, self.length + ids.shape[1]
        for name, (heads, size) in self._layout.sizes.items():
            past, present = self._past[name].data_ptr(), self._present[name].data_ptr()
            shape, longer = (self._batch, heads, self.length, size), (self._batch, heads, total, size)
            device, number = self._device, self._device_id
            self._binding.bind_input(name, device, number, dtype, shape, past)
            self._binding.bind_output(self._layout.names[name], device, number, dtype, longer, present)
        logits = self._run(ids, mask, keep)
        self._past, self._present = self._present, self._past
        return logits

    def truncate(self, length: int) -> None:
        if 0 < length < self.length:
            for name, (heads, size) in self._layout.sizes.items():
                flat = self._past[name].numpy()
                whole = flat[: self._batch * heads * self.length * size].reshape(self._batch, heads, self.length, size)
                kept = whole[:, :, :length].ravel()  # a copy: the rows of each head move together
                flat[: kept.size] = kept
                if self._device != "cpu":  # there, `flat` is a copy
                    self._past[name].update_inplace(flat)
        self.length = length


def _device(session: Any) -> tuple[str, int]:
    """Where an `onnxruntime.InferenceSession` computes: ONNX Runtime's name of the kind, and which one."""
    provider = session.get_providers()[0]
    if provider not in _DEVICES:
        return "cpu", 0
    return _DEVICES[provider], int(session.get_provider_options()[provider].get("device_id", 0))


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any], device: str, number: int) -> Any:
    """An `onnxruntime.OrtValue` of that many elements, of no particular value. Raises ResourceLimitError."""
    try:
        return onnxruntime().OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, device, number)
    # onnxruntime's exceptions share no base below Exception.
    except Exception as error:
        size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        raise ResourceLimitError(
            f"no memory for a KV cache in parts of {size / 1e6:.0f} MB", hint="allow fewer tokens"
        ) from error
