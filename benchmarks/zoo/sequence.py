"""Sound, text and sequences: convolutions in time, recurrent networks, torch.nn's own transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.subject import BATCH, Subject, awake, axis, integers, named, normal, of_images, padded
from zoo.vision import block

WORDS = 200
LENGTH = axis("length", 2, 48)


class _Gated(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.past = dilation
        self.both = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.skip, self.out = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.both(F.pad(x, (self.past, 0))).chunk(2, 1)
        y = value.tanh() * gate.sigmoid()
        return x + self.out(y), self.skip(y)


class _WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 24)
        self.layers = nn.ModuleList(_Gated(24, 2**i) for i in range(5))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(24, 48, 1), nn.ReLU(), nn.Conv1d(48, 256, 1))

    def forward(self, samples: Tensor) -> Tensor:
        x, total = self.embed(samples).transpose(1, 2), torch.zeros(())
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.head(total)


def wavenet() -> Subject:
    """van den Oord et al. 2016, WaveNet."""
    example = {"samples": integers(256, 2, 40)}
    return awake(_WaveNet(), example, {"samples": {0: BATCH, 1: axis("time", 2, 256)}})


class _TextCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 32, padding_idx=0)
        self.widths = nn.ModuleList(nn.Conv1d(32, 16, k) for k in (3, 4, 5))
        self.head = nn.Linear(48, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)
        return self.head(torch.cat([F.relu(conv(x)).amax(2) for conv in self.widths], 1)).log_softmax(1)


def text_cnn() -> Subject:
    """Kim 2014, Convolutional Neural Networks for Sentence Classification."""
    return awake(_TextCnn(), {"ids": integers(WORDS, 2, 12)}, {"ids": {0: BATCH, 1: axis("length", 5, 48)}})


def _causal(i: int, o: int, dilation: int) -> list[nn.Module]:
    pad = nn.ConstantPad1d((2 * dilation, 0), 0.0)
    return [
        pad,
        nn.utils.parametrizations.weight_norm(nn.Conv1d(i, o, 3, dilation=dilation)),
        nn.ReLU(),
        nn.Dropout(0.2),
    ]


def tcn() -> Subject:
    """Bai et al. 2018, An Empirical Evaluation of Generic Convolutional and Recurrent Networks (with weight norm)."""
    layers = [layer for i, o, d in ((4, 24, 1), (24, 24, 2), (24, 24, 4)) for layer in _causal(i, o, d)]
    example = {"input": normal(2, 4, 30)}
    return awake(nn.Sequential(*layers, nn.Conv1d(24, 3, 1)), example, {"input": {0: BATCH, 2: axis("time", 2, 200)}})


class _Tagger(nn.Module):
    """Embedding, recurrent layers, one label a word."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.embed, self.recurrent = nn.Embedding(WORDS, recurrent.input_size), recurrent
        self.head = nn.Linear(recurrent.hidden_size * (2 if recurrent.bidirectional else 1), 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(ids))[0])


def _tagger(recurrent: nn.RNNBase) -> Subject:
    return awake(_Tagger(recurrent), {"ids": integers(WORDS, 2, 12)}, {"ids": {0: BATCH, 1: LENGTH}})


def lstm_tagger() -> Subject:
    """Hochreiter and Schmidhuber 1997, Long Short-Term Memory."""
    return _tagger(nn.LSTM(24, 32, num_layers=2, batch_first=True, dropout=0.1))


def bilstm_tagger() -> Subject:
    """Huang et al. 2015, Bidirectional LSTM-CRF Models for Sequence Tagging (emission scores)."""
    return _tagger(nn.LSTM(24, 32, num_layers=2, batch_first=True, bidirectional=True))


def bigru_tagger() -> Subject:
    """Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder (gated recurrent units)."""
    return _tagger(nn.GRU(24, 32, num_layers=2, batch_first=True, bidirectional=True))


