"""Models of the transformers library, built from small configurations with random weights; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from zoo.subject import BATCH, Subject, awake, axis, integers, named, normal, padded

WORDS = 200
SEQUENCE = axis("sequence", 2, 48)
SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "vocab_size": WORDS, "max_position_embeddings": 64,
}  # fmt: skip
# Token 0 is neither start nor padding to any of them, for the example draws every token.
TOKENS: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}


def _text(model: Callable[[Any], Any], config: Any, *, mask: bool = True) -> Subject:
    """Token ids and a mask, batch and length dynamic."""
    config.use_cache = False
    example = {"input_ids": integers(WORDS, 2, 12)}
    if mask:
        example["attention_mask"] = padded(12, 7)
    return awake(model(config).eval(), example, {name: {0: BATCH, 1: SEQUENCE} for name in example})


def _image(
    model: Callable[[Any], Any], config: Any, size: int = 64, sides: tuple[int, int, int] | None = None
) -> Subject:
    axes = {0: axis("batch", 1, 8)}
    if sides is not None:
        axes |= {2: axis("height", *sides), 3: axis("width", *sides)}
    return awake(model(config).eval(), {"pixel_values": normal(2, 3, size, size)}, {"pixel_values": axes})


def _two_sided(
    module: torch.nn.Module, example: dict[str, Tensor], source: dict[str, int], length: int = 48
) -> Subject:
    """Encoder and decoder: `source` names the encoder's inputs and which axis of each is its length."""
    target = axis("target", 2, length)
    dynamic = {name: {0: BATCH, 1: target} for name in example if name.startswith("decoder")}
    dynamic |= {name: {0: BATCH, index: SEQUENCE} if index else {0: BATCH} for name, index in source.items()}
    return awake(module.eval(), example, dynamic)


def bert() -> Subject:
    """Devlin et al. 2018, BERT."""
    config = hf.BertConfig(**SMALL)
    config.use_cache = False
    example = {
        "input_ids": integers(WORDS, 2, 12),
        "attention_mask": padded(12, 7),
        "token_type_ids": integers(2, 2, 12),
    }
    dynamic = {name: {0: BATCH, 1: SEQUENCE} for name in example}
    return awake(hf.BertForSequenceClassification(config).eval(), example, dynamic)


def roberta() -> Subject:
    """Liu et al. 2019, RoBERTa (positions are counted from the padding)."""
    return _text(hf.RobertaForTokenClassification, hf.RobertaConfig(**SMALL, **TOKENS))


def distilbert() -> Subject:
    """Sanh et al. 2019, DistilBERT."""
    config = hf.DistilBertConfig(
        vocab_size=WORDS, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=64
    )
    return _text(hf.DistilBertForSequenceClassification, config)


def albert() -> Subject:
    """Lan et al. 2019, ALBERT (layers share their weights)."""
    return _text(hf.AlbertForMaskedLM, hf.AlbertConfig(**SMALL, embedding_size=32))


def electra() -> Subject:
    """Clark et al. 2020, ELECTRA."""
    return _text(hf.ElectraForPreTraining, hf.ElectraConfig(**SMALL, embedding_size=32))


def deberta_v2() -> Subject:
    """He et al. 2021, DeBERTaV3 (disentangled attention, relative positions in buckets)."""
    config = hf.DebertaV2Config(
        **SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=16, norm_rel_ebd="layer_norm",
        share_att_key=True, position_biased_input=False,
    )  # fmt: skip
    return _text(hf.DebertaV2ForSequenceClassification, config)


def mpnet() -> Subject:
    """Song et al. 2020, MPNet (relative position bias)."""
    return _text(hf.MPNetModel, hf.MPNetConfig(**SMALL, **TOKENS))


def gpt2() -> Subject:
    """Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2)."""
    config = hf.GPT2Config(
        vocab_size=WORDS, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3
    )
    return _text(hf.GPT2LMHeadModel, config)


