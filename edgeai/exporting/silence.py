"""Exporters talk: to stdout, to stderr, to the log, by warnings, and from C++ past all of these."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*, descriptors: bool = False) -> Iterator[None]:
    """Keep what torch and its exporters say out of everything. `descriptors` silences C++ too, in every thread."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        _discarded() if descriptors else contextlib.nullcontext(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _discarded() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with open(os.devnull, "wb") as nowhere:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
