"""The two methods that everything above the runtime knows of a model that answers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from edgeai.spec import Array, Feed, Signature


@runtime_checkable
class Engine(Protocol):
    """Anything that maps named arrays to named arrays: an ONNX Runtime session, a torch module, a fake."""

    @property
    def signature(self) -> Signature:
        """Names, dtypes and axes of inputs and outputs."""

    def run(self, feed: Feed) -> dict[str, Array]:
        """Answer one complete feed. Raises InputError if it does not fit the signature."""

    def close(self) -> None:
        """Give back what the engine holds; running it afterwards is an error. May be called twice."""
