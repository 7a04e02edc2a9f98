"""Which line of a module's code fixes the size of an axis."""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from edgeai.exporting.silence import quiet
from edgeai.frames import deepest
from edgeai.spec import Signature

_SYMBOL = re.compile(r"create_symbol (\w+) = \d+ for L\['\w+'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
_FIXED = re.compile(r"set_replacement (\w+) = (\d+) ")


@dataclass(frozen=True)
class Fixing:
    """`where` is ` (model.py:12)`, or empty where no line of the user's does it."""

    input: str
    index: int
    where: str


def fixing_of(axis: str, capture: Callable[[], object], signature: Signature) -> Fixing | None:
    """Where `capture`, which failed before, first makes a number of a size that `signature` calls `axis`.

    torch.export's error does not say; its log does, at the moment when it happens, so that the stack can be read.
    """
    listener = _Listener(axis, signature)
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    kept = logger.handlers[:], logger.level, logger.propagate, logger.disabled
    # logging.config disables every logger that it does not know, unless told otherwise.
    logger.handlers[:], logger.propagate, logger.disabled = [listener], False, False
    logger.setLevel(logging.INFO)
    try:
        with quiet(), contextlib.suppress(Exception):  # the failure that is being looked into
            listener.depth = len(traceback.extract_stack())
            capture()
    finally:
        logger.handlers[:], logger.propagate, logger.disabled = kept[0], kept[2], kept[3]
        logger.setLevel(kept[1])
    return listener.found


class _Listener(logging.Handler):
    def __init__(self, axis: str, signature: Signature) -> None:
        super().__init__()
        self._axis, self._signature = axis, signature
        self._places: dict[str, tuple[str, int]] = {}
        self.found: Fixing | None = None
        self.depth = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if symbol := _SYMBOL.match(text):
            spec = self._signature.inputs[int(symbol[2])]
            index = int(symbol[3])
            if spec.shape[index] == self._axis:
                self._places[symbol[1]] = (spec.name, index)
        fixed = _FIXED.match(text)
        if fixed and fixed[1] in self._places and self.found is None:
            frames = traceback.extract_stack()[self.depth :]  # above them stands the caller of export
            where = deepest((frame.filename, frame.lineno or 0) for frame in frames)
            self.found = Fixing(*self._places[fixed[1]], where)
