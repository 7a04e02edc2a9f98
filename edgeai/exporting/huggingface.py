"""Models of the Hugging Face transformers library: `hf:DIR_OR_ID`, with the class that their config.json names.

No code of a repository is run (`trust_remote_code` is never set), and weights are read from safetensors or by
`torch.load(weights_only=True)`. Weights are widened to float32: what a CPU runs, and what a GPU's recipe narrows again.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgeai.errors import EdgeAIError, IntegrityError, MissingDependencyError, ModelFormatError, SourceError
from edgeai.exporting.decoder import BATCH, SEQUENCE, DecoderGraph, decoder_signature
from edgeai.exporting.silence import quiet
from edgeai.runtime.tokenizer import Tokenizer
from edgeai.spec import Axis, Signature, TensorSpec

PREFIX = "hf:"
GENERATE, FORWARD = "generate", "forward"
# What a proof covers where nobody says more: a 128k context times a vocabulary does not fit into memory.
_LONGEST = 1024
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Pretrained:
    """`signature` is None if this file does not know what the model takes: the user has to declare it."""

    name: str
    module: nn.Module
    signature: Signature | None
    task: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Path] = field(default_factory=dict)


class CachedModel(nn.Module):
    """A transformers causal language model, called as `DecoderGraph` calls one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: Sequence[tuple[Tensor, Tensor]] | None
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        """Logits (B,S,V) and the layers' keys and values (B,H,T,D), H being the heads that are cached."""
        from transformers.cache_utils import DynamicCache

        # Without the config, so that sliding-window layers keep all they have seen: the mask hides the rest.
        cache = DynamicCache(list(past)) if past else DynamicCache()
        places = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, attention_mask.shape[1] - input_ids.shape[1] :]
        answer = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=places, past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        return answer.logits, tuple((layer.keys, layer.values) for layer in answer.past_key_values.layers)

    def greedy(self, input_ids: Tensor, attention_mask: Tensor, steps: int) -> Tensor:
        """Logits (B, steps, V) of the library's own greedy generation, which shares no code with `forward`."""
        settings: Any = _transformers().GenerationConfig(
            do_sample=False, max_new_tokens=steps, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
        kept, self.model.generation_config = self.model.generation_config, settings
        try:
            with quiet():
                answer = self.model.generate(input_ids=input_ids, attention_mask=attention_mask)
        finally:
            self.model.generation_config = kept
        return torch.stack(answer.logits, dim=1)


def load_pretrained(where: str, *, task: str | None = None) -> Pretrained:
    """Read `where`, a directory or a repository's name. `task` is generate or forward (default: by the class).

    Raises MissingDependencyError without transformers, SourceError if there is no such model, if it needs code of its
    repository, or if it does not generate and is asked to, IntegrityError naming keys that do not fit.
    """
    library = _transformers()
    where = where.removeprefix(PREFIX)
    with _reading(where, library):
        config = library.AutoConfig.from_pretrained(where, trust_remote_code=False)
        kind = _class(library, where, config, task)
        module, found = kind.from_pretrained(
            where, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    _refuse_misfits(where, type(module).__name__, found)
    name = Path(where).resolve().name if Path(where).is_dir() else where.rpartition("/")[2]
    if task != FORWARD and _generates(module):
        return _decoder(name, where, module)
    if task == GENERATE:
        raise _no_generator(where, type(module).__name__)
    for part in module.modules():  # T5's stacks have copies of the configuration
        if hasattr(getattr(part, "config", None), "use_cache"):
            part.config.use_cache = False
    signature = _signature(module)
    return Pretrained(name, module, signature, *_classification(where, module, signature))


def _transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("transformers is not installed", hint="pip install 'edgeai[hf]'") from error


@contextmanager
def _reading(where: str, library: ModuleType) -> Iterator[None]:
    """transformers logs and draws progress bars; its errors span many lines and several types."""
    verbosity, bars = library.logging.get_verbosity(), library.logging.is_progress_bar_enabled()
    library.logging.set_verbosity(library.logging.CRITICAL)
    library.logging.disable_progress_bar()
    try:
        with quiet():
            yield
    except EdgeAIError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise _remote_code(where) from error
        first = text.split(". ")[0]
        raise SourceError(
            f"hf:{where} cannot be read: {type(error).__name__}: {first}",
            hint="give a directory that save_pretrained wrote, or the name of a repository that can be reached",
        ) from error
    finally:
        library.logging.set_verbosity(verbosity)
        if bars:
            library.logging.enable_progress_bar()


def _remote_code(where: str) -> SourceError:
    return SourceError(
        f"hf:{where} needs Python code of its repository, which is never run",
        hint="write a file.py with a factory that makes the module from code you have read",
    )


def _class(library: ModuleType, where: str, config: Any, task: str | None) -> Any:
    name = (getattr(config, "architectures", None) or [""])[0]
    kind = getattr(library, name, None) if name else library.AutoModel
    if kind is None:
        raise _remote_code(where)
    if task != GENERATE or "CausalLM" in name or "LMHead" in name:
        return kind
    if type(config) not in library.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _no_generator(where, name)
    return library.AutoModelForCausalLM


def _no_generator(where: str, name: str) -> SourceError:
    return SourceError(f"hf:{where}: {name} is no causal language model", hint="leave out --task")


def _refuse_misfits(where: str, name: str, found: Mapping[str, Any]) -> None:
    kinds = {"missing": "missing_keys", "unexpected": "unexpected_keys", "of another shape": "mismatched_keys"}
    wrong = {
        kind: sorted(key if isinstance(key, str) else str(key[0]) for key in found.get(field_name) or ())
        for kind, field_name in kinds.items()
    }
    if any(wrong.values()):
        told = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in wrong.items() if keys)
        raise IntegrityError(f"the weights of hf:{where} do not fit {name}: {told}")


def _generates(module: Any) -> bool:
    config = module.config
    causal = module.can_generate() and not getattr(config, "is_encoder_decoder", False)
    return bool(causal and module.main_input_name == "input_ids" and hasattr(config, "vocab_size"))


def _decoder(name: str, where: str, module: Any) -> Pretrained:
    cached = CachedModel(module)
    positions = min(_positions(module), _LONGEST)
    signature = decoder_signature(cached, vocabulary=module.config.vocab_size, positions=positions)
    extras = _tokenizer(where)
    task = {"task": "text-generation", "preprocessing": {"tokenizer": _TOKENIZER, "max_positions": _positions(module)}}
    if extras:
        stop = _end_tokens(module, Tokenizer.load(extras[_TOKENIZER]))
        task["preprocessing"] |= {"stop_tokens": stop}  # type: ignore[operator]
    return Pretrained(name, DecoderGraph(cached), signature, task if extras else {}, extras)


def _end_tokens(module: Any, tokenizer: Tokenizer) -> list[str]:
    ids = module.generation_config.eos_token_id
    ids = [ids] if isinstance(ids, int) else ids or []
    return [tokenizer.names[i] for i in ids if i in tokenizer.names]


def _positions(module: Any, *names: str) -> int:
    """The longest sequence. RoBERTa's kind keeps the first rows of the table for padding."""
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return int(part.num_embeddings - part.padding_idx - 1)
    told = (_said(module.config, name) for name in (*names, "max_position_embeddings", "n_positions"))
    return int(next((value for value in told if value), _LONGEST))


def _signature(module: Any) -> Signature | None:
    """What the model's kind takes: text, images, sound, or text and images; None for any other kind."""
    config = module.config
    parameters = inspect.signature(module.forward).parameters
    inputs: list[TensorSpec] = []
    axes = [Axis(BATCH)]
    if "input_ids" in parameters and (vocabulary := _said(config, "vocab_size")):
        axes.append(Axis(SEQUENCE, 1, min(_positions(module), _LONGEST)))
        inputs += _text("", SEQUENCE, parameters, vocabulary)
        if "token_type_ids" in parameters and getattr(config, "type_vocab_size", 0) > 1:
            inputs.append(TensorSpec("token_type_ids", "int64", (BATCH, SEQUENCE), 0, config.type_vocab_size))
    if "pixel_values" in parameters:
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        shape = (BATCH, getattr(vision, "num_channels", 3), height, width)
        inputs.append(TensorSpec("pixel_values", "float32", shape))
    if "input_features" in parameters and hasattr(config, "num_mel_bins"):
        frames = 2 * config.max_source_positions
        inputs.append(TensorSpec("input_features", "float32", (BATCH, config.num_mel_bins, frames)))
    if "decoder_input_ids" in parameters and (vocabulary := _said(config, "vocab_size")):
        axes.append(Axis("target", 1, min(_positions(module, "max_target_positions"), _LONGEST)))
        inputs += _text("decoder_", "target", parameters, vocabulary)[:1]
    main_known = any(spec.name == module.main_input_name for spec in inputs)
    return Signature(tuple(inputs), (), tuple(axes)) if main_known else None


def _text(prefix: str, axis: str, parameters: Mapping[str, Any], vocabulary: int) -> list[TensorSpec]:
    names = [(f"{prefix}input_ids", vocabulary), (f"{prefix}attention_mask", 2)]
    return [TensorSpec(name, "int64", (BATCH, axis), 0, high) for name, high in names if name in parameters]


def _said(config: Any, name: str) -> int | None:
    """A setting of the model, or of its part for text."""
    return getattr(config, name, None) or getattr(getattr(config, "text_config", None), name, None)


def _classification(
    where: str, module: Any, signature: Signature | None
) -> tuple[Mapping[str, Any], Mapping[str, Path]]:
    """Task and files of a text classifier whose tokenizer the runtime can read; nothing for another model."""
    extras = _tokenizer(where)
    if signature is None or not extras or not type(module).__name__.endswith("ForSequenceClassification"):
        return {}, {}
    labels = [str(module.config.id2label[i]) for i in range(module.config.num_labels)]
    if Tokenizer.load(extras[_TOKENIZER]).token_to_id("[PAD]") is None:
        return {}, {}
    preprocessing = {"tokenizer": _TOKENIZER, "max_length": signature.axis(SEQUENCE).maximum}
    return {"task": "text-classification", "labels": labels, "preprocessing": preprocessing}, extras


def _tokenizer(where: str) -> dict[str, Path]:
    """The directory's tokenizer, if the runtime can read it; without it the application brings its own."""
    path = Path(where, _TOKENIZER)
    try:
        Tokenizer.load(path)
    except ModelFormatError:
        return {}
    return {_TOKENIZER: path}
