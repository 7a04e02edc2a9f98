import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeai.errors import InputError
from edgeai.probing import MAX_ELEMENTS, axis_names, is_mask, probe_feeds, redraw, shape_plans, size_of
from edgeai.spec import Axis, Signature, TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", "seq"), 0, 100)
MASK = TensorSpec("attention_mask", "int64", ("batch", "seq"), 0, 2)
TEXT = Signature((IDS, MASK), (), (Axis("batch", 1, 8), Axis("seq", 1, 64)))


def test_every_axis_takes_one_an_odd_size_and_its_maximum() -> None:
    plans = [dict(probe.sizes) for probe in probe_feeds(TEXT)]
    for axis in TEXT.axes:
        sizes = {plan[axis.name] for plan in plans}
        assert {1, 3, axis.maximum} <= sizes
        assert all(axis.minimum <= size <= axis.maximum for size in sizes)


def test_the_first_shape_tells_all_axes_apart() -> None:
    first = shape_plans(TEXT)[0]
    assert len(set(first.values())) == len(first) and min(first.values()) >= 2


def test_ids_reach_both_ends_and_never_leave_their_range() -> None:
    values = np.concatenate([probe.feed["ids"].ravel() for probe in probe_feeds(TEXT)])
    assert values.min() == 0 and values.max() == 99


def test_masks_are_full_padded_on_either_side_and_of_one_token_but_never_empty() -> None:
    seen = {probe.description.split(", ")[1]: probe.feed["attention_mask"] for probe in probe_feeds(TEXT, shapes=False)}
    assert seen["normal values"].all()
    right, left = seen["masks padded on the right"], seen["masks padded on the left"]
    assert not right.all() and (np.diff(right) <= 0).all()
    assert not left.all() and (np.diff(left) >= 0).all()
    assert (seen["masks of a single token"].sum(-1) == 1).all()
    assert all((probe.feed["attention_mask"].sum(-1) >= 1).all() for probe in probe_feeds(TEXT))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (TensorSpec("attention_mask", "int64", (4,), 0, 2), True),
        (TensorSpec("attention_mask", "int64", (4,), 1, 2), True),  # called a mask: it will be used as one
        (TensorSpec("segments", "int32", (4,), 0, 2), True),
        (TensorSpec("padding_mask", "bool", (4,)), True),
        (TensorSpec("flags", "bool", (4,)), False),
        (TensorSpec("ids", "int64", (4,), 0, 100), False),
        (TensorSpec("mask", "float32", (4,)), False),
    ],
)
def test_what_is_taken_for_a_mask(spec: TensorSpec, expected: bool) -> None:
    assert is_mask(spec) is expected


def test_float_values_are_normal_large_tiny_and_zero() -> None:
    signature = Signature((TensorSpec("x", "float32", (1000,)),), ())
    spreads = {round(float(probe.feed["x"].std()), 3) for probe in probe_feeds(signature)}
    assert 0.0 in spreads and max(spreads) > 20 and any(0 < spread < 0.01 for spread in spreads)


def test_a_sum_of_axes_follows_its_terms_and_stays_in_its_range() -> None:
    shapes = (("batch", "seq"), ("batch", "past+seq"), ("batch", 2, "past", 4))
    specs = tuple(TensorSpec(name, "float32", shape) for name, shape in zip("abc", shapes, strict=True))
    signature = Signature(
        specs, (), (Axis("batch", 1, 4), Axis("seq", 1, 32), Axis("past", 0, 31), Axis("past+seq", 1, 32))
    )
    probes = probe_feeds(signature)
    for probe in probes:
        assert probe.feed["b"].shape[1] == probe.sizes["past"] + probe.sizes["seq"] <= 32
    assert {probe.sizes["past"] for probe in probes} >= {0, 31}
    assert {probe.sizes["seq"] for probe in probes} >= {1, 32}


def test_no_feed_is_larger_than_the_bound() -> None:
    image = Signature((TensorSpec("image", "float32", ("batch", 3, 224, 224)),), (), (Axis("batch", 1, 4096),))
    largest = max(probe.feed["image"].size for probe in probe_feeds(image))
    assert MAX_ELEMENTS / 4 < largest <= MAX_ELEMENTS


