"""An ONNX Runtime session on the provider that was asked for, or the reason why there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeai.errors import ModelFormatError, ProviderError, UsageError
from edgeai.external import refuse_outside
from edgeai.ort import onnxruntime
from edgeai.runtime import cuda_driver
from edgeai.runtime.fitting import prepared
from edgeai.runtime.huge_pages import move_into_huge_pages
from edgeai.runtime.options import nearest
from edgeai.runtime.placement import Placement
from edgeai.runtime.providers import (
    AUTO,
    PROVIDERS,
    CudaOptions,
    ProviderOptions,
    TensorrtOptions,
    parse_options,
    reason,
    refuse_unavailable,
    resolve,
    short_name,
)
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.trust import refuse_untrusted

Options = Mapping[str, ProviderOptions | Mapping[str, object]]


def wanted_providers(ep: str | Sequence[str], fallback: Sequence[str]) -> tuple[str, ...]:
    """Short names in order of preference, the fallback's last."""
    names = resolve(ep)
    if ep == AUTO and names != ("cpu",):
        names = (*names, "cpu")  # it loads, but may know no operator of the model
    return (*names, *(name for name in resolve(fallback) if name not in names)) if fallback else names


def provider_options(options: Options, wanted: tuple[str, ...]) -> dict[str, ProviderOptions]:
    """The options of each of `wanted`. Raises UsageError for options of any other provider."""
    values = {short_name(name): value for name, value in options.items()}
    for name in values:
        if name not in PROVIDERS:
            raise UsageError(f"options for an unknown execution provider {name!r}", hint=nearest(name, PROVIDERS))
        if name not in wanted:
            raise UsageError(
                f"options for {name}, but the session runs on {', '.join(wanted)}", hint=f"add ep={name!r}"
            )
    return {name: parse_options(name, values.get(name)) for name in wanted}


def refuse_bad_file(path: Path) -> None:
    """Raise ModelFormatError or UnsafePathError for what ONNX Runtime should not even open."""
    if not path.is_file():
        raise ModelFormatError(f"{path}: {'is a directory, not a model' if path.is_dir() else 'no such file'}")
    refuse_outside(path)


def create(
    path: Path,
    wanted: tuple[str, ...],
    *,
    options: Mapping[str, ProviderOptions],
    settings: SessionSettings,
    min_on_ep: float = 0.0,
    trust_compiled: bool = False,
) -> tuple[Any, tuple[str, ...]]:
    """An `onnxruntime.InferenceSession` on the first of `wanted` that runs this model, and why those before do not.

    Raises ProviderError with the reason of the first if none does, UntrustedCodeError for compiled parts that are
    neither trusted nor this user's own.
    """
    if not 0 <= min_on_ep <= 1:
        raise UsageError(f"min_on_ep = {min_on_ep:g}, must be a part of the nodes, 0..1")
    if not trust_compiled:
        refuse_untrusted(path)
    refused: list[ProviderError] = []
    for index, name in enumerate(wanted):
        try:
            refuse_unavailable(name)
            rest = [other for other in wanted[index + 1 :] if reason(other) is None]
            session = _create_on([name, *rest], path, options, settings)
            Placement.of(session).refuse_below(name, min_on_ep, path)
            return session, tuple(error.message for error in refused)
        except ProviderError as error:
            refused.append(error)
    raise refused[0]


def _create_on(names: list[str], path: Path, options: Mapping[str, ProviderOptions], settings: SessionSettings) -> Any:
    ort, name = onnxruntime(), names[0]
    ort.set_default_logger_severity(4)  # a provider that fails to load logs outside the session
    rest: list[tuple[str, dict[str, str]]] = [] if "cpu" in names else [(PROVIDERS["cpu"].ort_name, {})]
    with contextlib.ExitStack() as held:
        values = [
            (PROVIDERS[one].ort_name, held.enter_context(prepared(options[one], path, settings))) for one in names
        ]
        try:
            session = ort.InferenceSession(
                str(path),
                settings.apply(ort),
                providers=values + rest,
                disabled_optimizers=list(settings.disabled_optimizers) or None,
                enable_fallback=0,  # its own fallback prints to stdout and goes on without the provider
            )
            session.disable_fallback()
        # onnxruntime's exceptions share no base below Exception, and bad bytes also surface as UnicodeDecodeError.
        except Exception as error:
            if name != "cpu" and type(error).__name__ in ("EPFail", "RuntimeError", "RuntimeException", "Fail"):
                raise ProviderError(
                    f"execution provider {name} does not start: {first_line(error)}", hint=PROVIDERS[name].remedy
                ) from error
            raise ModelFormatError(f"{path}: ONNX Runtime cannot open it: {first_line(error)}") from error
        if short_name(session.get_providers()[0]) != name:
            raise _not_started(name, options[name])
    if settings.huge_pages:
        move_into_huge_pages()
    return session


def _not_started(name: str, options: ProviderOptions) -> ProviderError:
    given = ", ".join(f"{key}={value}" for key, value in options.to_ort().items())
    why, hint = "no device answers" + (f", or none that takes {given}" if given else ""), PROVIDERS[name].remedy
    if isinstance(options, CudaOptions | TensorrtOptions):
        why = cuda_driver.why_no_device(cuda_driver.driver(), options.device_id) or why
        hint = "check the device and its driver (nvidia-smi)"
    return ProviderError(f"execution provider {name} did not start: its libraries load, but {why}", hint=hint)


def first_line(error: Exception) -> str:
    """The first line of what ONNX Runtime says, which may be many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
