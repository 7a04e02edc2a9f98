"""Trained modules: read back from their directory, and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edgeai.errors import DataError, IntegrityError
from edgeai.metrics import METRICS
from edgeai.samples import Samples
from model_defs import family
from model_defs.families import Family
from model_defs.recipe import logits_of

WEIGHTS, TRAINING = "weights.safetensors", "training.json"


def load(directory: str | Path) -> tuple[Family, Any, nn.Module]:
    """The family, the configuration and the trained module, in eval mode, of a directory that `train` left.

    Raises DataError if files are missing or unreadable, IntegrityError naming the keys if the weights do not fit.
    """
    directory = Path(directory)
    try:
        training = json.loads((directory / TRAINING).read_text(encoding="utf-8"))
        weights = load_file(directory / WEIGHTS)
        kind = family(training["family"])
        fields = {
            name: tuple(value) if isinstance(value, list) else value for name, value in training["config"].items()
        }
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"{directory} is not a finished training: {error}", hint="run edgeai train") from error
    config = type(kind.presets["reference"])(**fields)
    module = kind.build(config)
    expected = module.state_dict()
    wrong = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": sorted(
            name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape
        ),
    }
    if any(wrong.values()):
        found = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in wrong.items() if names)
        raise IntegrityError(f"{directory / WEIGHTS} does not fit {kind.name}: {found}")
    module.load_state_dict(weights)
    return kind, config, module.eval()


@torch.no_grad()
def score(module: nn.Module, samples: Samples, metric: str, *, batch: int = 64) -> float:
    """`metric` of the logits of `module` on labelled rows. Raises DataError without labels."""
    if samples.labels is None:
        raise DataError("scoring needs labels")
    module.eval()
    values = []
    for index, feed in enumerate(samples.feeds(batch)):
        logits = logits_of(module(**{name: torch.from_numpy(array) for name, array in feed.items()}))
        labels = samples.labels[index * batch : (index + 1) * batch]
        values.append(METRICS[metric].per_sample(logits.numpy(), labels))
    return METRICS[metric].summary(np.concatenate(values))
