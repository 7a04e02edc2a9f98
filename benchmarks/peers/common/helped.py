"""What a user does when ONNX Runtime's dynamic quantizer fails on a file that PyTorch's exporter wrote.

It turns Gemm weights around and leaves their stated shapes as they were, which its own shape inference then refuses:
so the shapes that the file states of its inner tensors go. And it takes the standard's `Attention` for its own of that
name, and writes a node that ONNX Runtime does not open: so `Attention` stays float.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization.registry import IntegerOpsRegistry

OPERATORS = sorted(set(IntegerOpsRegistry) - {"Attention"})


@contextlib.contextmanager
def bare(source: Path) -> Iterator[Path]:
    """A copy without stated shapes."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, source.name)
        model = onnx.load(source)
        del model.graph.value_info[:]
        onnx.save(model, copy)
        yield copy
