"""A model compiled ahead by its execution provider (EPContext), so that the device opens it without a build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeai.artifact import SIGNATURE_KEY, Artifact, Step
from edgeai.errors import EdgeAIError, ModelFormatError, ProviderError, UsageError
from edgeai.external import compiled_nodes, metadata, refuse_outside
from edgeai.machine import machine, versions
from edgeai.ort import onnxruntime
from edgeai.runtime.environment import environment_of
from edgeai.runtime.fitting import prepared
from edgeai.runtime.made_for import MADE_FOR_KEY, MadeFor
from edgeai.runtime.opening import create, first_line
from edgeai.runtime.providers import PROVIDERS, ProviderOptions, parse_options, refuse_unavailable, resolve
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.trust import remember
from edgeai.storage import atomic_file, refuse_existing, sha256


def compile(
    model: str | Path,
    *,
    out: str | Path,
    ep: str,
    options: ProviderOptions | Mapping[str, object] | None = None,
    settings: SessionSettings | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Let an execution provider compile a model ahead, so that opening it takes no build: one file with EPContext.

    The file runs on this version of ONNX Runtime, this provider and this kind of device only, and says so in its
    metadata; nodes that the provider does not take stay in its graph. Raises ProviderError if the provider does not
    run here, compiles nothing ahead, takes no part of this model or cannot open what it made; UsageError for a wrong
    name or option; ModelFormatError or UnsafePathError for a model that cannot be read.
    """
    path, (name, *others) = Path(model), resolve(ep)
    provider = PROVIDERS[name]
    if others:
        raise UsageError(f"one execution provider compiles a model, {ep} names more")
    if not provider.compiles:
        able = ", ".join(row.name for row in PROVIDERS.values() if row.compiles)
        raise ProviderError(
            f"execution provider {name} compiles nothing ahead: it runs the graph itself (EPContext: {able})",
            hint="edgeai optimize --target-specific makes what opens fast on a CPU" if name == "cpu" else "",
        )
    refuse_existing(out, overwrite)
    refuse_outside(path)
    chosen, settings = parse_options(name, options), settings or SessionSettings()
    refuse_unavailable(name)
    stamp = Artifact.from_metadata(path, metadata(path))
    made_for = MadeFor(
        str(onnxruntime().__version__), machine().architecture, None, name, environment_of(name, chosen),
    )  # fmt: skip
    step = Step("compile", {"ep": name, **chosen.to_ort()}, versions(), sha256(path))
    artifact = stamp.after(step, out)
    with atomic_file(out, overwrite=overwrite) as temporary:
        with prepared(chosen, path, settings) as values:
            _compile(path, temporary, name, values, settings)
        there = metadata(temporary)
        texts = artifact.metadata() | {MADE_FOR_KEY: made_for.to_json()}
        # A signature that came along with the graph is not written twice; lineage is, and the last one counts.
        _append(temporary, {key: text for key, text in texts.items() if key != SIGNATURE_KEY or key not in there})
        _refuse_unopenable(temporary, path, name, chosen, settings)
        remember(temporary)
    return artifact


def _compile(source: Path, target: Path, name: str, values: Mapping[str, str], settings: SessionSettings) -> None:
    ort, provider = onnxruntime(), PROVIDERS[name]
    try:
        options = settings.apply(ort)
        devices = [device for device in ort.get_ep_devices() if device.ep_name == provider.ort_name]
        if devices:
            options.add_provider_for_devices(devices[:1], dict(values))
        else:
            options.add_provider(provider.ort_name, dict(values))
        compiler = ort.ModelCompiler(
            options, str(source), embed_compiled_data_into_model=True,
            flags=ort.OrtCompileApiFlags.ERROR_IF_NO_NODES_COMPILED,
        )  # fmt: skip
        compiler.compile_to_file(str(target))
    # onnxruntime's exceptions share no base below Exception
    except Exception as error:
        said = first_line(error)
        if type(error).__name__ not in ("EPFail", "RuntimeError", "Fail"):
            raise ModelFormatError(f"{source}: ONNX Runtime cannot open it: {said}") from error
        raise ProviderError(f"{source}: execution provider {name} compiles no part of it: {said}") from error
    if not compiled_nodes(target):
        raise ProviderError(f"{source}: execution provider {name} compiled no part of it")


def _refuse_unopenable(
    compiled: Path, source: Path, name: str, options: ProviderOptions, settings: SessionSettings
) -> None:
    try:
        create(compiled, (name,), options={name: options}, settings=settings, trust_compiled=True)
    except EdgeAIError as error:
        said = error.message.replace(str(compiled), "")
        raise ProviderError(
            f"{source}: execution provider {name} cannot open what it has compiled: {said}",
            hint="use another version of the provider, or its own cache",
        ) from error


def _append(path: Path, entries: Mapping[str, str]) -> None:
    """Add metadata. Concatenated protobuf messages are one, whose repeated fields are joined (protobuf.dev)."""
    with open(path, "ab") as stream:
        for key, text in entries.items():
            pair = _field(1, key.encode()) + _field(2, text.encode())
            stream.write(_field(14, pair))  # Model.metadata_props


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    head, rest = value & 0x7F, value >> 7
    return bytes([head | 0x80]) + _varint(rest) if rest else bytes([head])
