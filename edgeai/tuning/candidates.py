"""What can be tried: forms of the graph, recipes, providers and session settings, the most promising first. Pure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from edgeai.errors import UsageError
from edgeai.graph import DEFAULT_FORMS, FORMS, TARGETS
from edgeai.quantization import RECIPES, Int8Static, Recipe, int8_for
from edgeai.runtime.settings import SessionSettings

BASELINE = "fp32"

# What may win there. TensorRT's integers and the int8 of CUDA are asked for by name.
_RECIPES_FOR: Mapping[str, tuple[str, ...]] = {
    "cpu": ("int8-dynamic", "int8-static", "int8-weight", "int4-weight"),
    "cuda": ("fp16", "bf16"),
    "tensorrt": ("fp16",),
    "openvino": ("int8-static",),
}
# Of static recipes: scope, and whether activations are symmetric. OpenVINO places conversions itself: a chain of
# convolutions stays in integers as it is written, but between the products of a transformer every pair that was written
# down costs time. Its products are faster without a zero point, whose bit convolutions miss after Relu.
_SCHEMES_FOR: Mapping[str, tuple[tuple[str | None, bool], ...]] = {
    "openvino": (("products", False), ("products", True), (None, False))
}
_SCHEMES = ((None, False),)
# Quantizers know the standard operators best; attention without Transposes has the least around its products.
_QUANTIZABLE = ("portable-separate-qkv", "portable", "attention3d", "separate-qkv")
# Weight-only recipes gain nothing from another form of attention but the decoder's.
_FORMS_FOR: Mapping[str, tuple[str, ...]] = dict.fromkeys(("int8-weight", "int4-weight"), ("portable", "gqa"))

# What ONNX Runtime has fused if such a node is in the optimized graph and not in the file: the fusion can be
# switched off, and the kernels of the parts are sometimes the faster ones. Tried in this order.
FUSIONS: Mapping[str, str] = {
    "SkipLayerNormalization": "SkipLayerNormFusion",
    "EmbedLayerNormalization": "EmbedLayerNormFusion",
    "BiasGelu": "BiasGeluFusion",
    "FastGelu": "FastGeluFusion",
    "QuickGelu": "QuickGeluFusion",
    "Attention": "AttentionFusion",
    "FusedMatMul": "MatMulScaleFusion",
    "FusedConv": "ConvActivationFusion",
    "FusedGemm": "GemmActivationFusion",
    "DynamicQuantizeMatMul": "DynamicQuantizeMatMulFusion",
    "MatMulIntegerToFloat": "MatMulIntegerToFloatFusion",
}


# The CPU's features with which a provider multiplies float32 in bfloat16, if it may.
_BFLOAT16: Mapping[str, frozenset[str]] = {"cpu": frozenset({"bf16"}), "openvino": frozenset({"avx512_bf16"})}
_WITH_THREADS = ("cpu", "openvino")
_IN_MAIN_MEMORY = ("cpu", "openvino")


@dataclass(frozen=True)
class Plan:
    """A model file: the form of its graph (None: as it came), and the recipe of its weights (None: float).

    `observer`, `scope` and `symmetric` (activations) are the static recipe's, where not the defaults; `in_budget`
    leaves in float the layers that cost too much accuracy.
    """

    form: str | None = None
    recipe: str | None = None
    observer: str | None = None
    scope: str | None = None
    symmetric: bool = False
    in_budget: bool = False

    @property
    def name(self) -> str:
        parts = (self.recipe or BASELINE, self.scope, "symmetric" if self.symmetric else None, self.observer)
        kind = "-".join(part for part in parts if part)
        return " ".join(part for part in (kind, self.form, "in budget" if self.in_budget else None) if part)

    @property
    def provider(self) -> str:
        """The one that the file was made for."""
        return next((name for name, schemes in _SCHEMES_FOR.items() if self.scope and self._scheme in schemes), "cpu")

    @property
    def _scheme(self) -> tuple[str | None, bool]:
        return self.scope, self.symmetric

    def runs_on(self, provider: str) -> bool:
        """Is it one of the recipes, and of their schemes, that `provider` is fast with?"""
        if self.recipe is None:
            return True
        known = provider == "cpu" or self.recipe in _RECIPES_FOR.get(provider, ())
        return known and self._scheme in _schemes(self.recipe, provider)

    @property
    def is_lossy(self) -> bool:
        return self.recipe is not None

    def make_recipe(self, cache: str | None = None) -> Recipe | None:
        """The recipe with its options; `cache` is the directory in which static recipes share their calibration."""
        if self.recipe is None:
            return None
        if self.recipe == Int8Static.name:
            made_for = int8_for(self.provider)
            options = {"observer": self.observer or made_for.observer, "scope": self.scope or made_for.scope}
            if self.symmetric:
                made_for = dataclasses.replace(made_for, activation_type="int8", symmetric_activations=True)
            return dataclasses.replace(made_for, cache=cache, **options)  # type: ignore[arg-type]
        return RECIPES[self.recipe]()


@dataclass(frozen=True)
class Point:
    """A model file as it runs: where, and with which session settings."""

    plan: Plan = field(default_factory=Plan)
    provider: str = "cpu"
    settings: SessionSettings = field(default_factory=SessionSettings)

    @property
    def name(self) -> str:
        return ", ".join((self.plan.name, *self.departures))

    @property
    def is_lossy(self) -> bool:
        """May its answers differ from the float session's on the CPU by more than rounding?"""
        return self.plan.is_lossy or self.provider != "cpu" or self.settings.bfloat16

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as a plain CPU session has it, in words."""
        found = [] if self.provider == "cpu" else [self.provider]
        found += [f"{name} off" for name in self.settings.disabled_optimizers]
        if self.settings.threads is not None:
            found.append(f"{self.settings.threads} thread{'s' if self.settings.threads > 1 else ''}")
        found += [] if self.settings.spinning else ["no spinning"]
        found += [] if self.settings.arena else ["no arena"]
        found += ["bfloat16"] if self.settings.bfloat16 else []
        found += ["huge pages"] if self.settings.huge_pages else []
        return (*found, *(f"{key}={value}" for key, value in self.settings.config.items()))


def plans(
    providers: Sequence[str] = ("cpu",),
    *,
    forms: Sequence[str] = (),
    recipes: Sequence[str] | None = None,
) -> list[Plan]:
    """Everything that could be made for `providers`, the most promising first; the file as it came is not in it.

    `forms` and `recipes` leave out all others; no forms are all forms, None are the recipes that may win there.
    Raises UsageError for an unknown name, and for a form that none of `providers` runs.
    """
    _refuse_unknown(forms, FORMS, "form")
    _refuse_unknown(recipes or (), RECIPES, "recipe")
    for form in forms:
        if not any(_target(provider) in FORMS[form].targets for provider in providers):
            raise UsageError(
                f"form {form!r} runs on none of {', '.join(providers)}",
                hint=f"it is for {', '.join(FORMS[form].targets)}",
            )
    each = [_plans_for(provider, forms, recipes) for provider in providers]
    # One of each in turn: if the time runs out, no provider has had it all.
    return list(dict.fromkeys(plan for row in itertools.zip_longest(*each) for plan in row if plan is not None))


def _plans_for(provider: str, forms: Sequence[str], recipes: Sequence[str] | None) -> list[Plan]:
    wanted = _RECIPES_FOR.get(provider, ()) if recipes is None else recipes
    runs = [form for form in FORMS if _target(provider) in FORMS[form].targets and (not forms or form in forms)]
    default = DEFAULT_FORMS[_target(provider)]
    quantizable = sorted(runs, key=lambda form: _QUANTIZABLE.index(form) if form in _QUANTIZABLE else 9)
    firsts = quantizable[:2]
    found = [Plan(default)] if default in runs else []
    for some in (firsts, [form for form in quantizable if form not in firsts]):
        found += [
            Plan(form, recipe, scope=scope, symmetric=symmetric)
            for recipe in wanted  # first: where time is short, another form of a good recipe tells more
            for form in some
            if form in _FORMS_FOR.get(recipe, runs)
            for scope, symmetric in _schemes(recipe, provider)
        ]
        found += [Plan(form) for form in some]
    return found


def points(plan: Plan, providers: Sequence[str]) -> list[Point]:
    """The plan on each provider that runs it."""
    return [
        Point(plan, provider)
        for provider in providers
        if (plan.form is None or _target(provider) in FORMS[plan.form].targets) and plan.runs_on(provider)
    ]


def rescues(plan: Plan) -> list[Plan]:
    """What to try when the plan's accuracy does not hold, the cheapest first."""
    if plan.recipe is None or plan.in_budget:
        return []
    others = [dataclasses.replace(plan, observer="percentile")] if plan.recipe == Int8Static.name else []
    if plan.observer is not None:
        others = []
    return [*others, dataclasses.replace(plan, in_budget=True, observer=None)]


