"""Each command, from its arguments to what it prints and leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai import cli
from edgeai.samples import Samples

ROOT = Path(__file__).parents[2]
Paths = Callable[[str], Path]


class Edgeai:
    """The command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        self.out, self.err = self._capsys.readouterr()
        assert stop.value.code == code, self.err
        return self.out

    def fails(self, *arguments: object, code: int = 1) -> str:
        """One line on stderr, nothing on stdout."""
        assert not self(*arguments, code=code)
        line = self.err.strip().splitlines()[-1]
        assert line.startswith("edgeai: error: ")
        return line


@pytest.fixture
def edgeai(capsys: pytest.CaptureFixture[str]) -> Edgeai:
    capsys.readouterr()
    return Edgeai(capsys)


def test_export_a_file_s_class(edgeai: Edgeai, tmp_path: Path) -> None:
    source = f"{ROOT / 'examples' / 'own_model.py'}:TinyNet"
    out = edgeai("export", source, "-o", tmp_path / "m.onnx", "--init", '{"hidden": 4}', "--opset", 21)
    assert "frames:float32[batch,20,16]" in out
    assert "embedding:float32[batch,4]" in out
    assert "verified on" in edgeai.err
    assert "peak memory" in out and "GB" in out
    made = json.loads(edgeai("export", source, "-o", tmp_path / "n.onnx", "--json", "--target-ort", "1.16"))
    assert made["lineage"][0]["tool"] == "export"
    assert (made["lineage"][0]["options"]["opset"], made["lineage"][0]["options"]["ir_version"]) == (19, 9)
    assert 50e6 < made["peak_memory_bytes"] < 50e9
    assert b"peak" not in (tmp_path / "n.onnx").read_bytes()
    assert "opset 19 in place of 20: ONNX Runtime 1.16 opens no newer one" in edgeai.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing.py:Net"], "nothing.py"),
        (["no_such_family"], "nothing of that name"),
        ([f"{ROOT}/examples/own_model.py:TinyNet", "--init", "{"], "--init is not JSON"),
        ([f"{ROOT}/examples/own_model.py:TinyNet", "--init", "[]"], "--init must be a JSON object"),
        ([f"{ROOT}/examples/own_model.py:Missing"], "Missing"),
        (["mlp:tiny", "--input", "x:float32[2]"], "inputs cannot be given"),
        (["mlp:tiny", "--target-ort", "1.17", "--opset", "21"], "the newest that it opens is opset 20"),
        (["mlp:tiny", "--target-ort", "0.9"], "name a release from 1.0 to 1.32"),
    ],
)
def test_export_refuses(edgeai: Edgeai, tmp_path: Path, arguments: list[str], reason: str) -> None:
    assert reason in edgeai.fails("export", *arguments, "-o", tmp_path / "m.onnx", code=2)
    assert not list(tmp_path.iterdir())


def test_optimize(edgeai: Edgeai, exported: Paths, tmp_path: Path) -> None:
    assert "rolled_back" in edgeai("optimize", exported("mlp"), "-o", tmp_path / "o.onnx")
    step = json.loads(edgeai("optimize", exported("mlp"), "-o", tmp_path / "p.onnx", "--json"))
    assert step["options"]["target"] == "cpu"
    assert "--overwrite" in edgeai.fails("optimize", exported("mlp"), "-o", tmp_path / "o.onnx", code=2)
    edgeai("optimize", exported("mlp"), "-o", tmp_path / "o.onnx", "--overwrite")
    assert "no such file" in edgeai.fails("optimize", tmp_path / "none.onnx", "-o", tmp_path / "q.onnx")


def test_a_decoder_gets_its_cache_in_place_and_answers_as_before(
    edgeai: Edgeai, exported: Paths, tmp_path: Path
) -> None:
    from edgeai.runtime import load
    from edgeai.runtime.generation import generate
    from edgeai.runtime.kv_cache import InPlaceCache, open_cache

    out = tmp_path / "o.onnx"
    step = json.loads(edgeai("optimize", exported("gpt"), "-o", out, "--form", "in-place", "--json"))
    assert step["options"]["form"] == "in-place" and not step["options"]["rolled_back"]
    assert "takes one text at a time" in edgeai.err
    with load(exported("gpt"), ep="cpu") as before, load(out, ep="cpu") as after:
        assert isinstance(open_cache(after, 1, 8), InPlaceCache)
        said = [list(generate(session, [1, 2, 3], max_new_tokens=20)) for session in (before, after)]
    assert said[0] == said[1]
    refused = edgeai.fails("optimize", exported("mlp"), "-o", tmp_path / "p.onnx", "--form", "in-place", code=2)
    assert "no decoder with a KV cache" in refused and not list(tmp_path.glob("p.onnx*"))


