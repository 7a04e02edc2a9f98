"""From a file to a session: a bare model, or a bundle whose every byte is checked before anything runs it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edgeai.bundle import Bundle, bundle_being_checked, is_bundle
from edgeai.errors import IntegrityError, UsageError
from edgeai.runtime.made_for import made_for, refuse_elsewhere
from edgeai.runtime.opening import Options
from edgeai.runtime.providers import AUTO, PROVIDERS, parse_options, resolve, runs, short_name
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings


def load(
    path: str | Path | Bundle,
    *,
    ep: str | Sequence[str] = "auto",
    fallback: Sequence[str] = (),
    settings: SessionSettings | Mapping[str, object] | None = None,
    options: Options | None = None,
    min_on_ep: float = 0.0,
    trust_compiled: bool = False,
) -> Session:
    """Open a model (`.onnx`, `.ort`) or a bundle (a directory or `.zip`), ready to run.

    A `Bundle` that is open was checked when it was opened; the session closes it. Otherwise large files are hashed
    while ONNX Runtime reads them, and there is no session before both are done.

    `ep` and `fallback` name execution providers: see `Session`. For a file that was made for one, "auto" is that one;
    for a bundle the one that it was proven on, where that runs.
    `settings` may be plain JSON; without them a bundle's own are used.
    `options` maps provider names to their options, such as {"cuda": {"device_id": 1}}.
    `min_on_ep` is the part of the nodes that the provider must run, 0..1. A model with compiled parts (EPContext) is
    opened if `edgeai.compile` made it here, or if you say `trust_compiled`: they are code.
    Raises what `Session` and `edgeai.bundle.open_bundle` raise, and ModelFormatError for a model that was made for
    another machine; nothing stays open or unpacked then.
    """
    chosen = settings if isinstance(settings, SessionSettings | None) else SessionSettings.from_json(settings)
    return load_with(
        path, lambda bundle: chosen or recorded_settings(bundle), ep=ep, fallback=fallback, options=options,
        min_on_ep=min_on_ep, trust_compiled=trust_compiled,
    )  # fmt: skip


def load_with(
    path: str | Path | Bundle,
    settings: Callable[[Bundle | None], SessionSettings | None],
    *,
    ep: str | Sequence[str] = "auto",
    fallback: Sequence[str] = (),
    options: Options | None = None,
    min_on_ep: float = 0.0,
    trust_compiled: bool = False,
) -> Session:
    """`load` in the settings that are wanted for the bundle; for None, a bare model."""
    open_session = functools.partial(
        Session, fallback=fallback, options=options, min_on_ep=min_on_ep, trust_compiled=trust_compiled
    )
    if not isinstance(path, Bundle) and not is_bundle(path):
        return open_session(path, ep=_provider_for(path, ep, options), settings=settings(None))
    session: Session | None = None
    try:
        with _closed_on_errors(path) if isinstance(path, Bundle) else bundle_being_checked(path) as bundle:
            ep = _provider_for(bundle.model_path, ep, options, bundle)
            session = open_session(bundle.model_path, ep=ep, settings=settings(bundle), bundle=bundle)
    except BaseException:
        if session is not None:  # the files are damaged: what was made of them is worth nothing
            session.close()
        raise
    return session


@contextlib.contextmanager
def _closed_on_errors(bundle: Bundle) -> Iterator[Bundle]:
    try:
        yield bundle
    except BaseException:
        bundle.close()
        raise


def _provider_for(
    path: str | Path, ep: str | Sequence[str], options: Options | None, bundle: Bundle | None = None
) -> str | Sequence[str]:
    """`ep`, where "auto" is the provider that the file was made for, or that its bundle was proven on.

    Raises ModelFormatError for a file that was made for another provider, or that needs another machine.
    """
    made = made_for(path)
    if made is None:
        return _proven(bundle) if ep == AUTO and bundle is not None else ep
    if ep == AUTO and made.provider in PROVIDERS:
        ep = made.provider
    name, *_ = resolve(ep)
    given = next((value for key, value in (options or {}).items() if short_name(key) == name), None)
    refuse_elsewhere(path, name, parse_options(name, given))
    return ep


def _proven(bundle: Bundle) -> str | Sequence[str]:
    """What was measured to be the best for the bundle, the CPU behind it; "auto" where that does not run."""
    name = bundle.contents.proven_on.get("provider")
    if name not in list(PROVIDERS) or runs(str(name)) is not None:
        return AUTO
    return ("cpu",) if name == "cpu" else (str(name), "cpu")


def recorded_settings(bundle: Bundle | None) -> SessionSettings | None:
    """The settings that a bundle was packed with. Raises IntegrityError for such that no session knows."""
    if bundle is None:
        return None
    try:
        return SessionSettings.from_json(bundle.contents.settings)
    except UsageError as error:
        raise IntegrityError(
            f"{bundle.path}: its session settings cannot be used: {error.message}", hint="pass settings, or pack again"
        ) from error
