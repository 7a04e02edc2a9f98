"""Models with parts that an execution provider compiled ahead (EPContext): this user's own, and all others.

Such a part is native code or an engine that is deserialized as it is; no provider says that it is safe to load one
from somebody else. What `edgeai.compile` makes is remembered by its sha256, in a directory that only this user can
write.
"""

from __future__ import annotations

from pathlib import Path

from edgeai.errors import StorageError, UntrustedCodeError
from edgeai.external import compiled_nodes
from edgeai.runtime.engine_cache import private_directory
from edgeai.storage import cache_dir, sha256


def refuse_untrusted(path: Path) -> None:
    """Raise UntrustedCodeError, naming the nodes, for compiled parts that this user has not compiled here."""
    names = compiled_nodes(path)
    if names and not _is_own(path):
        shown = ", ".join(name or "unnamed" for name in names[:3]) + (", ..." if names[3:] else "")
        raise UntrustedCodeError(
            f"{path} holds code that was compiled elsewhere (EPContext: {shown})",
            hint="compile the portable model here (edgeai compile), or pass trust_compiled=True if you know its maker",
        )


def remember(path: Path) -> None:
    """This user has compiled the file at `path`, here. Raises StorageError where that cannot be written down."""
    try:
        (_own() / sha256(path)).touch(mode=0o600)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        raise StorageError(
            f"what was compiled here cannot be remembered: {error}", hint="set EDGEAI_CACHE to a directory of your own"
        ) from error


def _is_own(path: Path) -> bool:
    try:
        return (_own() / sha256(path)).exists()
    except (OSError, RuntimeError):  # nothing was ever remembered
        return False


def _own() -> Path:
    return private_directory(cache_dir() / "compiled")
