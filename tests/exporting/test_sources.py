import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, save
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeai.errors import DataError, IntegrityError, ModelFormatError, SourceError, UsageError
from edgeai.exporting import eager, export, from_module, reference_models, resolve
from edgeai.spec import Axis

CODE = """
import torch
from torch import nn
from sibling import WIDTH

class Net(nn.Module):
    def __init__(self, hidden: int = 4):
        super().__init__()
        self.first = nn.Linear(WIDTH, hidden)
    def forward(self, x):
        return {"logits": self.first(x)}
    def example_inputs(self):
        return {"x": torch.ones(2, WIDTH)}

class Pair(nn.Module):
    dynamic_axes = {"ids": {1: "seq"}, "mask": {1: "seq"}}
    def forward(self, ids, mask):
        return (ids * mask).float().mean(1), ids.shape[1] * torch.ones(2)
    @staticmethod
    def example_inputs():
        return torch.arange(10).reshape(2, 5), torch.ones(2, 5, dtype=torch.int64)

class Silent(nn.Module):
    def forward(self, image):
        return image.mean((1, 2, 3))

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        raise ValueError("no such layer")

def make(hidden):
    return Net(hidden)

ready = Silent()
number = 3

def nothing():
    return "a string"
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "sibling.py").write_text("WIDTH = 3\n")
    (tmp_path / "model.py").write_text(CODE)
    return str(tmp_path / "model.py")


def test_a_class_in_a_file_tells_its_inputs(code: str) -> None:
    source = resolve(f"{code}:Net")
    assert source.name == "Net" and source.assumed
    assert [str(spec) for spec in source.signature.inputs] == ["x:float32[batch,3]"]
    assert [str(spec) for spec in source.signature.outputs] == ["logits:float32[batch,4]"]


def test_init_arguments_reach_a_class_and_a_factory(code: str) -> None:
    for name in ("Net", "make"):
        source = resolve(f"{code}:{name}", init={"hidden": 7})
        assert source.signature.outputs[0].shape == ("batch", 7)


def test_random_weights_are_the_same_every_time(code: str) -> None:
    def weight(seed: int) -> Tensor:
        module = resolve(f"{code}:Net", seed=seed).module
        assert module is not None
        return module.state_dict()["first.weight"]

    assert torch.equal(weight(0), weight(0)) and not torch.equal(weight(0), weight(1))


def test_a_tuple_of_examples_follows_forward_and_declared_axes_are_taken(code: str) -> None:
    source = resolve(f"{code}:Pair")
    assert not source.assumed and source.signature.axes == (Axis("seq"),)
    ids, mask = source.signature.inputs
    assert (ids.shape, ids.low, ids.high) == ((2, "seq"), 0, 10)
    assert (mask.low, mask.high) == (0, 2)
    assert [spec.name for spec in source.signature.outputs] == ["output.0", "output.1"]


def test_declared_inputs_come_before_examples_and_serve_where_there_are_none(code: str) -> None:
    source = resolve(f"{code}:Silent", inputs=["image:float32[batch,3,side,8]"], dynamic=["image:2=side:8..16"])
    assert source.signature.axis("side") == Axis("side", 8, 16) and not source.assumed
    assert source.signature.outputs[0].shape == ("batch",)
    assert resolve(f"{code}:ready", inputs=["image:float32[1,3,8,8]"]).signature.axes == ()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Nett", {}, "model.py:Nett: no such name .*it has Net, Pair, Silent, Broken"),
        ("number", {}, "is a int, neither a module nor something that makes one"),
        ("nothing", {}, "gives a str, not a torch.nn.Module"),
        ("ready", {"init": {"a": 1}}, "is an instance already"),
        ("Silent", {}, "nothing says what its inputs are.*--input x:float32"),
        ("Broken", {}, r"Broken \(model.py:\d+\) fails: ValueError: no such layer"),
        ("make", {}, "fails: TypeError: make\\(\\) missing 1 required"),
        ("Silent", {"inputs": ["img:float32[1,3,8,8]"]}, "no img and needs image"),
    ],
)
def test_what_is_wrong_with_a_users_code_is_said(code: str, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        resolve(f"{code}:{name}", **options)


def test_a_file_that_does_not_import_names_its_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os\nimport no_such_package\n")
    with pytest.raises(SourceError, match=r"bad.py \(bad.py:2\) fails: ModuleNotFoundError"):
        resolve(f"{bad}:Net")
    with pytest.raises(SourceError, match="missing.py: no such file"):
        resolve(f"{tmp_path}/missing.py:Net")
    with pytest.raises(SourceError, match="which class or factory"):
        resolve(str(bad))


def test_weights_are_loaded_or_refused_by_key(code: str, tmp_path: Path) -> None:
    good = {"first.weight": torch.full((4, 3), 2.0), "first.bias": torch.zeros(4)}
    save_file(good, tmp_path / "good.safetensors")
    torch.save(good, tmp_path / "good.pt")
    for name in ("good.safetensors", "good.pt"):
        module = resolve(f"{code}:Net", weights=tmp_path / name).module
        assert module is not None and torch.equal(module.state_dict()["first.weight"], good["first.weight"])
    save_file({"first.weight": torch.ones(5, 3), "head.bias": torch.ones(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(IntegrityError, match="missing: first.bias; unexpected: head.bias; of another shape: first.w"):
        resolve(f"{code}:Net", weights=tmp_path / "bad.safetensors")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_weights_never_run_code(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"first.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(SourceError, match="evil.pt cannot be read: UnpicklingError"):
        resolve(f"{code}:Net", weights=tmp_path / "evil.pt")
    assert "ran" not in capsys.readouterr().out
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SourceError, match="are not a state dict"):
        resolve(f"{code}:Net", weights=tmp_path / "list.pt")
    with pytest.raises(SourceError, match=r"gone.pt: no such file"):
        resolve(f"{code}:Net", weights=tmp_path / "gone.pt")


def test_an_installed_module_is_named_with_dots() -> None:
    source = resolve("torch.nn:Identity", inputs=["input:float32[batch,3]"])
    assert source.signature.outputs[0].shape == ("batch", 3)
    with pytest.raises(SourceError, match="no_such_package fails: ModuleNotFoundError"):
        resolve("no_such_package:Net")


class Ranged(nn.Module):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x.sum(1) * scale


def test_an_exported_program_brings_its_axes_and_ranges(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=2, max=9)
    kwargs = {"x": torch.ones(4, 3), "scale": torch.ones(())}
    program = torch.export.export(Ranged(), (), kwargs, dynamic_shapes={"x": {0: batch}, "scale": None})
    torch.export.save(program, tmp_path / "m.pt2")
    source = resolve(str(tmp_path / "m.pt2"))
    assert [spec.shape for spec in source.signature.inputs] == [("batch", 3), ()]
    assert source.signature.axes == (Axis("batch", 2, 9),)
    with eager(str(tmp_path / "m.pt2"), threads=1) as engine:
        answer = engine.run({"x": np.ones((5, 3), np.float32), "scale": np.array(2, np.float32)})
    np.testing.assert_array_equal(answer["output"], np.full(5, 6, np.float32))


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pt2").write_bytes(b"not a zip")
    with pytest.raises(SourceError, match="bad.pt2 is not an exported program"):
        resolve(str(tmp_path / "bad.pt2"))
    with pytest.raises(SourceError, match="gone.pt2: no such file"):
        resolve(str(tmp_path / "gone.pt2"))


def test_an_onnx_file_is_passed_through(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    path = str(tmp_path / "m.onnx")
    source = resolve(path)
    assert source.module is None and source.path == tmp_path / "m.onnx"
    assert source.signature.inputs[0].shape == ("n", 3)
    with pytest.raises(SourceError, match="PyTorch cannot run it"):
        eager(path)
    with pytest.raises(SourceError, match="is an ONNX file: init cannot be given to it"):
        resolve(path, init={"a": 1})
    with pytest.raises(ModelFormatError, match="no such file"):
        resolve(str(tmp_path / "gone.onnx"))


def test_a_family_comes_with_lively_weights_and_its_signature() -> None:
    source = resolve("mlp:tiny")
    assert source.name == "mlp-tiny" and source.metric == "accuracy"
    assert source.signature.outputs[0].name == "logits"
    with eager("mlp:tiny") as engine:
        assert engine.run(source.example)["logits"].std() > 1e-3


def test_a_trained_directory_brings_weights_task_and_samples(tmp_path: Path) -> None:
    family = reference_models().FAMILIES["mlp"]
    config = family.config("tiny")
    module = family.create("tiny", seed=5)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(config).items()}
    (tmp_path / "training.json").write_text(json.dumps({"family": "mlp", "preset": "tiny", "config": fields}))
    (tmp_path / "task.json").write_text(json.dumps({"task": "classification", "labels": ["0", "1"]}))
    (tmp_path / "scoring.npz").touch()
    source = resolve(str(tmp_path))
    assert source.name == tmp_path.name and source.module is not None
    assert source.task["labels"] == ["0", "1"]
    assert source.samples == {"scoring": tmp_path / "scoring.npz"} and source.extras == {}
    for name, tensor in module.state_dict().items():
        assert torch.equal(source.module.state_dict()[name], tensor)


def test_what_is_nothing_is_told_what_there_could_be(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: nothing of that name was found .*a family .*m.onnx"):
        resolve("nowhere")
    with pytest.raises(SourceError, match="has no training.json"):
        resolve(str(tmp_path))


def test_a_module_in_memory_assumes_the_batch_only_where_all_inputs_share_it() -> None:
    shared = from_module(Ranged(), {"x": torch.ones(4, 3), "scale": torch.ones(4)})
    assert shared.assumed and shared.signature.axes == (Axis("batch"),)
    apart = from_module(Ranged(), {"x": np.ones((4, 3), np.float32), "scale": np.ones(1, np.float32)})
    assert not apart.assumed and apart.signature.axes == ()
    scalar = from_module(Ranged(), (torch.ones(4, 3), torch.tensor(2.0)))
    assert scalar.assumed and scalar.signature.inputs[1].shape == ()


def test_examples_that_do_not_fit_forward_are_refused() -> None:
    with pytest.raises(SourceError, match="3 example inputs, but Ranged.forward takes 2"):
        from_module(Ranged(), (torch.ones(1), torch.ones(1), torch.ones(1)))
    with pytest.raises(SourceError, match="example input scale is a float, not a tensor"):
        from_module(Ranged(), {"x": torch.ones(1), "scale": 2.0})  # type: ignore[dict-item]


SCALED = """
import torch

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x, factor):
        return self.linear(x) * factor
