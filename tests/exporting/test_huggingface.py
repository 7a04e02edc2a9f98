"""`hf:DIR`: what save_pretrained wrote becomes a proven graph, with a cache where the model generates."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgeai.errors import IntegrityError, MissingDependencyError, SourceError, UsageError
from edgeai.exporting import export, resolve
from edgeai.exporting.huggingface import CachedModel
from edgeai.spec import Axis

TEXT: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LONG: dict[str, Any] = {**TEXT, **ENDS, "intermediate_size": 64, "max_position_embeddings": 128}


def gpt2() -> Any:
    config = transformers.GPT2Config(**ENDS, vocab_size=97, n_positions=128, n_embd=32, n_layer=2, n_head=4)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    """Grouped heads and rotary positions."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LONG, num_key_value_heads=2))


def mistral() -> Any:
    """Grouped heads and a window of 8 positions."""
    config = transformers.MistralConfig(**LONG, num_key_value_heads=2, sliding_window=8)
    return transformers.MistralForCausalLM(config)


def bert() -> Any:
    config = transformers.BertConfig(**TEXT, intermediate_size=64, max_position_embeddings=40, num_labels=3)
    return transformers.BertForSequenceClassification(config)


def roberta() -> Any:
    config = transformers.RobertaConfig(**TEXT, intermediate_size=64, max_position_embeddings=42)
    return transformers.RobertaForMaskedLM(config)


def vit() -> Any:
    rest = {name: value for name, value in TEXT.items() if name != "vocab_size"}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**rest, intermediate_size=64, image_size=32, patch_size=8)
    )


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Any]], Path]:
    """The directory of a model whose weights are all alive."""
    directory = tmp_path_factory.mktemp("pretrained")

    def save(make: Callable[[], Any]) -> Path:
        path = directory / make.__name__
        if not path.exists():
            torch.manual_seed(0)
            model = make()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
            model.save_pretrained(path)
        return path

    return save


@pytest.mark.parametrize("make", [gpt2, llama, mistral])
def test_a_causal_model_generates_as_the_library_does(make: Callable[[], Any], saved: Any, tmp_path: Path) -> None:
    source = resolve(f"hf:{saved(make)}", task="generate")
    assert source.is_decoder and source.name == make.__name__
    artifact = export(source, out=tmp_path / "model.onnx")
    proven = artifact.lineage[-1].options["generated"]
    assert proven == {"tokens": 64, "prompts": [[1], [7], [32], [3, 8, 13]], "ties": 0}
    assert artifact.signature is not None
    keys = {spec.name: spec.shape for spec in artifact.signature.inputs}["past_key_values.1.key"]
    assert keys == ("batch", 4 if make is gpt2 else 2, "past", 8)

    # Once more without anything of edgeai: the library's generate against a loop over raw ONNX Runtime.
    model = transformers.AutoModelForCausalLM.from_pretrained(saved(make)).eval()
    ids = torch.from_numpy(np.random.default_rng(5).integers(1, 97, (3, 9)))
    mask = torch.tensor([[0] * 4 + [1] * 5, [1] * 9, [0] * 8 + [1]])
    expected = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    )[:, 9:].numpy()
    session = onnxruntime.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()][2:]
    past = {name: np.zeros((3, keys[1], 0, 8), np.float32) for name in names}
    now, seen, chosen = ids.numpy(), mask.numpy(), []
    for _ in range(64):
        logits, *present = session.run(None, {"input_ids": now, "attention_mask": seen, **past})
        now = logits[:, -1].argmax(-1)[:, None]
        chosen.append(now)
        seen = np.concatenate((seen, np.ones((3, 1), np.int64)), 1)
        past = dict(zip(names, present, strict=True))
    np.testing.assert_array_equal(np.concatenate(chosen, 1), expected)


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (bert, ["input_ids", "attention_mask", "token_type_ids"], ["logits"]),
        (roberta, ["input_ids", "attention_mask", "token_type_ids"], ["logits"]),
        (vit, ["pixel_values"], ["logits"]),
        (t5, ["input_ids", "attention_mask", "decoder_input_ids"], ["logits", "encoder_last_hidden_state"]),
    ],
)
def test_inputs_are_known_by_the_kind_of_model(
    make: Callable[[], Any], inputs: list[str], outputs: list[str], saved: Any, tmp_path: Path
) -> None:
    artifact = export(resolve(f"hf:{saved(make)}"), out=tmp_path / "model.onnx")
    assert artifact.signature is not None
    assert list(artifact.signature.input_names) == inputs
    assert list(artifact.signature.output_names) == outputs
    assert artifact.lineage[-1].options["verified"]["axes"]["batch"] == (1, 64)


