"""Which opset and IR version a release of ONNX Runtime opens, and which of them a file gets.

The rows up to 1.14 are those of ONNX Runtime's compatibility page (onnxruntime.ai/docs/reference/compatibility.html,
the lower where its versions disagree). From 1.15 on each was found by opening a one-node graph at every opset and
IR version with that release (the last patch on PyPI); 1.25, 1.28 and 1.31.0 count as the release before them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeai.errors import UsageError

# The oldest opset that ONNX Runtime promises to run, and the newest that can be proven here: with 1.31.
OLDEST_OPSET, NEWEST_OPSET = 7, 26

# First minor release of ONNX Runtime 1.x -> opset, IR version.
_LIMITS = {
    0: (11, 6), 3: (12, 7), 6: (13, 7), 8: (14, 7), 9: (15, 7), 11: (16, 8), 12: (17, 8), 14: (18, 8),
    16: (19, 9), 17: (20, 9), 18: (21, 10), 21: (22, 10), 23: (23, 11), 24: (25, 13), 26: (26, 13),
}  # fmt: skip
_NEWEST_MINOR = 32


@dataclass(frozen=True)
class Limits:
    """The newest that a runtime opens. `runtime` names it in messages."""

    runtime: str = "ONNX Runtime 1.31"
    opset: int = NEWEST_OPSET
    ir_version: int = 13

    def opset_for(self, asked: int | None, default: int) -> int:
        """`asked`, or `default` lowered to what the runtime takes. Raises UsageError if `asked` is out of range."""
        opset = min(default, self.opset) if asked is None else asked
        if OLDEST_OPSET <= opset <= self.opset:
            return opset
        hint = f"{OLDEST_OPSET} to {NEWEST_OPSET} can be written"
        if opset > self.opset < NEWEST_OPSET:
            hint = f"the newest that it opens is opset {self.opset}"
        raise UsageError(f"opset {opset} cannot be written for {self.runtime}", hint=hint)


def limits(target_ort: str | None) -> Limits:
    """What `target_ort` ("1.17", "1.17.3") opens; without one, what the runtime here opens.

    Raises UsageError if it is no release of ONNX Runtime from 1.0 to 1.32.
    """
    if target_ort is None:
        return Limits()
    found = re.fullmatch(r"1\.(\d+)(\.\d+)?", target_ort.strip())
    if found is None or int(found[1]) > _NEWEST_MINOR:
        raise UsageError(
            f"there is no ONNX Runtime {target_ort!r} that a file could be written for",
            hint=f"name a release from 1.0 to 1.{_NEWEST_MINOR}, as 1.17",
        )
    opset, ir_version = next(_LIMITS[minor] for minor in reversed(_LIMITS) if minor <= int(found[1]))
    return Limits(f"ONNX Runtime 1.{found[1]}", opset, ir_version)