@pytest.mark.parametrize("command", ["build", "tune"])
def test_what_has_no_cache_gets_none_in_place(edgeai: Edgeai, exported: Paths, tmp_path: Path, command: str) -> None:
    refused = edgeai.fails(command, exported("mlp"), "-o", tmp_path / "m.bundle", "--cache-in-place", code=2)
    assert "no decoder with a KV cache" in refused and not list(tmp_path.iterdir())


def test_quantize_has_the_options_of_the_recipes(
    edgeai: Edgeai, exported: Paths, trained: Paths, tmp_path: Path
) -> None:
    calibration = trained("mlp") / "calibration.npz"
    out = edgeai(
        "quantize", exported("mlp"), "-p", "int8-static", "-d", calibration, "-o", tmp_path / "q.onnx",
        "--no-per-channel", "--activation-type", "uint8",
    )  # fmt: skip
    assert "integer_weight_share" in out
    step = json.loads(edgeai("quantize", exported("mlp"), "-p", "int8-dynamic", "-o", tmp_path / "d.onnx", "--json"))
    assert step["options"]["recipe"] == "int8-dynamic"
    assert step["options"]["per_channel"] is True
    help_text = edgeai("quantize", "--help")
    assert "--weight-type" in help_text
    assert "--per-channel / --no-per-channel" in help_text


def test_quantize_ignores_nothing(edgeai: Edgeai, exported: Paths, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "q.onnx")
    line = edgeai.fails("quantize", exported("mlp"), "-p", "int8-dynamic", *out, "--activation-type", "uint8", code=2)
    assert "int8-dynamic has no option --activation-type" in line
    assert "int8-dynamic, int8-static" in edgeai.fails("quantize", exported("mlp"), "-p", "banana", *out, code=2)
    assert "needs calibration samples" in edgeai.fails("quantize", exported("mlp"), "-p", "int8-static", *out)
    assert not list(tmp_path.iterdir())


def test_verify_two_models(edgeai: Edgeai, exported: Paths, trained: Paths, tmp_path: Path) -> None:
    assert edgeai("verify", trained("mlp"), exported("mlp")).startswith("verified on ")
    scoring = trained("mlp") / "scoring.npz"
    options = ("-d", scoring, "--lossy", "--max-drop", "1%", "--metric", "accuracy", "--json")
    agreement = json.loads(edgeai("verify", exported("mlp"), exported("mlp"), *options))
    assert agreement["metric"]["drop"] == 0
    assert "failed" in edgeai("verify", exported("mlp"), exported("cnn"), code=1)
    assert "add --lossy" in edgeai.fails("verify", exported("mlp"), exported("mlp"), "--max-drop", "1%", code=2)


def test_verify_a_degraded_model_exits_with_3(edgeai: Edgeai, exported: Paths, trained: Paths, tmp_path: Path) -> None:
    """A network whose last layer is half a thousandth too large: close, but not equal."""
    import onnx_ir as ir

    from edgeai import modelfile

    artifact = modelfile.open_artifact(exported("mlp"))
    model = modelfile.load(exported("mlp"))
    for value in list(model.graph)[-1].inputs[1:]:
        assert value is not None
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.0005), name=value.name)
    moved = modelfile.save(model, artifact.after(modelfile.step("test", {}), tmp_path / "moved.onnx"))
    out = edgeai("verify", exported("mlp"), moved.path, code=3)
    assert out.startswith("degraded on ")


def test_verify_a_bundle(edgeai: Edgeai, built: Paths, tmp_path: Path) -> None:
    assert "verified, 4 golden vectors on cpu" in edgeai("verify", built("mlp"), "--no-speed")
    assert json.loads(edgeai("verify", built("mlp"), "--json", "--no-speed"))["verdict"] == "verified"
    assert "no such file" in edgeai.fails("verify", tmp_path / "none")
    assert "these options compare two models" in edgeai.fails("verify", built("mlp"), "--lossy", code=2)
    assert "for a bundle alone" in edgeai.fails("verify", built("mlp"), built("mlp"), "--no-speed", code=2)
    assert "cuda" in edgeai.fails("verify", built("mlp"), "--ep", "cuda")


def test_bench(edgeai: Edgeai, built: Paths, exported: Paths, tmp_path: Path) -> None:
    out = edgeai("bench", built("mlp"), exported("mlp"), "--seconds", "0.1", "--json", tmp_path / "r.json")
    assert "p50 ms" in out
    assert "short: " in edgeai.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["subjects"]) == 2
    assert "--overwrite" in edgeai.fails("bench", built("mlp"), "--json", tmp_path / "r.json", code=2)