def variants(
    point: Point, fired: Collection[str], cores: int, features: Collection[str] = (), *, huge_pages: bool = False
) -> list[Point]:
    """The same file with one setting changed: each fusion that has `fired` switched off, fewer threads, and so on.

    The most promising first, should the time not suffice for all: fewer threads seldom help where a run takes long.
    Fusions, spinning and the arena are the CPU provider's. `features` are the CPU's; `huge_pages`: are there any, and
    is the file large enough to gain from them?
    """
    plain = point.settings
    changed = []
    if not plain.bfloat16 and not _BFLOAT16.get(point.provider, frozenset()).isdisjoint(features):
        changed.append(dataclasses.replace(plain, bfloat16=True))
    if huge_pages and not plain.huge_pages and point.provider in _IN_MAIN_MEMORY:
        changed.append(dataclasses.replace(plain, huge_pages=True))
    if point.provider == "cpu":
        changed += [
            dataclasses.replace(plain, disabled_optimizers=(*plain.disabled_optimizers, name))
            for name in FUSIONS.values()
            if name in fired and name not in plain.disabled_optimizers
        ]
        if plain.spinning:
            changed.append(dataclasses.replace(plain, spinning=False))
        if plain.arena:
            changed.append(dataclasses.replace(plain, arena=False))
    if point.provider in _WITH_THREADS and plain.threads is None:
        changed += [dataclasses.replace(plain, threads=count) for count in _fewer(cores)]
    return [dataclasses.replace(point, settings=settings) for settings in changed]