def test_where_the_bound_cannot_be_kept_the_least_is_fed() -> None:
    """2048 x 2048 is what the axis allows at least, and already more than the bound."""
    huge = Signature((TensorSpec("x", "float32", ("a", "a")),), (), (Axis("a", 2048, 8192, 1024),))
    assert [probe.feed["x"].shape for probe in probe_feeds(huge, shapes=False, count=1)] == [(2048, 2048)]
    assert shape_plans(huge) == [{"a": 2048}]


def test_the_seed_decides_and_count_limits() -> None:
    once, again = probe_feeds(TEXT, seed=3, count=4), probe_feeds(TEXT, seed=3, count=4)
    other = probe_feeds(TEXT, seed=4, count=4)
    assert len(once) == 4
    assert all(np.array_equal(a.feed["ids"], b.feed["ids"]) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0].feed["ids"], other[0].feed["ids"])


def test_scalars_strings_bools_and_unranged_integers_get_values() -> None:
    specs = (
        TensorSpec("scale", "float64", ()),
        TensorSpec("words", "string", ("n",)),
        TensorSpec("flag", "bool", ("n",)),
        TensorSpec("count", "int32", ("n",)),
        TensorSpec("on_mask", "bool", ()),
    )
    signature = Signature(specs, ())
    for probe in probe_feeds(signature):
        signature.check(probe.feed)
        assert set(np.unique(probe.feed["count"])) <= {0, 1}


def test_a_dtype_that_numpy_lacks_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="input w: no values of dtype int4"):
        probe_feeds(Signature((TensorSpec("w", "int4", (2,)),), ()))


axes = st.builds(
    lambda name, low, extra, multiple: Axis(name, low, low + multiple + extra, multiple),
    st.sampled_from("abc"),
    st.integers(0, 9),
    st.integers(0, 2000),
    st.sampled_from([1, 1, 2, 7, 32, 64]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(axes, unique_by=lambda axis: axis.name, min_size=1, max_size=3),
    st.lists(st.lists(st.sampled_from(["a", "b", "c", 1, 4]), max_size=3), min_size=1, max_size=3),
)
def test_every_probe_fits_the_signature(declared: list[Axis], shapes: list[list[int | str]]) -> None:
    specs = tuple(TensorSpec(f"x{i}", "float32", tuple(shape)) for i, shape in enumerate(shapes))
    signature = Signature(specs, (), tuple(declared))
    probes = probe_feeds(signature)
    assert probes
    for probe in probes:
        signature.check(probe.feed)
        for name, size in probe.sizes.items():
            axis = signature.axis(name)
            assert axis.minimum <= size <= axis.maximum
            assert size % axis.multiple == 0
    for axis in declared:  # a size of nothing is proven wherever it is declared, and the small end always
        assert axis.name not in axis_names(signature) or axis.minimum in {probe.sizes[axis.name] for probe in probes}


def test_an_axis_of_multiples_takes_one_an_odd_number_of_them_and_its_maximum() -> None:
    image = TensorSpec("x", "float32", ("batch", 3, "height", "width"))
    signature = Signature((image,), (), (Axis("batch", 1, 4), Axis("height", 32, 256, 32), Axis("width", 1, 300, 32)))
    probes = probe_feeds(signature)
    for name, largest in (("height", 256), ("width", 288)):
        sizes = {probe.sizes[name] for probe in probes}
        assert {32, 96, largest} <= sizes and all(size % 32 == 0 for size in sizes)
    assert dict(probes[0].sizes) == {"batch": 2, "height": 160, "width": 96}


def test_other_values_differ_in_every_input_and_hide_something() -> None:
    base = probe_feeds(TEXT, count=1)[0]
    other = redraw(TEXT, base.sizes, np.random.default_rng(5))
    assert all(not np.array_equal(base.feed[name], other[name]) for name in base.feed)
    assert not other["attention_mask"].all() and (other["attention_mask"].sum(-1) >= 1).all()


def test_size_of_reads_numbers_names_and_sums() -> None:
    assert [size_of(axis, {"a": 3, "b": 4}) for axis in (7, "a", "a+b", "a+1")] == [7, 3, 7, 4]
