"""The search: which points to make, measure and judge, and which one to keep. Pure; a `Laboratory` has the effects.

First the files (forms x recipes x providers) by successive halving, then the session settings of the best of those
whose accuracy holds, one more as long as it helps, then a whole measurement of what is left, the plain float session
always among it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgeai.tuning.candidates import BASELINE, Plan, Point, combined, points, rescues, variants
from edgeai.tuning.choice import NOISE_FLOOR, TIME, Choice, Measured, Words, choose
from edgeai.tuning.frontier import frontier
from edgeai.tuning.halving import Cost, Halving, halve
from edgeai.tuning.objective import Figures
from edgeai.tuning.space import Space

TIME_UP = "the time was up"
_MAKING_SHARE = 0.45  # of the time: files that are not made by then are not made
_JUDGING_SHARE = 0.4  # of what is left once the files are made
_SETTINGS_EFFORT = 0.4
_ONE_SPEED = 1.1  # a baseline that once took longer by more than this shows a machine that changes its speed
_UNSTEADY_EFFORT = 6  # of the last round there: it should see more than one of the speeds
_LARGE_BYTES = 8 << 20  # second-level TLBs reach 6 to 16 MiB in pages of 4 KiB
_RESCUED = 2  # searches for layers to leave in float: each takes minutes on a large model


@dataclass(frozen=True)
class Judged:
    """`loss` is the relative drop of the metric, or the relative distance of the outputs; `refused` why it is too much.

    `agreement` is the whole finding as JSON.
    """

    loss: float
    refused: str = ""
    agreement: Mapping[str, object] = field(default_factory=dict)


class Laboratory(Protocol):
    """What the search has done for it. Each may be slow, and is asked for once."""

    def make(self, plan: Plan) -> str | None:
        """Write the plan's file. In a few words why not, "" if it is there, None if it is an earlier one's again."""

    def measure(self, some: Sequence[Point], effort: float) -> Mapping[str, Figures]:
        """Figures of the points and of the baseline, by name, all measured in turn."""

    def judge(self, point: Point) -> Judged:
        """Compare the answers with the reference's."""

    def fired(self, point: Point) -> Sequence[str]:
        """The fusions that could be switched off."""

    def group(self, some: Sequence[Point]) -> int:
        """How many of them can be measured together."""

    def left(self) -> float:
        """Seconds; infinite without a limit."""

    def note(self, text: str) -> None:
        """Say where the search stands."""


@dataclass(frozen=True)
class Trial:
    """One point, and why it is or is not kept. What was not found out about it is None."""

    point: Point
    reason: str
    figures: Figures | None = None
    judged: Judged | None = None

    @property
    def name(self) -> str:
        return self.point.name


@dataclass(frozen=True)
class Explored:
    """`trials` start with the baseline. Nothing beats those on the `frontier` in accuracy, cost and size at once."""

    chosen: Trial
    trials: tuple[Trial, ...]
    frontier: tuple[str, ...]


def explore(
    wanted: Sequence[Plan], lab: Laboratory, space: Space, *, cores: int, features: Collection[str] = (),
    huge_pages: bool = False, reserve: float = 0.0, words: Words = TIME,
) -> Explored:  # fmt: skip
    """Search among `wanted` and the settings of the best. `reserve` seconds are kept for the last measurement.

    `cores` and `features` are the CPU's, `huge_pages` says whether the system has any: settings that they rule out are
    not tried.

    The baseline is measured in every round and kept unless something else was shown to be better.
    """
    search = _Search(lab, space, cores, features, huge_pages, reserve, words)
    search.add(wanted)
    accepted = search.files()
    if space.settings:
        accepted = search.settings(accepted)
    return search.conclude(accepted)


