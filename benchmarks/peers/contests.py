"""Who runs what in `benchmarks/speed_peers.py`: the workloads, the runners in each, and the goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgeai.runtime.kv_cache import IN_PLACE
from peers.environments import EDGEAI

REFERENCE = "ONNX Runtime fp32"
COSINE = 0.99
CALIBRATION = 32  # random feeds: the weights are random too
SEQUENCE = 128
NNCF = "OpenVINO NNCF int8"
NNCF_BF16 = f"{NNCF}, bf16"
HELP = {"help": True}  # past what ONNX Runtime's dynamic quantizer fails on: common/helped.py


@dataclass(frozen=True)
class Runner:
    """A peer with a file. `recipe` makes the file from the float one first; `form` is how it is opened.

    `maker` is the peer that makes the file, where that is another one.
    """

    name: str
    peer: str
    form: str
    recipe: str = ""
    recipe_options: Mapping[str, object] = field(default_factory=dict)
    form_options: Mapping[str, object] = field(default_factory=dict)
    maker: str = ""


@dataclass(frozen=True)
class Goal:
    """The fastest runner whose name starts with `ours` is to be `factor` times as fast as `against`."""

    against: str
    factor: float
    ours: str = EDGEAI


@dataclass(frozen=True)
class Contest:
    """`model` is a family and preset with random weights; `about` says what one run is."""

    name: str
    model: str
    about: str
    runners: tuple[Runner, ...]
    goals: tuple[Goal, ...]


def _recipe(name: str, form: str | None = None, **options: object) -> dict[str, object]:
    return {"name": name, "form": form, **options}


_CORRECTED = _recipe("int8-static", bias_correction=True)
# Sums stay in float: with them rounded, no share of the convolutions in float brings the cosine to 0.992.
_PRODUCTS = _recipe("int8-static", bias_correction=True, scope="products")
# Less than the goals' 0.01: the feeds that it is judged by here are not those that it was made with.
_WITHIN = {**_PRODUCTS, "max_drop": 0.008}


def _edgeai(name: str, recipe: Mapping[str, object], **settings: object) -> Runner:
    return Runner(f"{EDGEAI} {name}", EDGEAI, "session", "recipe", recipe, {"settings": settings or None})


PYTORCH = (Runner("PyTorch eager", "pytorch", "eager"), Runner("PyTorch compiled", "pytorch", "compiled"))
# What synchronizing two threads costs, a small model does not earn back.
SINGLE = Runner("PyTorch eager, one thread", "pytorch", "eager", form_options={"threads": 1})
FLOAT = (
    Runner(REFERENCE, "onnxruntime", "session"),
    Runner("OpenVINO fp32", "openvino", "compiled", form_options={"precision": "f32"}),
)
BFLOAT = Runner("OpenVINO bf16", "openvino", "compiled", form_options={"precision": "bf16"})
BUILT = Runner(f"{EDGEAI} build", EDGEAI, "session", "build")
# A run of such a model takes so long that few candidates fit into the minute that is the default.
BUILT_LONG = Runner(f"{EDGEAI} build, five minutes", EDGEAI, "session", "build", {"seconds": 300.0})
# The same where ONNX Runtime has the OpenVINO provider, which is then among the candidates.
BUILT_AUTO = Runner(
    f"{EDGEAI} build --target auto, five minutes", "openvino_provider", "bundle", "build", {"seconds": 300.0}
)
OPTIMIZED = Runner(f"{EDGEAI} fp32", EDGEAI, "session", "rewritten", {"form": "mha"})
# ONNX Runtime's fused kernel is slower than the two that it replaces on some CPUs.
UNFUSED = {"disabled_optimizers": ["SkipLayerNormFusion"]}


def _nncf(transformer: bool) -> tuple[Runner, ...]:
    """What stays float computed in float32, and in bfloat16, for which some CPUs have instructions."""
    return tuple(
        Runner(name, "openvino", "compiled", "nncf-openvino", {"transformer": transformer}, {"precision": precision})
        for name, precision in ((NNCF, "f32"), (NNCF_BF16, "bf16"))
    )


def _on_openvino(name: str, recipe: Mapping[str, object]) -> tuple[Runner, ...]:
    """The same on edgeai's side."""
    return tuple(
        Runner(
            f"{EDGEAI} {name}, OpenVINO provider{told}", "openvino_provider", "session", "recipe", recipe,
            {"precision": precision}, maker=EDGEAI,
        )
        for told, precision in (("", "f32"), (", bf16", "bf16"))
    )  # fmt: skip


def _llama(kind: str) -> Runner:
    recipe = ("gguf", {}) if kind == "F32" else ("quantized", {"kind": kind})
    return Runner(f"llama.cpp {kind}", "llama_cpp", "opened", *recipe, CONTINUED)


def _in_place(name: str, recipe: Mapping[str, object], **settings: object) -> Runner:
    runner = _edgeai(f"{name} in place{', huge pages' if settings else ''}", recipe, **settings)
    return replace(runner, form_options={**runner.form_options, **CONTINUED})


