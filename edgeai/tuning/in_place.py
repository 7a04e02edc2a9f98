"""A decoder's last question: would what was chosen continue a text faster with its cache written in place?

That form takes one text at a time. Where the model was declared to take more, it is kept only if it was asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from edgeai.errors import EdgeAIError, UsageError
from edgeai.runtime.kv_cache import IDS, IN_PLACE, Layout
from edgeai.spec import Signature
from edgeai.tuning.candidates import Plan, Point
from edgeai.tuning.choice import NOISE_FLOOR
from edgeai.tuning.exploring import TIME_UP, Explored, Judged, Trial
from edgeai.tuning.objective import Figures


class Laboratory(Protocol):
    """What is done for it; see `edgeai.tuning.exploring.Laboratory`."""

    def make(self, plan: Plan) -> str | None: ...

    def judge(self, point: Point) -> Judged: ...

    def left(self) -> float: ...

    def time_texts(self, points: Sequence[Point]) -> Figures:
        """Figures of the second of two points against the first, one run being a whole text."""

    def log(self, text: str) -> None:
        """Say what the user should know."""


def is_decoder(signature: Signature) -> bool:
    try:
        Layout.of(signature)
    except UsageError:
        return False
    return True


def with_cache_in_place(found: Explored, lab: Laboratory, signature: Signature, *, asked: bool) -> Explored:
    """`found` with one more trial: its choice with the cache in place, chosen itself if it was measured faster.

    `signature` is the model's. If it declares more than one text at a time, `asked` must say that one is enough.
    Not tried where the time is up, unless it is `asked` for.
    """
    usual, texts = found.chosen, _texts(signature)
    trial, faster = _tried(usual, lab, asked=asked)
    if faster and (asked or texts == 1):
        replaced = dataclasses.replace(usual, reason=f"replaced by {trial.name} ({usual.reason})")
        others = tuple(replaced if one.name == usual.name else one for one in found.trials)
        chosen = dataclasses.replace(trial, reason=f"kept: {trial.reason}")
        return dataclasses.replace(found, chosen=chosen, trials=(*others, chosen))
    if faster:
        lab.log(f"with its cache in place it takes {trial.reason}, but one text at a time: --cache-in-place ships that")
        trial = dataclasses.replace(trial, reason=f"{trial.reason}, but not {texts} texts at once: not asked for")
    elif asked:
        lab.log(f"the cache is not written in place: {trial.reason}")
    return dataclasses.replace(found, trials=(*found.trials, trial))


def _tried(usual: Trial, lab: Laboratory, *, asked: bool) -> tuple[Trial, bool]:
    """`usual` with its cache in place, and whether that was measured faster."""
    point = dataclasses.replace(usual.point, plan=dataclasses.replace(usual.point.plan, form=IN_PLACE))
    if usual.point.provider != "cpu":
        return Trial(point, f"not tried: it is proven on the CPU, and {usual.point.provider} was chosen"), False
    if not asked and lab.left() <= 0:
        return Trial(point, f"not made: {TIME_UP}"), False
    refused = lab.make(point.plan)
    if refused or refused is None:
        return Trial(point, refused or f"it is {usual.name} again"), False
    judged = lab.judge(point)
    if judged.refused:
        return Trial(point, judged.refused, judged=judged), False
    try:
        measured = lab.time_texts((usual.point, point))
    except EdgeAIError as error:  # what was chosen before stays
        return Trial(point, f"not timed: {error.message}", judged=judged), False
    if measured.latency is None or not measured.is_resolved:
        return Trial(point, "not measured often enough to tell", judged=judged), False
    ratio, low, high = measured.latency
    said = f"{ratio:.2f}x the time of a text ({low:.2f}..{high:.2f}) of {usual.name}"
    faster = high < 1 - NOISE_FLOOR
    # The time of a text is no latency of one run: it is said, and does not stand beside the others' figures.
    known = Figures(size_bytes=measured.size_bytes)
    return Trial(point, said if faster else f"not shown to be faster: {said}", known, judged), faster


def _texts(signature: Signature) -> int:
    (rows,) = (spec.shape[0] for spec in signature.inputs if spec.name == IDS)
    return rows if isinstance(rows, int) else signature.axis(rows).maximum
