"""Buffers that a model reads from and writes to where they are: nothing is checked twice, nothing is copied.

Numpy arrays are bound as they lie in memory; whatever else speaks DLPack (a torch tensor on a GPU) is bound on its
device. The binding owns what keeps the memory alive.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from edgeai.errors import InputError, UsageError
from edgeai.ort import onnxruntime
from edgeai.runtime.failures import explained
from edgeai.runtime.fitting import is_recording, unrecorded
from edgeai.spec import Array, Signature

_DTYPES = {"float": "float32", "double": "float64"}  # the others are called as numpy calls them
_STAND_INS = {"bfloat16": "uint16"}  # numpy does not have it; the shape is what is left to check


@final
class Binding:
    """Made by `Session.bind`. `inputs` and `outputs` map names to the very buffers that were bound.

    Write into the inputs in place, run, read the outputs. For one thread at a time.
    """

    def __init__(
        self,
        session: Any,
        path: Path,
        *,
        signature: Signature,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        in_place: Collection[str] = (),
    ) -> None:
        """Bind buffers to an `onnxruntime.InferenceSession` with that signature, whose file is `path`.

        Raises InputError for a buffer that does not fit, UsageError for outputs that the model does not have.
        """
        self.session, self.path = session, path
        self._native = session.io_binding()
        self._run: Any = getattr(session, "_sess", session).run_with_iobinding
        self._busy = threading.Lock()
        self._recording, self._recorded = is_recording(session), False
        given = {name: _value(f"input {name}", buffer, written=False) for name, buffer in inputs.items()}
        _check(signature, given)
        for name, value in given.items():
            self._native.bind_ortvalue_input(name, value)
        # ONNX Runtime copies from host to device when a buffer is bound, not when the model runs.
        on_device = session.get_providers()[0] != "CPUExecutionProvider"
        self._copied = [(name, value) for name, value in given.items() if on_device and value.device_name() == "cpu"]
        self.inputs: Mapping[str, Any] = dict(inputs)
        self.outputs: Mapping[str, Any] = self._bind_outputs(signature, outputs)
        taken = {name: _value(f"output {name}", buffer, written=True) for name, buffer in self.outputs.items()}
        _check_outputs(signature, taken)
        _refuse_overlap(given, taken, in_place)
        for name, value in taken.items():
            self._native.bind_ortvalue_output(name, value)
        self._values = (given, taken)  # they keep the memory of DLPack tensors alive
        self._synchronizes = any(value.device_name() != "cpu" for value in (*given.values(), *taken.values()))
        # What is on the host is copied to other addresses each time, where a replay would not look.
        self._recorded = all(value.device_name() != "cpu" for value in (*given.values(), *taken.values()))

    def run(self, options: Any = None) -> None:
        """Read the inputs, write the outputs. Raises what `Session.run` raises, and UsageError if another thread
        is at it; after an error the outputs hold anything.
        """
        native, run = self._native, self._run
        if native is None:
            raise UsageError("the binding's session is closed", hint="load the model again, and bind again")
        if not self._busy.acquire(blocking=False):
            raise UsageError("the binding is in use by another thread", hint="make one binding for each thread")
        try:
            for name, value in self._copied:
                native.bind_ortvalue_input(name, value)
            if self._synchronizes:
                native.synchronize_inputs()
            if self._recording and not self._recorded:
                options = unrecorded(options)
            run(native._iobinding, options)
            if self._synchronizes:
                native.synchronize_outputs()
        except Exception as error:
            raise explained(error, self.path) from error
        finally:
            self._busy.release()

    def release(self) -> None:
        """Let go of the session: the binding cannot run any more. The buffers stay whose they are."""
        self.session = self._native = self._run = None

    def _bind_outputs(self, signature: Signature, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The buffers for all outputs: the model is run once to learn the sizes of those that were not given."""
        if unknown := sorted(outputs.keys() - set(signature.output_names)):
            raise UsageError(
                f"{self.path}: there is no output {', '.join(unknown)}",
                hint=f"the model gives {', '.join(signature.output_names)}",
            )
        missing = [name for name in signature.output_names if name not in outputs]
        if not missing:
            return {name: outputs[name] for name in signature.output_names}
        for name in signature.output_names:
            self._native.bind_output(name, "cpu")
        self.outputs, self._synchronizes = {}, False
        self.run()
        answers = dict(zip(signature.output_names, self._native.copy_outputs_to_cpu(), strict=True))
        self._native.clear_binding_outputs()
        return {name: outputs[name] if name in outputs else np.array(answers[name]) for name in signature.output_names}


