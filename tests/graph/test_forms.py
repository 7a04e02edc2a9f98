"""Named choices of passes: each is for some targets, and each keeps every answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeai import modelfile
from edgeai.artifact import Artifact
from edgeai.errors import UsageError
from edgeai.graph import DEFAULT_FORMS, DEFAULT_PASSES, FORMS, TARGETS, optimize

from .conftest import operators

_WANTED = {
    "portable": {"Softmax": 1, "MatMul": 7, "LayerNormalization": 1},
    "portable-separate-qkv": {"Softmax": 1, "MatMul": 7, "Split": 0},
    "mha": {"MultiHeadAttention": 1, "MatMul": 5, "Gelu": 0},
    "separate-qkv": {"MultiHeadAttention": 1, "MatMul": 5},
    "packed-qkv": {"MultiHeadAttention": 1, "MatMul": 3, "Split": 1},
    "attention3d": {"Attention": 1, "MatMul": 5, "Transpose": 0},
    "gqa": {"GroupQueryAttention": 0, "Softmax": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_what_it_says(encoder: Artifact, tmp_path: Path, form: str) -> None:
    done = optimize(encoder, out=tmp_path / "o.onnx", form=form)
    options = done.lineage[-1].options
    assert options["form"] == form
    assert options["rolled_back"] == []
    found = operators(modelfile.load(done.path))
    wanted = _WANTED[form]
    if modelfile.load(encoder.path).opset_imports[""] >= 23 and "Softmax" in wanted:
        wanted = {"Attention": 1}  # the exporter has written it already
    assert {op_type: found[op_type] for op_type in wanted} == wanted


def test_every_target_has_a_default_form_that_it_runs() -> None:
    assert DEFAULT_FORMS.keys() == TARGETS.keys()
    assert all(target in FORMS[form].targets for target, form in DEFAULT_FORMS.items())
    assert FORMS[DEFAULT_FORMS["cpu"]].passes == DEFAULT_PASSES
    assert all(set(form.targets) <= TARGETS.keys() for form in FORMS.values())


def test_no_form_writes_what_its_targets_do_not_run() -> None:
    for form in FORMS.values():
        if any(not TARGETS[target] for target in form.targets):
            assert not any(getattr(pass_, "writes_contrib", False) for pass_ in form.passes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "fastest"}, "form 'fastest' is unknown .one of portable, mha"),
        ({"form": "mha", "target": "tensorrt"}, "target 'tensorrt' does not run form 'mha' .it runs portable"),
        ({"form": "mha", "passes": ()}, "form 'mha' and passes were both given"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(
    write: Callable[..., Any], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    artifact = write("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    with pytest.raises(UsageError, match=message):
        optimize(artifact, out=tmp_path / "o.onnx", **options)
    assert not (tmp_path / "o.onnx").exists()