def opt() -> Subject:
    """Zhang et al. 2022, OPT (positions are counted from the mask)."""
    config = hf.OPTConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128,
        max_position_embeddings=64, word_embed_proj_dim=64, **TOKENS,
    )  # fmt: skip
    return _text(hf.OPTForCausalLM, config)


def bloom() -> Subject:
    """Le Scao et al. 2022, BLOOM (ALiBi)."""
    return _text(hf.BloomForCausalLM, hf.BloomConfig(vocab_size=WORDS, hidden_size=64, n_layer=2, n_head=4, **TOKENS))


def llama() -> Subject:
    """Touvron et al. 2023, LLaMA (rotary positions, grouped key and value heads)."""
    return _text(hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL, **TOKENS, num_key_value_heads=2))


def mistral() -> Subject:
    """Jiang et al. 2023, Mistral 7B (sliding window)."""
    return _text(hf.MistralForCausalLM, hf.MistralConfig(**SMALL, **TOKENS, num_key_value_heads=2, sliding_window=8))


def qwen2() -> Subject:
    """Yang et al. 2024, Qwen2."""
    return _text(hf.Qwen2ForCausalLM, hf.Qwen2Config(**SMALL, **TOKENS, num_key_value_heads=2))


def phi() -> Subject:
    """Li et al. 2023, Textbooks Are All You Need II: phi-1.5 (partial rotary positions)."""
    return _text(hf.PhiForCausalLM, hf.PhiConfig(**SMALL, **TOKENS))


def gemma2() -> Subject:
    """Gemma Team 2024, Gemma 2 (soft caps, local and global layers)."""
    config = hf.Gemma2Config(**SMALL, **TOKENS, num_key_value_heads=2, head_dim=16, sliding_window=8)
    return _text(hf.Gemma2ForCausalLM, config)


def gpt_neox() -> Subject:
    """Black et al. 2022, GPT-NeoX-20B (parallel residual)."""
    return _text(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**SMALL, bos_token_id=2, eos_token_id=3))


def t5() -> Subject:
    """Raffel et al. 2019, T5."""
    config = hf.T5Config(
        vocab_size=WORDS, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
        relative_attention_max_distance=16, feed_forward_proj="gated-gelu", use_cache=False, decoder_start_token_id=1,
    )  # fmt: skip
    return _translator(hf.T5ForConditionalGeneration(config))


def bart() -> Subject:
    """Lewis et al. 2019, BART."""
    config = hf.BartConfig(
        vocab_size=WORDS, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=64,
        use_cache=False, decoder_start_token_id=3, **TOKENS,
    )  # fmt: skip
    return _translator(hf.BartForConditionalGeneration(config))


def _translator(module: torch.nn.Module) -> Subject:
    example = {
        "input_ids": integers(WORDS, 2, 12), "attention_mask": padded(12, 7),
        "decoder_input_ids": integers(WORDS, 2, 9, seed=1),
    }  # fmt: skip
    return _two_sided(module, example, {"input_ids": 1, "attention_mask": 1})


def whisper() -> Subject:
    """Radford et al. 2022, Whisper."""
    config = hf.WhisperConfig(
        vocab_size=WORDS, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=16, max_source_positions=24,
        max_target_positions=48, use_cache=False, decoder_start_token_id=3, **TOKENS,
    )  # fmt: skip
    example = {"input_features": normal(2, 16, 48), "decoder_input_ids": integers(WORDS, 2, 9)}
    return _two_sided(hf.WhisperForConditionalGeneration(config), example, {"input_features": 0})


