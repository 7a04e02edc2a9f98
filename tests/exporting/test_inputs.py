import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import UsageError
from edgeai.exporting.inputs import Dynamic, dynamics, make_dynamic, parse_dynamic, parse_input, parse_signature
from edgeai.spec import DTYPES, Axis, TensorSpec

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,12}", fullmatch=True)
axis_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
sums = st.lists(axis_names, min_size=1, max_size=3).map("+".join)
shapes = st.lists(st.integers(0, 4096) | sums, max_size=5).map(tuple)


@given(names, st.sampled_from(DTYPES), shapes, st.none() | st.integers(1, 10**6))
def test_an_input_reads_back_as_it_is_written(
    name: str, dtype: str, shape: tuple[int | str, ...], high: int | None
) -> None:
    high = high if "int" in dtype else None
    spec = TensorSpec(name, dtype, shape, 0 if high is not None else None, high)
    assert parse_input(str(spec)) == spec


@given(names, st.integers(0, 9), axis_names, st.integers(0, 99), st.integers(0, 99), st.integers(1, 40))
def test_a_dynamic_axis_reads_back_as_it_is_written(
    name: str, index: int, axis: str, low: int, extra: int, multiple: int
) -> None:
    expected = Dynamic(name, index, Axis(axis, low, low + multiple + extra, multiple))
    assert parse_dynamic(str(expected)) == expected
    assert parse_dynamic(f"{name}:{index}={axis}:{low}..{low + multiple + extra}/{multiple}") == expected


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for parse in (parse_input, parse_dynamic):
        try:
            parse(text)
        except UsageError as error:
            assert "\n" not in str(error)


def test_the_documented_forms() -> None:
    assert parse_input("x:float32[batch, 3,224,224]") == TensorSpec("x", "float32", ("batch", 3, 224, 224))
    assert parse_input("ids:int64[batch,seq]<30522").high == 30522
    assert parse_input("scale:float32[]").shape == ()
    assert parse_dynamic("x:0=batch").axis == Axis("batch")
    assert parse_dynamic("x:2=height:1..300/32").axis == Axis("height", 32, 288, 32)
    assert str(parse_dynamic("x:2=height:32..256/32")) == "x:2=height:32..256/32"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "is not an input"),
        ("x:float32", "is not an input"),
        ("x:float31[3]", "no dtype float31"),
        ("x:float32[3,,4]", "'' is not an axis"),
        ("x:float32[-1]", "'-1' is not an axis"),
        ("x:float32[3]<5", "bounds the values of an integer input"),
        ("x:int64[3]<0", "at least 1"),
    ],
)
def test_a_bad_input_is_refused_with_its_reason(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_input(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x=batch", "not a dynamic axis"),
        ("x:0=b/32", "for multiples of 32 alone, x:2=height:32..256/32"),
        ("x:0=b:9..3", "9..3 is not a range"),
        ("x:0=b:33..63/32", "no multiple of 32 in 33..63"),
        ("x:0=b:1..8/0", "cannot be multiples of 0"),
    ],
)
def test_a_bad_dynamic_axis_is_refused_with_its_reason(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_dynamic(text)


def test_a_signature_takes_axes_from_both_declarations() -> None:
    signature = parse_signature(
        ["x:float32[1,3,32,32]", "ids:int64[batch,seq]<9"], ["x:0=batch:1..8", "x:2=side:32..64"]
    )
    assert signature.inputs[0].shape == ("batch", 3, "side", 32)
    assert set(signature.axes) == {Axis("batch", 1, 8), Axis("seq"), Axis("side", 32, 64)}


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        (["y:0=b"], "no such input"),
        (["x:4=b"], "it has rank 2"),
        (["x:0=b:1..4", "x:1=b:1..8"], "axis b is given two ranges"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(dynamic: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_signature(["x:float32[4,4]"], dynamic)


def test_an_input_declared_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="input x is declared twice"):
        parse_signature(["x:float32[4]", "x:int64[4]"])


def test_the_mapping_form_says_the_same() -> None:
    written = parse_signature(["x:float32[4,4]"], ["x:0=b:2..8", "x:1=c"])
    mapped = make_dynamic(parse_signature(["x:float32[4,4]"]), dynamics({"x": {0: Axis("b", 2, 8), 1: "c"}}))
    assert written == mapped