def _value(what: str, buffer: Any, *, written: bool) -> Any:
    """An `onnxruntime.OrtValue` over the very memory of a buffer. Raises InputError where that cannot be."""
    values = onnxruntime().OrtValue
    if not isinstance(buffer, np.ndarray):
        if not hasattr(buffer, "__dlpack__"):
            raise InputError(f"{what}: expected a numpy array or a DLPack tensor, got {type(buffer).__name__}")
        try:
            return values.from_dlpack(buffer)
        except (RuntimeError, TypeError, ValueError, BufferError) as error:
            raise InputError(f"{what}: its memory cannot be shared: {' '.join(str(error).split())[-120:]}") from error
    for wrong, reason, hint in (
        (type(buffer) is not np.ndarray, f"a {type(buffer).__name__}", "bind a plain array"),
        (buffer.dtype.kind in "OUSV", f"dtype {buffer.dtype}", "text cannot be bound: use run()"),
        (not buffer.dtype.isnative, f"byte order {buffer.dtype.str}", "use this machine's"),
        (not buffer.flags.c_contiguous, "it is not contiguous", "numpy.ascontiguousarray(array)"),
        (not buffer.flags.aligned, "it is not aligned", "array.copy()"),
        (written and not buffer.flags.writeable, "it is read-only", "bind an array that can be written"),
    ):
        if wrong:
            raise InputError(f"{what}: its memory cannot be shared: {reason}", hint=hint)
    return values.ortvalue_from_numpy(buffer)


def _check(signature: Signature, values: Mapping[str, Any]) -> None:
    """Raise InputError unless the values fit the signature's inputs."""
    specs = tuple(dataclasses.replace(spec, dtype=_STAND_INS.get(spec.dtype, spec.dtype)) for spec in signature.inputs)
    stand_ins = {name: _stand_in(name, value) for name, value in values.items()}
    dataclasses.replace(signature, inputs=specs).check(stand_ins)


def _check_outputs(signature: Signature, values: Mapping[str, Any]) -> None:
    for spec in signature.outputs:
        found = _stand_in(spec.name, values[spec.name])
        if _dtype(values[spec.name]) != spec.dtype:
            raise InputError(f"output {spec.name}: expected {spec.dtype}, got {_dtype(values[spec.name])}")
        if len(found.shape) != len(spec.shape) or any(
            isinstance(axis, int) and axis != size for axis, size in zip(spec.shape, found.shape, strict=True)
        ):
            raise InputError(f"output {spec.name}: expected {spec}, got shape {found.shape}")


def _dtype(value: Any) -> str:
    name = str(value.data_type()).removeprefix("tensor(").rstrip(")")
    return _DTYPES.get(name, name)


def _stand_in(name: str, value: Any) -> Array:
    """An array of that dtype and shape, with no memory of its own."""
    dtype = _STAND_INS.get(_dtype(value), _dtype(value))
    try:
        return np.broadcast_to(np.zeros((), dtype), value.shape())
    except TypeError:
        raise InputError(f"{name}: {dtype} cannot be bound") from None


def _refuse_overlap(inputs: Mapping[str, Any], outputs: Mapping[str, Any], in_place: Collection[str]) -> None:
    """A kernel that writes what it has still to read answers wrongly."""
    for index, (name, value) in enumerate(outputs.items()):
        start, end = _extent(value)
        others = {} if name in in_place else {f"input {other}": taken for other, taken in inputs.items()}
        others |= {f"output {other}": taken for other, taken in list(outputs.items())[:index]}
        for other, taken in others.items():
            low, high = _extent(taken)
            if start < high and low < end and taken.device_name() == value.device_name():
                raise InputError(
                    f"output {name}: its memory is also that of {other}",
                    hint="give it its own, or name it in in_place if the operator allows it",
                )


def _extent(value: Any) -> tuple[int, int]:
    start = int(value.data_ptr())
    return start, start + int(value.tensor_size_in_bytes())