"""

DECODER = """
import torch
from torch.nn import functional as F

class Cached(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token = torch.nn.Embedding(23, 8)
        self.out = torch.nn.Linear(8, 23)

    def forward(self, input_ids, attention_mask, past=None):
        x = self.token(input_ids)
        key = x[:, None]
        if past:
            key = torch.cat((past[0][0], key), 2)
        total, new = key.shape[2], x.shape[1]
        query = torch.arange(new)[:, None] + total - new
        seen = (torch.arange(total)[None] <= query) & (attention_mask[:, None, None] != 0)
        seen = seen | (torch.arange(total)[None] == query)
        y = F.scaled_dot_product_attention(x[:, None], key, key, attn_mask=seen)[:, 0]
        return self.out(x + y), ((key, key),)
"""


def test_example_inputs_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "scaled.py").write_text(SCALED)
    np.savez(tmp_path / "x.npz", x=np.ones((2, 4), np.float32), factor=np.ones((2, 1), np.float32))
    source = resolve(f"{tmp_path}/scaled.py:Scaled", example=tmp_path / "x.npz")
    assert [str(spec) for spec in source.signature.inputs] == ["x:float32[batch,4]", "factor:float32[batch,1]"]
    assert source.assumed
    declared = ["x:0=n:1..8", "factor:0=n:1..8"]
    fixed = resolve(f"{tmp_path}/scaled.py:Scaled", example=tmp_path / "x.npz", dynamic=declared)
    assert fixed.signature.axis("n").maximum == 8 and not fixed.assumed
    with pytest.raises(DataError, match="no such file"):
        resolve(f"{tmp_path}/scaled.py:Scaled", example=tmp_path / "y.npz")
    with pytest.raises(SourceError, match="is a family: example cannot be given"):
        resolve("mlp", example=tmp_path / "x.npz")


def test_a_decoder_of_the_users_own_is_exported_with_its_cache(tmp_path: Path) -> None:
    (tmp_path / "lm.py").write_text(DECODER)
    name = f"{tmp_path}/lm.py:Cached"
    declared = {"inputs": ["input_ids:int64[batch,sequence]<23"], "dynamic": ["input_ids:1=sequence:1..80"]}
    source = resolve(name, task="generate", **declared)  # type: ignore[arg-type]
    assert source.is_decoder and source.signature.axis("past+sequence").maximum == 80
    artifact = export(source, out=tmp_path / "lm.onnx")
    assert artifact.lineage[-1].options["generated"]["tokens"] == 64
    with pytest.raises(UsageError, match="the ids and the longest text must be declared"):
        resolve(name, task="generate", inputs=["input_ids:int64[2,7]<23"])
    with pytest.raises(SourceError, match="mlp-tiny is no causal language model"):
        resolve("mlp:tiny", task="generate")


def test_the_range_of_ids_that_an_example_suggests_is_said() -> None:
    source = from_module(nn.Embedding(50, 4), {"input": torch.tensor([[3, 41]])}, dynamic={"input": {0: "batch"}})
    assert source.signature.inputs[0].high == 42
    assert source.notes == (
        "input is proven for values below 42, as in the example; declare --input 'input:int64[batch,2]<42' for more",
    )
    assert not from_module(nn.Linear(3, 2), torch.ones(2, 3)).notes