class _Stateful(nn.Module):
    """The state goes in and comes out, as streaming needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(16, 24, num_layers=2), nn.Linear(24, 16)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> dict[str, Tensor]:
        y, (hidden, cell) = self.recurrent(x, (hidden, cell))
        return {"y": x * self.head(y).sigmoid(), "new_hidden": hidden, "new_cell": cell}


def lstm_stream() -> Subject:
    """Valin 2018, A Hybrid DSP/Deep Learning Approach to Real-Time Full-Band Speech Enhancement (gains by a state)."""
    example = {"x": normal(5, 2, 16), "hidden": normal(2, 2, 24, seed=1), "cell": normal(2, 2, 24, seed=2)}
    return awake(_Stateful(), example, {"x": {0: LENGTH, 1: BATCH}, "hidden": {1: BATCH}, "cell": {1: BATCH}})


class _Attentive(nn.Module):
    """One step of the decoder: it looks at every state of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 24)
        self.encoder, self.cell = nn.GRU(24, 32, num_layers=2, batch_first=True), nn.GRUCell(56, 32)
        self.query, self.key, self.score = nn.Linear(32, 24), nn.Linear(32, 24), nn.Linear(24, 1)
        self.head = nn.Linear(64, WORDS)

    def forward(self, source: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.encoder(self.embed(source))
        state = last[-1]
        weights = self.score(torch.tanh(self.query(state)[:, None] + self.key(states))).softmax(1)
        context = (weights * states).sum(1)
        state = self.cell(torch.cat([self.embed(previous), context], 1), state)
        return self.head(torch.cat([state, context], 1)), weights[..., 0]


def gru_attention() -> Subject:
    """Bahdanau et al. 2014, Neural Machine Translation by Jointly Learning to Align and Translate."""
    example = {"source": integers(WORDS, 2, 12), "previous": integers(WORDS, 2)}
    return awake(_Attentive(), example, {"source": {0: BATCH, 1: LENGTH}, "previous": {0: BATCH}})


class _Crnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(1, 16), nn.MaxPool2d(2), block(16, 32), nn.MaxPool2d((2, 1)), block(32, 32, 3), nn.MaxPool2d((4, 1))
        )
        self.recurrent, self.head = nn.LSTM(64, 32, bidirectional=True), nn.Linear(64, 37)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 1, 32, width) -> (width / 2, batch, 37)
        columns = self.features(x).flatten(1, 2).permute(2, 0, 1)
        return self.head(self.recurrent(columns)[0]).log_softmax(2)


def crnn() -> Subject:
    """Shi et al. 2015, An End-to-End Trainable Neural Network for Image-based Sequence Recognition."""
    subject = of_images(_Crnn(), (1, 32, 64))
    return Subject(subject.module, subject.example, {"x": {0: BATCH, 3: axis("width", 16, 160)}})


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(WORDS, 32), nn.Parameter(torch.zeros(48, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids) + self.position[: ids.shape[1]]
        x = self.body(x, src_key_padding_mask=mask == 0)
        kept = mask[..., None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))


def transformer_encoder() -> Subject:
    """Vaswani et al. 2017, Attention Is All You Need (nn.TransformerEncoder with a padding mask)."""
    example = {"ids": integers(WORDS, 2, 12), "mask": padded(12, 7)}
    return awake(_Encoder(), example, {"ids": {0: BATCH, 1: LENGTH}, "mask": {0: BATCH, 1: LENGTH}})


class _Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(WORDS, 32), nn.Parameter(torch.zeros(48, 32))
        self.body = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(32, WORDS)

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor) -> Tensor:
        hidden = source_mask == 0
        future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).triu(1)
        x = self.body(
            self.embed(source) + self.position[: source.shape[1]],
            self.embed(target) + self.position[: target.shape[1]],
            tgt_mask=future, src_key_padding_mask=hidden, memory_key_padding_mask=hidden,
        )  # fmt: skip
        return self.head(x)


def transformer() -> Subject:
    """Vaswani et al. 2017, Attention Is All You Need (nn.Transformer, both halves, causal and padding masks)."""
    example = {"source": integers(WORDS, 2, 12), "target": integers(WORDS, 2, 9, seed=1), "source_mask": padded(12, 7)}
    target = axis("target_length", 2, 48)
    dynamic = {"source": {0: BATCH, 1: LENGTH}, "target": {0: BATCH, 1: target}, "source_mask": {0: BATCH, 1: LENGTH}}
    return awake(_Translator(), example, dynamic)


class _Conformer(nn.Module):
    """One block: half a feed-forward, attention, convolution, half a feed-forward."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.forwards = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.gate, self.depthwise = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.rest = nn.Sequential(nn.BatchNorm1d(width), nn.SiLU(), nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        x = x + 0.5 * self.forwards[0](x)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = self.depthwise(F.glu(self.gate(self.norms[1](x).transpose(1, 2)), 1))
        x = x + self.rest(y).transpose(1, 2)
        return self.norms[2](x + 0.5 * self.forwards[1](x))


def conformer() -> Subject:
    """Gulati et al. 2020, Conformer."""
    body = nn.Sequential(nn.Linear(20, 32), _Conformer(), _Conformer(), nn.Linear(32, 29))
    return awake(body, {"input": normal(2, 25, 20)}, {"input": {0: BATCH, 1: axis("time", 2, 128)}})


ZOO = (
    *named("torch.nn", lstm_tagger, bilstm_tagger, bigru_tagger, lstm_stream, transformer_encoder, transformer),
    *named("after the paper", wavenet, text_cnn, tcn, gru_attention, crnn, conformer),
)
