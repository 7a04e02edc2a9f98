"""From whatever a PyTorch user has to an ONNX file that is proven equal to it."""

from edgeai.exporting.capture import OPSET, export
from edgeai.exporting.decoder import DECODER_OPSET, DecoderGraph, decoder_signature
from edgeai.exporting.inputs import Dynamic, make_dynamic, parse_dynamic, parse_input, parse_signature
from edgeai.exporting.sources import Source, eager, from_module, reference_models, resolve

__all__ = [
    "DECODER_OPSET",
    "OPSET",
    "DecoderGraph",
    "Dynamic",
    "Source",
    "decoder_signature",
    "eager",
    "export",
    "from_module",
    "make_dynamic",
    "parse_dynamic",
    "parse_input",
    "parse_signature",
    "reference_models",
    "resolve",
]
