"""Real exports of small modules, and the lies that must not get out."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeai import modelfile
from edgeai.errors import ExistsError, ExportError, UsageError, VerificationError
from edgeai.exporting import Source, capture, export
from edgeai.exporting.capture import trace_feed
from edgeai.progress import Advance
from edgeai.samples import Samples
from edgeai.spec import Axis, Signature, TensorSpec
from edgeai.storage import sha256


class Log:
    """Keeps what was said aloud."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        def advance(n: int = 1, *, note: str = "") -> None:
            pass

        yield advance

    def log(self, message: str) -> None:
        self.said.append(message)


class Net(nn.Module):
    """Everything that an exporter likes to get wrong in a module that is left in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.norm.running_mean = torch.tensor([0.5, -1.0, 2.0, 0.0])

    def forward(self, x: Tensor, keep: Tensor) -> dict[str, Any]:
        hidden = self.dropout(self.norm(self.linear(x)))
        return {"logits": torch.where(keep[:, None], hidden, -1.0), "states": (x, hidden.double())}


def inputs(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randn(batch, 6, generator=generator), "keep": torch.rand(batch, generator=generator) > 0.3}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net, Log]:
    module, log = Net(), Log()
    out = tmp_path_factory.mktemp("net") / "net.onnx"
    export(module, inputs(batch=1), out=out, progress=log)
    return out, module, log


def test_the_file_answers_as_the_module_in_eval_mode(net: tuple[Path, Net, Log]) -> None:
    from edgeai.runtime.loading import load

    path, module, _ = net
    reference = copy.deepcopy(module).eval()
    session = load(path, ep="cpu")
    for batch in (1, 4, 13):
        feed = inputs(batch)
        expected = reference(**feed)
        answer = session.run({name: tensor.numpy() for name, tensor in feed.items()})
        assert list(answer) == ["logits", "states.0", "states.1"]
        np.testing.assert_allclose(answer["logits"], expected["logits"].detach().numpy(), atol=1e-5)
        np.testing.assert_array_equal(answer["states.0"], feed["x"].numpy())
        assert answer["states.1"].dtype == np.float64
    session.close()


def test_the_modules_own_modes_come_back(net: tuple[Path, Net, Log]) -> None:
    assert all(part.training for part in net[1].modules())


def test_the_signature_lineage_and_opset_are_stamped(net: tuple[Path, Net, Log]) -> None:
    artifact = modelfile.open_artifact(net[0])
    assert artifact.signature is not None and artifact.signature.axes == (Axis("batch"),)
    assert [str(spec) for spec in artifact.signature.outputs] == [
        "logits:float32[batch,4]", "states.0:float32[batch,6]", "states.1:float64[batch,4]",
    ]  # fmt: skip
    (step,) = artifact.lineage
    assert step.tool == "export" and step.options["exporter"] == "torch.export"
    assert step.options["verified"]["axes"] == {"batch": [1, 64]}
    assert modelfile.load(net[0]).opset_imports[""] == step.options["opset"] == 20


def test_the_file_says_nothing_about_the_authors_machine(net: tuple[Path, Net, Log]) -> None:
    data = net[0].read_bytes()
    for secret in (__file__, Path(__file__).name, "stack_trace", "site-packages", "forward"):
        assert secret.encode() not in data


def test_weights_keep_the_modules_own_names(net: tuple[Path, Net, Log]) -> None:
    names = set(modelfile.load(net[0]).graph.initializers)
    assert any(name.startswith("linear.") for name in names) and not any(n.startswith("module.") for n in names)


def test_what_was_assumed_is_said(net: tuple[Path, Net, Log]) -> None:
    said = " | ".join(net[2].said)
    assert "axis 0 of every input is taken to be the batch" in said and "verified on" in said


def test_the_same_module_gives_the_same_bytes_and_not_a_word_on_the_way(
    net: tuple[Path, Net, Log], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export(net[1], inputs(batch=1), out=tmp_path / "again.onnx")
    assert sha256(tmp_path / "again.onnx") == sha256(net[0])
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_an_existing_file_is_refused_before_any_work(net: tuple[Path, Net, Log]) -> None:
    before = sha256(net[0])
    with pytest.raises(ExistsError, match="already exists"):
        export(net[1], inputs(), out=net[0])
    assert sha256(net[0]) == before


class Reshaping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 2, 3).sum(1)


def test_an_assumed_batch_that_the_code_fixes_is_given_up_aloud(tmp_path: Path) -> None:
    log = Log()
    artifact = export(Reshaping(), {"x": torch.randn(4, 6)}, out=tmp_path / "m.onnx", progress=log)
    assert artifact.signature is not None and artifact.signature.inputs[0].shape == (4, 6)
    assert any("the batch cannot be dynamic" in line for line in log.said)


def test_a_declared_axis_that_the_code_fixes_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError,
        match=r"not written: axis batch \(axis 0 of input x\) is fixed to 4 .*\(test_capture.py:\d+\): it is baked in; "
        ".*TorchScript is unverified: axis batch is proven at 4 alone",
    ):
        export(Reshaping(), {"x": torch.randn(4, 6)}, out=tmp_path / "m.onnx", dynamic={"x": {0: "batch"}})
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Item(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.mean())


@pytest.mark.parametrize("module", [Branching(), Item()])
def test_branching_on_values_names_the_users_line_and_the_rewrite(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"values of a tensor \(test_capture.py:\d+\).*torch.where") as caught:
        export(module, {"x": torch.randn(3, 4)}, out=tmp_path / "m.onnx")
    source = Path(__file__).read_text().splitlines()
    line = int(str(caught.value).split("test_capture.py:")[1].split(")")[0])
    assert "x.sum() > 0" in source[line - 1] or "x.mean()" in source[line - 1]
    assert not list(tmp_path.iterdir())


class Eigen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def test_an_operator_without_an_onnx_form_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"operator aten.linalg_eig\w* \(test_capture.py:\d+\) has no ONNX form"):
        export(Eigen(), {"x": torch.randn(2, 3, 3)}, out=tmp_path / "m.onnx", dynamic={})


class AlwaysDropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


def test_dropout_that_is_left_on_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is not written.*changes from run to run.*random"):
        export(AlwaysDropping(), {"x": torch.randn(3, 64)}, out=tmp_path / "m.onnx", dynamic={"x": {0: "batch"}})
    assert not list(tmp_path.iterdir())


class Dead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def test_a_dead_network_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is unverified: vacuous: .*the network is dead"):
        export(Dead(), {"x": torch.randn(3, 4)}, out=tmp_path / "m.onnx", dynamic={})


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_graph_that_lies_is_not_written_and_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.onnx"
    out.write_text("what was there before")
    lie(monkeypatch, exporters=("torch.export", "TorchScript"))
    with pytest.raises(VerificationError, match=r"output\[\d+, \d\] .* became .* beyond 0.001") as caught:
        export(Scaled(), {"x": torch.randn(3, 4)}, out=out, dynamic={"x": {0: "batch"}}, overwrite=True)
    assert out.read_text() == "what was there before" and len(list(tmp_path.iterdir())) == 1
    first, second = str(caught.value).split("; ")
    assert "Scaled by way of torch.export failed" in first and "Scaled by way of TorchScript failed" in second


def lie(monkeypatch: pytest.MonkeyPatch, *, exporters: tuple[str, ...]) -> None:
    honest = capture.trace

    def lying(*args: Any, exporter: str, **options: Any) -> Any:
        traced = honest(*args, exporter=exporter, **options)
        if exporter in exporters:
            node = list(traced.model.graph)[-1]
            node.replace_input_with(1, node.inputs[0])  # x + x, or x * x, in place of 2 * x
            node.op_type = "Mul"
        return traced

    monkeypatch.setattr(capture, "trace", lying)


def test_where_torch_exports_graph_is_wrong_torchscripts_is_proven_and_taken_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, exporters=("torch.export",))
    log = Log()
    artifact = export(Scaled(), {"x": torch.randn(3, 4)}, out=tmp_path / "m.onnx", dynamic={}, progress=log)
    options = artifact.lineage[0].options
    assert options["exporter"] == "TorchScript"
    assert "by way of torch.export failed verification: output[" in options["reason"]
    assert str(tmp_path) not in options["reason"] and "partial" not in options["reason"]
    assert any(line.startswith("by way of TorchScript, because Scaled by way of torch.export") for line in log.said)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_opset_asked_for_is_written_or_refused(tmp_path: Path) -> None:
    artifact = export(Scaled(), {"x": torch.randn(3, 4)}, out=tmp_path / "m.onnx", dynamic={}, opset=23)
    assert modelfile.load(artifact.path).opset_imports[""] == 23
    with pytest.raises(UsageError, match=r"opset 27 cannot be written for ONNX Runtime .*7 to 26 can be written"):
        export(Scaled(), {"x": torch.randn(3, 4)}, out=tmp_path / "n.onnx", dynamic={}, opset=27)


def test_outputs_can_be_named_and_samples_prove_it_too(tmp_path: Path) -> None:
    samples = Samples.from_rows({"x": np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)})
    artifact = export(Scaled(), samples, out=tmp_path / "m.onnx", output_names=["twice"])
    assert artifact.signature is not None and artifact.signature.output_names == ("twice",)
    assert artifact.lineage[0].options["verified"]["feeds"] >= 8
    with pytest.raises(UsageError, match="2 output names for 1 outputs"):
        export(Scaled(), samples, out=tmp_path / "n.onnx", output_names=["a", "b"])


def test_what_torch_export_cannot_capture_goes_through_torchscript_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> None:
        raise RuntimeError("an internal error of torch")

    monkeypatch.setattr(torch.export, "export", failing)
    log = Log()
    artifact = export(Net(), inputs(), out=tmp_path / "m.onnx", opset=18, progress=log)
    assert artifact.lineage[0].options["exporter"] == "TorchScript"
    assert any("by way of TorchScript, because" in line and "an internal error of torch" in line for line in log.said)
    with pytest.raises(
        ExportError,
        match=r"an internal error.*TorchScript exporter bakes in a value \(test_capture.py:\d+\): Converting a",
    ):
        export(Item(), {"x": torch.randn(3, 4)}, out=tmp_path / "n.onnx", dynamic={}, opset=18)
    artifact = export(Net(), inputs(), out=tmp_path / "n.onnx", opset=23)  # TorchScript itself ends at 20
    assert modelfile.load(artifact.path).opset_imports[""] == 23


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.lstm(x)[0]
        return states


def test_an_lstm_keeps_its_time_axis_by_way_of_torchscript(tmp_path: Path) -> None:
    log = Log()
    axes = {"x": {0: "batch", 1: "time"}}
    artifact = export(Recurrent(), {"x": torch.randn(2, 7, 6)}, out=tmp_path / "m.onnx", dynamic=axes, progress=log)
    why = r"because axis time \(axis 1 of input x\) is fixed to 7 by the module's code \(test_capture.py:\d+\)"
    assert any(re.search(f"by way of TorchScript, {why}", line) for line in log.said)
    assert "test_capture" not in artifact.path.read_bytes().decode(errors="ignore")
    assert artifact.signature is not None and artifact.signature.outputs[0].shape == ("batch", "time", 10)
    assert artifact.lineage[0].options["verified"]["axes"] == {"batch": (1, 64), "time": (1, 64)}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(x, src_key_padding_mask=mask == 0)
        return encoded


def test_torchs_own_encoder_is_compared_without_its_inference_kernels(tmp_path: Path) -> None:
    example = {"x": torch.randn(2, 7, 16), "mask": torch.ones(2, 7, dtype=torch.int64)}
    axes = {name: {0: "batch", 1: "time"} for name in example}
    artifact = export(Encoder(), example, out=tmp_path / "m.onnx", dynamic=axes)
    assert artifact.lineage[0].options["verified"]["axes"] == {"batch": (1, 64), "time": (1, 64)}


class Brain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.linear(x.bfloat16())
        return hidden.float()


def test_a_graph_that_onnx_runtime_has_no_kernel_for_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match="Brain is captured by torch.export, but ONNX Runtime cannot open it.*export best as float32"
    ):
        export(Brain(), {"x": torch.randn(2, 8)}, out=tmp_path / "m.onnx", dynamic={})
    assert not list(tmp_path.iterdir())


def test_an_onnx_source_keeps_the_names_of_its_outputs(tmp_path: Path) -> None:
    source = Source("m", None, Signature((), ()), path=tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="its outputs have names already"):
        export(source, out=tmp_path / "n.onnx", output_names=["y"])


def test_a_resolved_source_is_not_given_other_axes(tmp_path: Path) -> None:
    source = Source("m", Scaled(), Signature((TensorSpec("x", "float32", (3,)),), ()))
    with pytest.raises(UsageError, match="knows its dynamic axes"):
        export(source, out=tmp_path / "n.onnx", dynamic={"x": {0: "b"}})


def test_a_trace_never_sees_a_symbolic_axis_of_size_one_or_none() -> None:
    shapes = [("batch", "seq"), ("batch", 3)]
    specs = tuple(TensorSpec(name, "float32", shape) for name, shape in zip("ab", shapes, strict=True))
    signature = Signature(specs, (), (Axis("batch"), Axis("seq", 0, 8)))
    ones = trace_feed(signature, {"a": np.ones((1, 4), np.float32), "b": np.ones((1, 3), np.float32)})
    assert ones["a"].shape == (2, 4) and ones["b"].shape == (2, 3)
    empty = trace_feed(signature, {"a": np.ones((4, 0), np.float32), "b": np.ones((4, 3), np.float32)})
    assert min(empty["a"].shape) >= 2 and empty["b"].shape[0] == empty["a"].shape[0]
    assert trace_feed(Signature((TensorSpec("a", "float32", (1, 4)),), ()), {"a": ones["a"][:1]})["a"].shape == (1, 4)
