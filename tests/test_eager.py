from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeai.eager import Call, EagerEngine, flatten, to_array, to_tensor
from edgeai.errors import InputError, SourceError
from edgeai.runtime.engine import Engine
from edgeai.spec import Axis, Signature, TensorSpec

X = TensorSpec("x", "float32", ("batch", 3))
SIGNATURE = Signature((X,), (), (Axis("batch"),))
ONE, TWO = torch.ones(1), torch.full((1,), 2.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x))


@dataclass
class Detection:
    boxes: Tensor
    scores: Tensor | None


Pair = namedtuple("Pair", "mean std")


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (ONE, ["output"]),
        ((ONE, TWO), ["output.0", "output.1"]),
        ([ONE], ["output.0"]),
        ({"logits": ONE, "loss": None}, ["logits"]),
        (Pair(ONE, TWO), ["mean", "std"]),
        (Detection(ONE, None), ["boxes"]),
        (OrderedDict(b=ONE, a=TWO), ["b", "a"]),
        ({"logits": ONE, "present": [(ONE, TWO)]}, ["logits", "present.0.0", "present.0.1"]),
        ({"present": [{"key": ONE}, {"key": TWO}]}, ["present.0.key", "present.1.key"]),
        ((ONE, {"aux": Pair(ONE, TWO)}), ["output.0", "output.1.aux.mean", "output.1.aux.std"]),
    ],
)
def test_every_kind_of_answer_gets_stable_names(answer: Any, names: list[str]) -> None:
    assert list(flatten(answer)) == names


def test_what_is_no_tensor_is_refused_by_its_place() -> None:
    with pytest.raises(SourceError, match=r"returns float \(0.5\) as scores.1"):
        flatten({"scores": (ONE, 0.5)})
    with pytest.raises(SourceError, match="returns str .* as its answer"):
        flatten("text")


nested = st.recursive(
    st.integers().map(lambda _: ONE),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    max_leaves=8,
)


@given(nested)
def test_flattening_loses_no_tensor(answer: Any) -> None:
    def leaves(value: Any) -> int:
        if isinstance(value, Tensor):
            return 1
        return sum(map(leaves, value.values() if isinstance(value, dict) else value))

    assert len(flatten(answer)) == leaves(answer)


def test_it_is_an_engine_that_answers_in_eval_mode_and_gives_the_modes_back() -> None:
    module = Net()
    module.linear.eval()
    x = np.ones((4, 3), np.float32)
    with EagerEngine(module, SIGNATURE) as engine:
        assert isinstance(engine, Engine) and engine.signature is SIGNATURE
        first, second = engine.run({"x": x}), engine.run({"x": x})
        np.testing.assert_array_equal(first["output"], second["output"])
        assert not module.dropout.training
        expected = x @ module.linear.weight.detach().numpy().T + module.linear.bias.detach().numpy()
        np.testing.assert_allclose(first["output"], expected, rtol=1e-5)
    assert (module.training, module.dropout.training, module.linear.training) == (True, True, False)
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.run({"x": x})


def test_declared_outputs_name_the_answer() -> None:
    named = Signature((X,), (TensorSpec("logits", "float32", ("batch", 2)),), SIGNATURE.axes)
    assert list(EagerEngine(Net(), named).run({"x": np.ones((1, 3), np.float32)})) == ["logits"]
    twice = Signature((X,), (*named.outputs, TensorSpec("aux", "float32", ("batch", 2))))
    with pytest.raises(InputError, match="gives 1 outputs, its signature names logits, aux"):
        EagerEngine(Net(), twice).run({"x": np.ones((1, 3), np.float32)})


def test_a_feed_that_does_not_fit_is_refused_before_the_module_sees_it() -> None:
    engine = EagerEngine(Net(), SIGNATURE)
    with pytest.raises(InputError, match="expected float32, got float64"):
        engine.run({"x": np.ones((1, 3))})


def test_what_the_module_refuses_is_an_input_error_with_its_shape() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, 6)

    with pytest.raises(InputError, match=r"the module refuses x \(3, 3\) \(test_eager.py:\d+\): RuntimeError: shape"):
        EagerEngine(Picky(), SIGNATURE).run({"x": np.ones((3, 3), np.float32)})


def test_a_module_that_writes_into_its_input_does_not_write_into_the_feed() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    x = np.zeros((1, 3), np.float32)
    x.flags.writeable = False
    assert EagerEngine(InPlace(), SIGNATURE).run({"x": x})["output"].sum() == 3
    assert x.sum() == 0


def test_threads_are_set_and_given_back() -> None:
    before = torch.get_num_threads()
    with EagerEngine(Net(), SIGNATURE, threads=1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


class Takes(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
        return ids - mask


class Star(nn.Module):
    def forward(self, ids: Tensor, *past: Tensor) -> Tensor:
        return ids - sum(past)


class Anything(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return inputs["ids"] - inputs["mask"]


def test_inputs_are_given_by_keyword_whatever_their_order() -> None:
    assert Call(Takes(), ["mask", "ids"])([ONE, TWO]).item() == 1
    assert Call(Anything(), ["mask", "ids"])([ONE, TWO]).item() == 1


def test_a_module_with_star_arguments_is_given_them_in_order() -> None:
    assert Call(Star(), ["ids", "past.0.key", "past.0.value"])([TWO, ONE, ONE]).item() == 0


@pytest.mark.parametrize(
    ("names", "words"),
    [(["ids"], "needs mask"), (["ids", "mask", "image"], "no image"), (["x"], "no x and needs ids, mask")],
)
def test_wrong_names_are_refused_with_what_is_wrong(names: list[str], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        Call(Takes(), names)


@pytest.mark.parametrize("name", ["float32", "float16", "int64", "int8", "uint8", "bool", "float64"])
def test_arrays_keep_their_dtype_and_values(name: str) -> None:
    array = np.array([[0, 1], [1, 0]], name)
    back = to_array(to_tensor(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_bfloat16_goes_through_ml_dtypes() -> None:
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    tensor = to_tensor(array)
    assert tensor.dtype is torch.bfloat16 and tensor.tolist() == [1.5, -2.0]
    np.testing.assert_array_equal(to_array(tensor), array)