class _Search:
    """What is known so far, by the names of points, in the order in which they came up."""

    def __init__(
        self, lab: Laboratory, space: Space, cores: int, features: Collection[str], huge_pages: bool, reserve: float,
        words: Words,
    ) -> None:  # fmt: skip
        self._lab, self._space, self._reserve, self._words = lab, space, reserve, words
        self._cores, self._features, self._huge_pages = cores, features, huge_pages
        self._base = Point()
        self._points: dict[str, Point] = {}
        self._reasons: dict[str, str] = {}
        self._figures: dict[str, Figures] = {}
        self._judged: dict[str, Judged] = {}
        self._longest_judging = 0.0
        self._seconds_per_effort = 0.0  # of one point, in the last measurement
        self._base_ns: list[int] = []

    def add(self, wanted: Sequence[Plan]) -> None:
        """Make the files, as long as there is time for it."""
        lab = self._lab
        last = lab.left() * (1 - _MAKING_SHARE) if lab.left() < math.inf else -math.inf
        made = [point for point in points(Plan(), self._space.providers) if point != self._base]
        for plan in wanted:
            refused = f"not made: {TIME_UP}" if lab.left() <= last else lab.make(plan)
            found = points(plan, self._space.providers)
            if refused:
                known = found[0] if found else Point(plan)
                self._points[known.name] = known
                self._reasons[known.name] = refused
            elif refused is not None:
                made += found
        self._points |= {point.name: point for point in made}
        self._candidates = [point.name for point in made]

    def files(self) -> list[Point]:
        """The best of the files whose accuracy holds."""
        lab = self._lab
        lab.note(f"measuring {len(self._candidates)} candidates")
        reserve = self._reserve
        if lab.left() < math.inf:  # a candidate that is not judged was measured in vain
            reserve += _JUDGING_SHARE * max(0.0, lab.left() - reserve)
        halving = self._halve(self._candidates, (0.15, 0.4), keep=2 * self._space.finalists, reserve=reserve)
        accepted: list[Point] = []
        rescued = 0
        for name in halving.ranking:
            point, cost = self._points[name], halving.costs[name]
            if len(accepted) == self._space.finalists:
                break
            if cost[1] > 1 + NOISE_FLOOR:
                continue  # it cannot win, and judging takes time
            if self._judged and not self._has_time():
                self._reasons[name] = f"accuracy not judged: {TIME_UP}"
                continue
            if not self._judge(point).refused:
                accepted.append(point)
            elif rescued < _RESCUED and (saved := self._rescue(point)) is not None:
                rescued += 1
                accepted.append(saved)
        self._judge_each_recipe(halving.ranking)
        return accepted

    def settings(self, accepted: Sequence[Point]) -> list[Point]:
        """The best of `accepted` and of what settings make of them: each step adds one to what the last one helped."""
        unmeasured = [point for point in accepted if point.name not in self._figures]
        ahead = [point for point in accepted if self._cost(point) < 1 - NOISE_FLOOR]
        first = [*_one_of_each(ahead), self._base, *(point for point in accepted if point not in ahead)]
        found, parents = list(accepted), self._affordable(first, least=max(1, self._space.finalists - 1))
        while parents and self._has_time():
            better = self._step(parents, unmeasured)
            found += better
            parents, unmeasured = self._affordable(_one_of_each(sorted(better, key=self._cost))), []
        return self._finalists(found)

    def _affordable(self, parents: Sequence[Point], *, least: int = 0) -> list[Point]:
        """The first of them, as many as there is time for to try their settings."""
        time = self._measurable(_SETTINGS_EFFORT, reserve=self._reserve)
        needed = itertools.accumulate(1 + len(self._variants(parent)) for parent in parents)
        return list(parents[: max(least, sum(1 for _ in itertools.takewhile(lambda n: n <= time, needed)))])

    def _variants(self, parent: Point) -> list[Point]:
        # A file for another provider may not even open on the CPU, where fusions are looked for.
        fired = self._lab.fired(parent) if parent.provider == "cpu" else ()
        known = self._figures.get(parent.name)
        large = known is not None and (known.size_bytes or 0) >= _LARGE_BYTES
        some = variants(parent, fired, self._cores, self._features, huge_pages=self._huge_pages and large)
        return [point for point in some if point.name not in self._points]

    def _step(self, parents: Sequence[Point], unmeasured: Sequence[Point]) -> list[Point]:
        """Of each parent the child that is better than it, and all of its better ones together."""
        children = {parent.name: self._variants(parent) for parent in parents}
        # One of each parent in turn: if the time runs out, none has had it all.
        tried = [point for row in itertools.zip_longest(*children.values()) for point in row if point is not None]
        if not tried:
            return []
        self._lab.note(f"measuring {len(tried)} settings of {', '.join(children)}")
        self._points |= {point.name: point for point in (*parents, *tried)}
        wanted = {point.name: None for point in (*unmeasured, *parents, *tried) if point != self._base}
        costs = self._halve(list(wanted), (_SETTINGS_EFFORT,), keep=1, reserve=self._reserve).costs
        costs = {self._base.name: (1.0, 1.0, 1.0), **costs}
        found: list[Point] = []
        for parent in parents:
            if parent.name not in costs:
                continue
            some = [point for point in children[parent.name] if point.name in costs]
            better = [point for point in some if _improves(costs[point.name], costs[parent.name])]
            better.sort(key=lambda point: costs[point.name][0])
            together = combined(parent, better)
            found += better[:1]
            if together is not None and together.name not in self._points:
                self._points[together.name] = together
                found.append(together)
        return found

    def _finalists(self, found: Sequence[Point]) -> list[Point]:
        """The best of them, and the best that shares its work among fewer threads.

        What sharing costs is the host's doing and may change within minutes: a thread alone does not notice.
        """
        best = sorted(found, key=self._cost)[: 2 * self._space.finalists]
        fewer = [
            point
            for name, point in self._points.items()
            if point.settings.threads and name in self._figures and not self._figures[name].failed
        ]
        return [*best, *(point for point in sorted(fewer, key=self._cost)[:1] if self._cost(point) < 1 - NOISE_FLOOR)]

    def conclude(self, accepted: Sequence[Point]) -> Explored:
        """Measure the finalists whole, and keep the best one whose own settings answer as they should."""
        lab = self._lab
        finalists = list({point.name: point for point in accepted if point != self._base}.values())
        lab.note(f"last round: {self._base.name} and {len(finalists)} others")
        group, effort = lab.group(finalists), self._last_effort(len(finalists))
        for start in range(0, max(1, len(finalists)), group):
            self._measure(finalists[start : start + group], effort)
        self._points = {self._base.name: self._base} | self._points
        while True:
            choice = choose(
                self._measured(self._base), [self._measured(point) for point in finalists], words=self._words
            )
            winner = self._points[choice.name]
            if winner == self._base or winner.name in self._judged:
                break
            self._judge(winner)
        return self._explored(winner, choice, [self._base.name, *(point.name for point in finalists)])

    def _cost(self, point: Point) -> float:
        """What is known of it; what was only just rescued counts as good."""
        known = self._figures.get(point.name)
        return known.cost[0] if known and known.cost else 0.0

    def _measured(self, point: Point) -> Measured:
        known = self._figures[point.name]
        judged = self._judged.get(point.name)
        refused = known.failed or (judged.refused if judged else "")
        cost = known.cost or (1.0, 1.0, 1.0)
        if point != self._base and (known.cost is None or not known.is_resolved):
            refused = refused or "not measured often enough to tell"
        return Measured(point.name, known.size_bytes or 1, *cost, refused, len(point.departures))

    def _explored(self, winner: Point, choice: Choice, finalists: Sequence[str]) -> Explored:
        self._judged.setdefault(self._base.name, Judged(0.0))
        trials = {
            name: Trial(
                point, choice.reasons[name] if name in finalists else self._reason(name),
                self._figures.get(name), self._judged.get(name),
            )
            for name, point in self._points.items()
        }  # fmt: skip
        axes = {
            name: (max(0.0, trial.judged.loss), figures.cost[0] if figures.cost else 1.0, figures.size_bytes or 0)
            for name, trial in trials.items()
            if trial.judged and (figures := trial.figures) and not figures.failed
        }
        return Explored(trials[winner.name], tuple(trials.values()), frontier(axes))

    def _reason(self, name: str) -> str:
        if reason := self._reasons.get(name):
            return reason
        known = self._figures.get(name)
        if known is None:
            return f"not measured: {TIME_UP}"
        if known.failed:
            return f"does not run: {known.failed}"
        if (judged := self._judged.get(name)) and judged.refused:
            return judged.refused
        assert known.cost is not None
        cost, low, high = known.cost
        said = f"{cost:.2f}x {self._words.cost} ({low:.2f}..{high:.2f})"
        return f"{self._words.worse} than {BASELINE}: {said}" if low > 1 + NOISE_FLOOR else f"left behind: {said}"

    def _halve(self, names: Sequence[str], efforts: Sequence[float], *, keep: int, reserve: float) -> Halving:
        def measure(some: Sequence[str], effort: float) -> dict[str, Cost | None]:
            found = self._measure([self._points[name] for name in some], effort)
            return {name: None if found[name].failed else found[name].cost for name in some}

        return halve(
            names, measure, efforts=efforts, keep=keep, group=self._lab.group([self._points[name] for name in names]),
            left=self._lab.left, reserve=reserve,
        )  # fmt: skip

    def _measure(self, some: Sequence[Point], effort: float) -> Mapping[str, Figures]:
        before = self._lab.left()
        found = self._lab.measure(some, effort)
        self._figures |= found
        if some and before < math.inf:
            self._seconds_per_effort = (before - self._lab.left()) / len(some) / effort
        if taken := found[self._base.name].p50_ns:
            self._base_ns.append(taken)
        return found

    def _measurable(self, effort: float, *, reserve: float) -> float:
        """How many points can be measured until no more than `reserve` seconds are left."""
        left = max(0.0, self._lab.left() - reserve)
        return left / self._seconds_per_effort / effort if self._seconds_per_effort else math.inf

    def _last_effort(self, finalists: int) -> float:
        """1, a whole measurement; more where the machine changed its speed, as far as the time goes."""
        if not finalists or not self._base_ns or max(self._base_ns) <= _ONE_SPEED * min(self._base_ns):
            return 1.0
        fast, slow = min(self._base_ns) / 1e6, max(self._base_ns) / 1e6
        self._lab.note(f"the machine changed its speed: {self._base.name} took {fast:.3g} to {slow:.3g} ms a run")
        affordable = self._measurable(1.0, reserve=0.0) / finalists
        return max(1.0, float(min(_UNSTEADY_EFFORT, affordable) // 1))

    def _has_time(self) -> bool:
        return self._lab.left() - self._longest_judging > self._reserve

    def _judge(self, point: Point) -> Judged:
        before = self._lab.left()
        found = self._judged[point.name] = self._lab.judge(point)
        if before < math.inf:
            self._longest_judging = max(self._longest_judging, before - self._lab.left())
        return found

    def _judge_each_recipe(self, ranking: Sequence[str]) -> None:
        """What a recipe costs in accuracy should be known, even where it was not fast enough to be looked at."""
        known = {self._points[name].plan.recipe for name in self._judged}
        for point in map(self._points.__getitem__, ranking):
            if point.plan.recipe not in known and self._has_time():
                known.add(point.plan.recipe)
                self._judge(point)

    def _rescue(self, point: Point) -> Point | None:
        """The same recipe in a way that keeps the accuracy, if there is time and one does."""
        for plan in rescues(point.plan):
            other = dataclasses.replace(point, plan=plan)
            if not self._has_time() or other.name in self._points:
                continue
            self._lab.note(f"{point.name} does not keep the accuracy: trying {plan.name}")
            self._points[other.name] = other
            refused = self._lab.make(plan)
            if refused or refused is None:
                self._reasons[other.name] = refused or "not made: it is an earlier file again"
            elif not self._judge(other).refused:
                return other
        return None


def _one_of_each(some: Sequence[Point]) -> list[Point]:
    """The best of each recipe first: what a setting does for one form of it, it does for the others as well."""
    firsts = {point.plan.recipe: point for point in reversed(some)}.values()
    return sorted(some, key=lambda point: point not in firsts)


def _improves(cost: Cost, usual: Cost) -> bool:
    return cost[0] < usual[0] * (1 - NOISE_FLOOR) and cost[2] < usual[2]