def test_bench_measures_as_long_as_it_was_asked_to(edgeai: Edgeai, built: Paths, tmp_path: Path) -> None:
    """20000 runs of so small a model take a fraction of that."""
    edgeai("bench", built("mlp"), "--seconds", "0.8", "--processes", 1, "--json", tmp_path / "r.json")
    (subject,) = json.loads((tmp_path / "r.json").read_text())["subjects"]
    assert sum(sum(block["samples_ns"]) for block in subject["blocks"]) >= 0.8e9


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_bench_refuses_a_place_that_cannot_be_written_before_it_measures(
    edgeai: Edgeai, option: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.json").write_text("{}")
    missing = tmp_path / "none.onnx"  # it would be missed first if anything had begun
    assert "file is not a directory" in edgeai.fails("bench", missing, option, tmp_path / "file" / "r")
    assert "it is a directory" in edgeai.fails("bench", missing, option, tmp_path / "results", "--overwrite")
    assert (tmp_path / "results" / "old.json").read_text() == "{}"


@pytest.mark.parametrize("command", ["build", "tune", "quantize"])
def test_long_commands_refuse_such_a_place_at_the_start(
    edgeai: Edgeai, exported: Paths, command: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    recipe = ["-p", "int8-dynamic"] if command == "quantize" else []
    refused = edgeai.fails(command, exported("mlp"), *recipe, "-o", tmp_path / "file" / "out", "--json")
    assert "file is not a directory" in refused
    assert edgeai.err.strip().count("\n") <= 1, "nothing was measured before"


def test_build(edgeai: Edgeai, exported: Paths, tmp_path: Path) -> None:
    short = ("--time-budget", "3s")
    out = edgeai("build", exported("mlp"), "-o", tmp_path / "b.bundle", "--max-drop", "2%", *short)
    assert "* " in out
    anywhere = ("--overwrite", "--json", "--target", "auto", *short)
    data = json.loads(edgeai("build", exported("mlp"), "-o", tmp_path / "b.bundle", *anywhere))
    assert data["rows"][1]["name"] == "fp32"
    assert "no execution provider 'toaster'" in edgeai.fails(
        "build", exported("mlp"), "-o", tmp_path / "c.bundle", "--target", "cpu,toaster", code=2
    )


@pytest.mark.parametrize("time", ["soon", "-1s", "m", "inf"])
def test_a_time_is_a_time(edgeai: Edgeai, time: str, tmp_path: Path) -> None:
    assert not edgeai("build", "mlp", "-o", tmp_path / "b", "--time-budget", time, code=2)
    assert "is not a time" in edgeai.err


@pytest.mark.parametrize("share", ["lots", "-1%", "101%", "2"])
def test_a_share_is_a_share(edgeai: Edgeai, share: str, tmp_path: Path) -> None:
    assert not edgeai("build", "mlp", "-o", tmp_path / "b", "--max-drop", share, code=2)
    assert "share" in edgeai.err or "between 0 and 100" in edgeai.err


def test_run(edgeai: Edgeai, built: Paths, trained: Paths, tmp_path: Path) -> None:
    edgeai("run", built("mlp"), "--input", trained("mlp") / "golden.npz", "-o", tmp_path / "y.npz")
    assert Samples.load(tmp_path / "y.npz").rows
    predictions = json.loads(edgeai("run", built("bert"), "--text", "I love it", "--text", "I hate it", "--json"))
    assert [set(prediction) for prediction in predictions] == [{"label", "score", "index"}] * 2
    np.save(tmp_path / "digit.npy", np.zeros((24, 24), np.uint8))
    assert "digit.npy" in edgeai("run", built("cnn"), "--image", tmp_path / "digit.npy")
    assert "exactly one kind" in edgeai.fails("run", built("mlp"), code=2)
    assert "belong together" in edgeai.fails("run", built("mlp"), "--text", "x", "-o", tmp_path / "z", code=2)


def test_generate(edgeai: Edgeai, built: Paths) -> None:
    options = ("--prompt", "In the", "--max-new-tokens", "5", "--temperature", "1", "--seed", "3")
    first = edgeai("generate", built("gpt"), *options)
    assert first == edgeai("generate", built("gpt"), *options)
    assert len(first.strip()) > 0
    assert "not for text-generation" in edgeai.fails("generate", built("bert"), "--prompt", "x", code=2)


def test_inspect(edgeai: Edgeai, built: Paths, exported: Paths) -> None:
    assert "Gemm" in edgeai("inspect", exported("mlp"))
    out = edgeai("inspect", built("mlp"))
    assert "model.onnx" in out
    assert "ships" in out
    assert json.loads(edgeai("inspect", built("mlp"), "--json"))["kind"] == "bundle"


def test_train_and_demo(edgeai: Edgeai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "accuracy" in edgeai("train", "mlp", "--preset", "tiny", "-o", tmp_path / "t")
    assert "already exists" in edgeai.fails("train", "mlp", "--preset", "tiny", "-o", tmp_path / "t", code=2)
    assert "no preset 'huge'" in edgeai.fails("train", "mlp", "--preset", "huge", "-o", tmp_path / "u", code=2)
    demo = ("demo", "-o", tmp_path / "d", "--preset", "tiny", "--family", "mlp", "--time-budget", "3s")
    assert "the first golden digit" in edgeai(*demo)
    again = edgeai(*demo, "--resume", "--json")
    assert json.loads(again)["schema"] == "edgeai.demo/1"
