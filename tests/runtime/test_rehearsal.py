import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeai.runtime.loading import load
from edgeai.runtime.rehearsal import deadly_shapes
from edgeai.runtime.testing import FakeEngine
from edgeai.spec import Array, Axis, Feed, Signature, TensorSpec
from edgeai.verification import verify

X = TensorSpec("x", "float32", ("seq", 4, 2))
SIGNATURE = Signature((X,), (TensorSpec("y", "float32", (4, "seq", "seq")),), (Axis("seq", 0, 8),))


def products(feed: Feed) -> dict[str, Array]:
    x = feed["x"].transpose(1, 0, 2)
    return {"y": x @ x.transpose(0, 2, 1)}


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """What ONNX Runtime 1.31 makes of the scores of attention; its kernel divides by the number of positions."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(X.shape))
    node = ir.node("FusedMatMul", [x, x], {"transBatchA": 1, "transBatchB": 1, "transB": 1}, domain="com.microsoft")
    (y,) = node.outputs
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape([4, "seq", "seq"])
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 20, "com.microsoft": 1}, name="scores")
    ir.save(ir.Model(graph, ir_version=9), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def feed(length: int) -> dict[str, Array]:
    return {"x": np.zeros((length, 4, 2), np.float32)}


def dies(model: Path) -> bool:
    code = f"import edgeai, numpy; edgeai.load({str(model)!r}, ep='cpu').run({{'x': numpy.zeros((0, 4, 2), 'f4')}})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode < 0


def test_a_model_that_kills_its_process_at_nothing_is_found_out_by_another(scores: Path) -> None:
    if not dies(scores):
        pytest.skip("this ONNX Runtime computes it")
    with load(scores, ep="cpu") as session:
        assert deadly_shapes(session, [feed(3), feed(0), feed(0), feed(1)]) == {((0, 4, 2),): "SIGFPE"}
        agreement = verify(FakeEngine(SIGNATURE, products), session, signature=SIGNATURE)
    assert agreement.verdict == "failed" and agreement.proven() == {"seq": (1, 8)}
    text = (
        "the candidate refuses seq=0, normal values: ONNX Runtime dies of it (SIGFPE), and the process that called it"
    )
    assert agreement.findings[0].text.startswith(text)


def test_a_model_that_lives_and_an_engine_that_is_no_session_are_let_through(double: Path) -> None:
    with load(double, ep="cpu") as session:
        shape = session.signature.inputs[0].shape
        empty = {"x": np.zeros([0 if isinstance(axis, str) else axis for axis in shape], np.float32)}
        assert deadly_shapes(session, [empty, {"x": np.zeros((0, 0, 0, 0), np.float32)}]) == {}
    assert deadly_shapes(FakeEngine(SIGNATURE, products), [feed(0)]) == {}