# Its file's own cache has the prompt, if the contest has one, and the last token alone is answered for. The others get
# the cache with the feed, made by the float model.
CONTINUED: Mapping[str, object] = {"prompt": []}
_INT8 = _recipe("int8-dynamic", IN_PLACE)
_INT4 = _recipe("int4-weight", IN_PLACE, block_size=128, method="gptq")
DECODERS = (
    *PYTORCH,
    *FLOAT,
    Runner("ONNX Runtime quantize_dynamic", "onnxruntime", "session", "dynamic", HELP),
    *(_llama(kind) for kind in ("F32", "Q8_0", "Q4_0")),
    _edgeai("int8-dynamic portable", _recipe("int8-dynamic", "portable")),
    Runner(f"{EDGEAI} fp32", EDGEAI, "session", "rewritten", {"form": IN_PLACE}, CONTINUED),
    _in_place("int8-dynamic", _INT8),
    _in_place("int8-dynamic", _INT8, huge_pages=True),
    _in_place("int8-weight", _recipe("int8-weight", IN_PLACE)),
    _in_place("int4-weight 32", _recipe("int4-weight", IN_PLACE, block_size=32)),
    _in_place("int4-weight 128 gptq", _INT4),
    _in_place("int4-weight 128 gptq", _INT4, huge_pages=True),
)

SMALL_GOALS = (Goal("PyTorch eager", 3.0), Goal("PyTorch eager, one thread", 3.0), Goal(REFERENCE, 1 / 1.15))

CONTESTS = (
    Contest("mlp", "mlp:reference", "one row", (*PYTORCH, SINGLE, *FLOAT, OPTIMIZED, BUILT), SMALL_GOALS),
    Contest("cnn", "cnn:reference", "one image of 8x8", (*PYTORCH, SINGLE, *FLOAT, OPTIMIZED, BUILT), SMALL_GOALS),
    Contest("bert", "bert:base", f"one sequence of {SEQUENCE} tokens", (
        *PYTORCH,
        *FLOAT,
        BFLOAT,
        Runner("ONNX Runtime quantize_dynamic", "onnxruntime", "session", "dynamic", HELP),
        Runner("optimum avx2 dynamic", "optimum", "session", "dynamic", {"target": "avx2", **HELP}),
        *_nncf(transformer=True),
        OPTIMIZED,
        *(
            _edgeai(f"int8-dynamic {form}{told}", _recipe("int8-dynamic", form), **settings)
            for form in ("mha", "separate-qkv", "attention3d")
            for told, settings in (("", {}), (", not fused", UNFUSED))
        ),
        _edgeai("int8-static attention3d, not fused", _recipe("int8-static", "attention3d"), **UNFUSED),
        *_on_openvino(
            "int8-static-products",
            _recipe("int8-static", "portable-separate-qkv", scope="products", embeddings=False),
        ),
        *_on_openvino("int8-static-products-symmetric", _recipe(
            "int8-static", "portable-separate-qkv", scope="products", embeddings=False, activation_type="int8",
            symmetric_activations=True,
        )),
        BUILT_LONG,
        BUILT_AUTO,
    ), (
        Goal(NNCF, 1.05), Goal(NNCF_BF16, 1.05), Goal("PyTorch eager", 6.0), Goal("ONNX Runtime quantize_dynamic", 1.3),
    )),
    Contest("resnet", "resnet:base", "one image of 224x224", (
        *PYTORCH,
        *FLOAT,
        BFLOAT,
        Runner("ONNX Runtime quantize_static", "onnxruntime", "session", "tuned", {"method": "MinMax"}),
        Runner("optimum avx2 static", "optimum", "session", "static", {"target": "avx2"}),
        *_nncf(transformer=False),
        Runner(
            "OpenVINO on edgeai's int8", "openvino", "compiled", "recipe", _CORRECTED,
            {"precision": "f32"}, maker=EDGEAI,
        ),
        OPTIMIZED,
        _edgeai("int8-static", _CORRECTED),
        *_on_openvino("int8-static", _CORRECTED),
        *_on_openvino("int8-static-products", _PRODUCTS),
        *_on_openvino("int8-static-products within 0.8 %", _WITHIN),
        _edgeai("int8-static, uint8 weights", _recipe("int8-static", weight_type="uint8")),
        BUILT,
        BUILT_AUTO,
    ), (Goal(NNCF, 1.0), Goal(NNCF_BF16, 1.0), Goal(REFERENCE, 2.5))),
    Contest("gpt-decode", "gpt:base", f"one token after {SEQUENCE}", DECODERS, (
        Goal("llama.cpp Q4_0", 1.2, f"{EDGEAI} int4"), Goal("llama.cpp Q8_0", 1.2, f"{EDGEAI} int8"),
    )),
    Contest("gpt-prefill", "gpt:base", f"{SEQUENCE} tokens at once", DECODERS, (
        Goal("llama.cpp Q4_0", 1.0, f"{EDGEAI} int4"), Goal("llama.cpp Q8_0", 1.0, f"{EDGEAI} int8"),
    )),
)  # fmt: skip