def wav2vec2() -> Subject:
    """Baevski et al. 2020, wav2vec 2.0."""
    config = hf.Wav2Vec2Config(
        **{**SMALL, "vocab_size": 32}, conv_dim=(32, 32, 32), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    axes = {0: axis("batch", 1, 8), 1: axis("samples", 400, 4000)}
    return awake(hf.Wav2Vec2ForCTC(config).eval(), {"input_values": normal(2, 1600)}, {"input_values": axes})


_PATCHES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def vit() -> Subject:
    """Dosovitskiy et al. 2020, An Image is Worth 16x16 Words."""
    return _image(hf.ViTForImageClassification, hf.ViTConfig(**_PATCHES, image_size=64, patch_size=16))


def deit() -> Subject:
    """Touvron et al. 2020, DeiT (class and distillation tokens)."""
    config = hf.DeiTConfig(**_PATCHES, image_size=64, patch_size=16)
    return _image(hf.DeiTForImageClassificationWithTeacher, config)


def dinov2() -> Subject:
    """Oquab et al. 2023, DINOv2 (layer scale, positions interpolated to the image)."""
    return _image(hf.Dinov2Model, hf.Dinov2Config(**_PATCHES, image_size=56, patch_size=14), size=56)


def swin() -> Subject:
    """Liu et al. 2021, Swin Transformer (shifted windows)."""
    config = hf.SwinConfig(image_size=64, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return _image(hf.SwinForImageClassification, config)


def convnext_v2() -> Subject:
    """Woo et al. 2023, ConvNeXt V2 (global response normalization).

    Below 64 its last stage is one pixel wide, which torch.export takes for a constant.
    """
    config = hf.ConvNextV2Config(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], image_size=64)
    return _image(hf.ConvNextV2ForImageClassification, config, sides=(64, 96, 1))


def hub_resnet() -> Subject:
    """He et al. 2015, Deep Residual Learning for Image Recognition."""
    config = hf.ResNetConfig(embedding_size=16, hidden_sizes=[32, 48, 64, 64], depths=[1, 1, 2, 1])
    return _image(hf.ResNetForImageClassification, config, sides=(32, 96, 1))


def mobilenet_v2() -> Subject:
    """Sandler et al. 2018, MobileNetV2."""
    config = hf.MobileNetV2Config(image_size=64, depth_multiplier=0.25, min_depth=8)
    return _image(hf.MobileNetV2ForImageClassification, config)


def mobilevit() -> Subject:
    """Mehta and Rastegari 2021, MobileViT."""
    config = hf.MobileViTConfig(
        image_size=128, hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 12, 16, 24, 32, 40, 64], expand_ratio=2.0
    )
    return _image(hf.MobileViTForImageClassification, config, size=128)


def segformer() -> Subject:
    """Xie et al. 2021, SegFormer."""
    config = hf.SegformerConfig(
        hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 6], decoder_hidden_size=32
    )
    return _image(hf.SegformerForSemanticSegmentation, config)


def yolos() -> Subject:
    """Fang et al. 2021, You Only Look at One Sequence."""
    config = hf.YolosConfig(**_PATCHES, image_size=[64, 64], patch_size=16, num_detection_tokens=10)
    return _image(hf.YolosForObjectDetection, config)


def clip() -> Subject:
    """Radford et al. 2021, CLIP."""
    text = {**SMALL, "max_position_embeddings": 48, **TOKENS}
    config = hf.CLIPConfig(
        text_config=text, vision_config={**_PATCHES, "image_size": 64, "patch_size": 16}, projection_dim=32
    )
    images, texts = axis("images", 1, 8), axis("texts", 1, 8)
    example = {
        "input_ids": integers(WORDS, 3, 12),
        "attention_mask": padded(12, 7, 9),
        "pixel_values": normal(2, 3, 64, 64),
    }
    dynamic = {
        "input_ids": {0: texts, 1: SEQUENCE},
        "attention_mask": {0: texts, 1: SEQUENCE},
        "pixel_values": {0: images},
    }
    return awake(hf.CLIPModel(config).eval(), example, dynamic)


MAKERS = (
    bert, roberta, distilbert, albert, electra, deberta_v2, mpnet, gpt2, opt, bloom, llama, mistral, qwen2, phi, gemma2,
    gpt_neox, t5, bart, whisper, wav2vec2, vit, deit, dinov2, swin, convnext_v2, hub_resnet, mobilenet_v2, mobilevit,
    segformer, yolos, clip,
)  # fmt: skip
ZOO = named("transformers", *MAKERS)
