"""Feeds for a model that nobody has given samples of: every declared shape, and the values that break models.

A symbolic axis may be a sum of others, as in `past+sequence`; its size follows from theirs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeai.errors import InputError
from edgeai.spec import Array, Axis, Signature, TensorSpec

MAX_ELEMENTS = 1 << 21  # of one feed, all inputs together: 8 MB of float32
# In multiples of the axis: what axes take where nothing else is asked, small and, for the first axes, all different.
_SIZES = (2, 5, 3, 7)
_UNMADE = ("bfloat16", "int4", "uint4")  # numpy has them only where another package has registered them
_LARGER = 17  # prime, so no axis of it divides into another by accident

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Probe:
    """One complete feed, the size of each symbolic axis in it, and what is special about it in a few words."""

    feed: dict[str, Array]
    sizes: Sizes
    description: str


@dataclass(frozen=True)
class Style:
    """How the values of one feed are drawn: `scale` times N(0, 1) floats, ids by `ids`, masks by `mask`."""

    name: str
    scale: float = 1.0
    ids: str = "random"
    mask: str = "full"


STYLES = (
    Style("normal values"),
    Style("masks padded on the right", mask="right"),
    Style("masks padded on the left", mask="left"),
    Style("masks of a single token", mask="single"),
    Style("large values, highest ids", scale=30.0, ids="high"),
    Style("tiny values, ids at both ends", scale=1e-3, ids="ends"),
    Style("zeros, lowest ids", scale=0.0, ids="low"),
)
_MASKED = {style.mask: style for style in STYLES if style.mask != "full"}
_OTHER = Style("other values", mask="right")  # as usual as the first style, but a mask that hides something


def probe_feeds(signature: Signature, *, seed: int = 0, count: int | None = None, shapes: bool = True) -> list[Probe]:
    """Feeds over the declared range of every symbolic axis, and over value distributions at one small shape.

    At most `count` probes, the most telling first: value styles, then shapes. Without `shapes`, one shape only.
    The same seed gives the same feeds. Raises InputError for an input whose dtype cannot be generated.
    """
    generator = np.random.default_rng(seed)
    plans = list(itertools.islice(_plans(signature, shapes), count))
    return [_probe(signature, sizes, style, generator) for sizes, style in plans]


def redraw(signature: Signature, sizes: Sizes, generator: np.random.Generator) -> dict[str, Array]:
    """Other usual values at one shape; masks hide something. Raises InputError as `probe_feeds` does."""
    return _probe(signature, sizes, _OTHER, generator).feed


def is_mask(spec: TensorSpec) -> bool:
    """Does this input say which positions count? Integers in 0..1, or anything two-valued called a mask."""
    two_valued = spec.dtype == "bool" or ("int" in spec.dtype and spec.high == 2)
    return two_valued and ("mask" in spec.name.lower() or (spec.low, spec.high) == (0, 2))


def axis_names(signature: Signature) -> list[str]:
    """The axes whose sizes can be chosen freely, in the order in which the inputs name them."""
    found: dict[str, None] = {}
    for spec in signature.inputs:
        for axis in spec.shape:
            if isinstance(axis, str):
                found |= dict.fromkeys(_free_terms(axis))
    return list(found)


def size_of(axis: int | str, sizes: Sizes) -> int:
    """The size of a fixed axis, a symbolic axis, or a sum of them."""
    if isinstance(axis, int):
        return axis
    if axis in sizes:
        return sizes[axis]
    return sum(int(term) if term.isdigit() else sizes[term] for term in _terms(axis))


def shape_plans(signature: Signature) -> list[dict[str, int]]:
    """Sizes to try, each within the declared ranges and `MAX_ELEMENTS`; the first is the small usual shape.

    Where even the smallest declared sizes exceed `MAX_ELEMENTS`, those alone.
    """
    axes = [signature.axis(name) for name in axis_names(signature)]
    usual = {axis.name: _times(axis, _SIZES[i % len(_SIZES)]) for i, axis in enumerate(axes)}
    least = {axis.name: axis.minimum for axis in axes}
    plans = [usual, least, {axis.name: _times(axis, _LARGER) for axis in axes}]
    for axis in axes:
        plans += [{**usual, axis.name: size} for size in (axis.minimum, *(_times(axis, n) for n in (1, 3, _LARGER)))]
        plans.append(_largest(signature, axis, usual))
    distinct: dict[tuple[tuple[str, int], ...], dict[str, int]] = {}
    for plan in plans:
        distinct.setdefault(tuple(plan.items()), plan)
    return [plan for plan in distinct.values() if _allowed(signature, plan)] or [least]


def _plans(signature: Signature, shapes: bool) -> Iterator[tuple[dict[str, int], Style]]:
    masked = any(is_mask(spec) for spec in signature.inputs)
    plans = shape_plans(signature)
    base = plans[0]
    for style in STYLES:
        if masked or style.mask == "full":
            yield base, style
    # A mask that hides something in every shape: a graph that drops the mask shows at any of them.
    styles = [STYLES[0], _MASKED["right"], _MASKED["left"]] if masked else [STYLES[0]]
    for index, sizes in enumerate(plans[1:] if shapes else ()):
        yield sizes, styles[index % len(styles)]


def _probe(signature: Signature, sizes: Sizes, style: Style, generator: np.random.Generator) -> Probe:
    feed = {}
    for spec in signature.inputs:
        shape = tuple(size_of(axis, sizes) for axis in spec.shape)
        feed[spec.name] = _values(spec, shape, style, generator)
    where = " ".join(f"{name}={size}" for name, size in sizes.items())
    return Probe(feed, sizes, f"{where}, {style.name}" if where else style.name)


def _values(spec: TensorSpec, shape: tuple[int, ...], style: Style, generator: np.random.Generator) -> Array:
    if is_mask(spec):
        return _mask(shape, style.mask, generator).astype(spec.dtype)
    if spec.dtype == "string":
        return np.array(generator.choice(["", "a", "word", "zwölf Boxkämpfer"], shape), dtype=object)
    if spec.dtype == "bool":
        return np.asarray(generator.integers(0, 2, shape), np.bool_)
    if spec.dtype in _UNMADE:
        raise InputError(f"input {spec.name}: no values of dtype {spec.dtype} can be made with numpy alone")
    if "int" in spec.dtype:
        return _integers(spec, shape, style.ids, generator).astype(spec.dtype)
    return np.asarray(generator.standard_normal(shape) * style.scale, spec.dtype)


def _integers(spec: TensorSpec, shape: tuple[int, ...], ids: str, generator: np.random.Generator) -> Array:
    low = 0 if spec.low is None else spec.low
    high = max(low + 1, 2 if spec.high is None else spec.high)
    drawn: Mapping[str, Callable[[], Array]] = {
        "random": lambda: generator.integers(low, high, shape),
        "ends": lambda: np.where(generator.integers(0, 2, shape) == 1, high - 1, low),
        "high": lambda: np.full(shape, high - 1),
        "low": lambda: np.full(shape, low),
    }
    return np.asarray(drawn[ids](), dtype=np.int64)


def _mask(shape: tuple[int, ...], kind: str, generator: np.random.Generator) -> Array:
    """0 and 1 along the last axis, each row with its own padding and at least one 1 (a row of 0 means nothing)."""
    if not shape:
        return np.ones(shape, np.int64)
    length = shape[-1]
    if kind == "full" or length == 0:
        return np.ones(shape, np.int64)
    kept = generator.integers(1, length + 1, shape[:-1]) if kind != "single" else np.ones(shape[:-1], np.int64)
    if kind != "single" and kept.size:
        kept.flat[0] = max(1, length // 2)  # chance must not leave every row full
    position = np.arange(length)
    seen = position >= length - kept[..., None] if kind == "left" else position < kept[..., None]
    return seen.astype(np.int64)


def _terms(axis: str) -> list[str]:
    return [term.strip() for term in axis.split("+")]


def _free_terms(axis: str) -> list[str]:
    return [term for term in _terms(axis) if not term.isdigit()]


def _times(axis: Axis, count: int) -> int:
    """`count` multiples, or the size that comes nearest."""
    return axis.nearest(count * axis.multiple)


def _largest(signature: Signature, axis: Axis, usual: Sizes) -> dict[str, int]:
    """The largest size of `axis` that is allowed, the other axes as small as they go."""
    sizes = [axis.nearest(axis.maximum >> shift) for shift in range(axis.maximum.bit_length())]
    for size, floor in itertools.product(sizes, (1, 0)):
        others = {name: min(usual[name], _times(signature.axis(name), floor)) for name in usual}
        plan = {**others, axis.name: size}
        if size >= usual[axis.name] and _allowed(signature, plan):
            return plan
    return dict(usual)


def _allowed(signature: Signature, sizes: Sizes) -> bool:
    shapes = [[size_of(axis, sizes) for axis in spec.shape] for spec in signature.inputs]
    return _sums_fit(signature, sizes) and sum(map(math.prod, shapes)) <= MAX_ELEMENTS


def _sums_fit(signature: Signature, sizes: Sizes) -> bool:
    """Does every declared sum of axes (`past+sequence`) stay in its own range?"""
    declared: Sequence[Axis] = [axis for axis in signature.axes if len(_terms(axis.name)) > 1]
    return all(axis.minimum <= size_of(axis.name, sizes) <= axis.maximum for axis in declared)