def test_the_longest_text_is_the_table_of_positions(saved: Any) -> None:
    assert resolve(f"hf:{saved(bert)}").signature.axis("sequence") == Axis("sequence", 1, 40)
    assert resolve(f"hf:{saved(roberta)}").signature.axis("sequence") == Axis("sequence", 1, 40)  # 2 are for padding
    shorter = resolve(f"hf:{saved(bert)}", dynamic=["input_ids:1=sequence:1..16"])
    assert shorter.signature.axis("sequence").maximum == 16


def test_a_decoder_is_exported_without_its_cache_on_request(saved: Any) -> None:
    source = resolve(f"hf:{saved(gpt2)}", task="forward")
    assert not source.is_decoder
    assert source.signature.input_names[:2] == ("input_ids", "attention_mask")
    assert source.signature.output_names == ("logits",)


def test_inputs_may_be_declared(saved: Any) -> None:
    source = resolve(f"hf:{saved(bert)}", inputs=["input_ids:int64[batch,12]<97"])
    assert [str(spec) for spec in source.signature.inputs] == ["input_ids:int64[batch,12]<97"]
    with pytest.raises(UsageError, match="its inputs are fixed"):
        resolve(f"hf:{saved(gpt2)}", inputs=["input_ids:int64[batch,12]<97"])


def test_generation_shares_no_code_with_the_graph(saved: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(saved(llama)).eval()
    settings = model.generation_config
    ids = torch.tensor([[5, 6, 7]])
    logits = CachedModel(model).greedy(ids, torch.ones_like(ids), 4)
    assert logits.shape == (1, 4, 97)
    assert model.generation_config is settings


def test_a_text_classifier_brings_its_tokenizer_and_labels(saved: Any, trained: Any, tmp_path: Path) -> None:
    directory = tmp_path / "classifier"
    shutil.copytree(saved(bert), directory)
    shutil.copy(trained("bert") / "tokenizer.json", directory)
    source = resolve(f"hf:{directory}")
    assert source.task["task"] == "text-classification"
    assert source.task["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert source.extras == {"tokenizer.json": directory / "tokenizer.json"}


def test_keys_that_do_not_fit_are_named(saved: Any, tmp_path: Path) -> None:
    directory = tmp_path / "broken"
    shutil.copytree(saved(bert), directory)
    state = load_file(directory / "model.safetensors")
    state["stranger.weight"] = state.pop("classifier.weight")
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"missing: classifier.weight; unexpected: stranger.weight"):
        resolve(f"hf:{directory}")


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    code = tmp_path / "modeling_evil.py"
    code.write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "modeling_evil.Config", "AutoModel": "modeling_evil.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match="needs Python code of its repository, which is never run"):
        resolve(f"hf:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_refusals(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        resolve(f"hf:{tmp_path}")
    with pytest.raises(SourceError, match="is no causal language model"):
        resolve(f"hf:{saved(vit)}", task="generate")
    with pytest.raises(SourceError, match="is a pretrained model: weights"):
        resolve(f"hf:{saved(vit)}", weights="w.safetensors")
    with pytest.raises(UsageError, match="no task sing"):
        resolve(f"hf:{saved(vit)}", task="sing")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="transformers is not installed"):
        resolve(f"hf:{saved(vit)}")