def combined(point: Point, better: Sequence[Point]) -> Point | None:
    """All the changes of `better` at once; None where those are fewer than two."""
    if len(better) < 2:
        return None
    settings = point.settings
    for other in better:
        settings = dataclasses.replace(
            settings,
            disabled_optimizers=tuple(sorted({*settings.disabled_optimizers, *other.settings.disabled_optimizers})),
            spinning=settings.spinning and other.settings.spinning,
            arena=settings.arena and other.settings.arena,
            threads=settings.threads or other.settings.threads,
            bfloat16=settings.bfloat16 or other.settings.bfloat16,
            huge_pages=settings.huge_pages or other.settings.huge_pages,
        )
    return dataclasses.replace(point, settings=settings)


def _schemes(recipe: str, provider: str) -> tuple[tuple[str | None, bool], ...]:
    return _SCHEMES_FOR.get(provider, _SCHEMES) if recipe == Int8Static.name else _SCHEMES


def _target(provider: str) -> str:
    """What the graph passes know of the provider: of one that they do not know, standard operators."""
    return provider if provider in TARGETS else "portable"


def _fewer(cores: int) -> list[int]:
    """Half of the cores, half of those, down to one."""
    return [] if cores < 2 else [cores // 2, *_fewer(cores // 2)]


def _refuse_unknown(names: Sequence[str], known: Mapping[str, object], what: str) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}", hint=f"use {', '.join(known)}")
