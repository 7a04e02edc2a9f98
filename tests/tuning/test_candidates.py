"""What is tried: plans that fit their provider, the ways out of lost accuracy, settings one by one."""

import dataclasses

import pytest

from edgeai.errors import UsageError
from edgeai.quantization import Int8Static
from edgeai.runtime.settings import SessionSettings
from edgeai.tuning.candidates import Plan, Point, combined, plans, points, rescues, variants


def test_plans_come_in_a_sensible_order_and_fit_their_provider() -> None:
    ordered = [plan.name for plan in plans()]
    assert len(set(ordered)) == len(ordered)
    assert ordered[:5] == [
        "fp32 mha", "int8-dynamic portable", "int8-dynamic attention3d", "int8-static portable",
        "int8-static attention3d",
    ]  # fmt: skip
    assert ordered.index("int8-dynamic attention3d") < ordered.index("int8-dynamic packed-qkv")
    assert "int4-weight packed-qkv" not in ordered and "int4-weight gqa" in ordered
    assert [plan.name for plan in plans(forms=["portable"], recipes=["int8-dynamic"])] == [
        "int8-dynamic portable", "fp32 portable",
    ]  # fmt: skip
    assert {plan.recipe for plan in plans(["cuda"])} == {None, "fp16", "bf16"}
    assert [point.provider for point in points(Plan("portable", "int8-dynamic"), ["cpu", "cuda"])] == ["cpu"]
    assert [point.provider for point in points(Plan("mha"), ["cpu", "cuda", "tensorrt"])] == ["cpu", "cuda"]
    assert [point.provider for point in points(Plan("portable"), ["somewhere"])] == ["somewhere"]
    compiled = plans(["openvino"], recipes=["int8-static"])
    assert [plan.name for plan in compiled][:4] == [
        "fp32 portable-separate-qkv", "int8-static-products portable-separate-qkv",
        "int8-static-products-symmetric portable-separate-qkv", "int8-static portable-separate-qkv",
    ]  # fmt: skip
    recipe = compiled[1].make_recipe()
    assert isinstance(recipe, Int8Static) and recipe.scope == "products"
    assert not recipe.embeddings, "ONNX Runtime's own operator, which another's compiler leaves to the CPU provider"
    symmetric = compiled[2].make_recipe()
    assert symmetric == dataclasses.replace(recipe, activation_type="int8", symmetric_activations=True)
    assert compiled[3].make_recipe() == Int8Static()
    assert [point.provider for point in points(compiled[2], ["cpu", "openvino"])] == ["openvino"]
    assert [point.provider for point in points(compiled[1], ["cpu", "openvino"])] == ["openvino"]
    assert [plan.name for plan in plans(["cpu", "openvino"])][:4] == [
        "fp32 mha", "fp32 portable-separate-qkv", "int8-dynamic portable",
        "int8-static-products portable-separate-qkv",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"form 'portable-separate-qkv' runs on none of cpu .it is for openvino."):
        plans(forms=["portable-separate-qkv"])
    with pytest.raises(UsageError, match="there is no form .round."):
        plans(forms=["round"])


def test_rescues_end() -> None:
    plan = Plan("portable", "int8-static")
    assert [p.name for p in rescues(plan)] == ["int8-static-percentile portable", "int8-static portable in budget"]
    assert rescues(Plan("mha")) == []
    assert rescues(dataclasses.replace(plan, in_budget=True)) == []
    assert [p.name for p in rescues(Plan("mha", "int8-dynamic"))] == ["int8-dynamic mha in budget"]


def test_variants_change_one_thing_each() -> None:
    point = Point(Plan("mha"))
    some = variants(point, ["BiasGeluFusion"], 8)
    assert [p.departures for p in some] == [
        ("BiasGeluFusion off",), ("no spinning",), ("no arena",), ("4 threads",), ("2 threads",), ("1 thread",),
    ]  # fmt: skip
    together = combined(point, [some[0], some[4]])
    assert together is not None and together.departures == ("BiasGeluFusion off", "2 threads")
    assert combined(point, some[:1]) is None
    assert variants(dataclasses.replace(point, provider="cuda"), ["BiasGeluFusion"], 8) == []
    elsewhere = dataclasses.replace(point, provider="openvino")
    assert [p.departures for p in variants(elsewhere, ["BiasGeluFusion"], 2, ["avx2"])] == [("openvino", "1 thread")]
    lower = variants(elsewhere, [], 1, ["avx512_bf16"])
    assert [(p.departures, p.is_lossy) for p in lower] == [(("openvino", "bfloat16"), True)]
    assert variants(lower[0], [], 1, ["avx512_bf16"]) == []
    assert ("bfloat16",) not in [p.departures for p in variants(point, [], 1, ["avx512_bf16"])]
    on_arm = variants(point, [], 1, ["bf16"])
    assert on_arm[0].departures == ("bfloat16",) and on_arm[0].is_lossy and not point.is_lossy
    assert combined(point, on_arm[:2]).settings == SessionSettings(bfloat16=True, spinning=False)  # type: ignore[union-attr]
    fused = variants(point, ["BiasGeluFusion", "SkipLayerNormFusion"], 1)
    assert [p.departures for p in fused[:2]] == [("SkipLayerNormFusion off",), ("BiasGeluFusion off",)], (
        "FUSIONS' order"
    )
    assert "2 threads" not in [d for p in variants(point, [], 1) for d in p.departures]
