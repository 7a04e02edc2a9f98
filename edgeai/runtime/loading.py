"""From a file to a session: a bare model, or a bundle whose every byte is checked before anything opens it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeai.bundle import Bundle, is_bundle, open_bundle
from edgeai.errors import IntegrityError, UsageError
from edgeai.runtime.made_for import refuse_elsewhere
from edgeai.runtime.providers import resolve
from edgeai.runtime.session import Options, Session
from edgeai.runtime.settings import SessionSettings


def load(
    path: str | Path,
    *,
    ep: str | Sequence[str] = "auto",
    fallback: Sequence[str] = (),
    settings: SessionSettings | Mapping[str, object] | None = None,
    options: Options | None = None,
) -> Session:
    """Open a model (`.onnx`, `.ort`) or a bundle (a directory or `.zip`), ready to run.

    `ep` and `fallback` name execution providers: see `Session`. `settings` may be plain JSON; without them a bundle's
    own are used. `options` maps provider names to their options, such as {"cuda": {"device_id": 1}}.
    Raises what `Session` and `edgeai.bundle.open_bundle` raise, and ModelFormatError for a model that was made for
    another machine; nothing stays open or unpacked then.
    """
    chosen = settings if isinstance(settings, SessionSettings | None) else SessionSettings.from_json(settings)
    if not is_bundle(path):
        refuse_elsewhere(path, resolve(ep)[0])
        return Session(path, ep=ep, fallback=fallback, settings=chosen, options=options)
    bundle = open_bundle(path)
    try:
        chosen = chosen or _recorded_settings(bundle)
        refuse_elsewhere(bundle.model_path, resolve(ep)[0])
        return Session(bundle.model_path, ep=ep, fallback=fallback, settings=chosen, options=options, bundle=bundle)
    except BaseException:
        bundle.close()
        raise


def _recorded_settings(bundle: Bundle) -> SessionSettings:
    try:
        return SessionSettings.from_json(bundle.contents.settings)
    except UsageError as error:
        raise IntegrityError(
            f"{bundle.path}: its session settings cannot be used: {error.message}", hint="pass settings, or pack again"
        ) from error
