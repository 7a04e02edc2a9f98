"""4. In your application: numpy in, numpy out, no torch. A wrong input is explained, a missing GPU is said."""

import sys
from pathlib import Path

import numpy as np

import edgeai

bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/mlp.bundle")

with edgeai.load(bundle) as session:
    print(session.placement.summary)
    for spec in session.signature.inputs:
        print("input", spec)
    name = session.signature.input_names[0]
    logits = next(iter(session.run({name: np.zeros((1, 64), np.float32)}).values()))
    print("class", int(logits.argmax()))
    try:
        session.run({name: np.zeros((1, 63), np.float32)})
    except edgeai.EdgeAIError as error:
        print("refused:", error)

try:
    edgeai.load(bundle, ep="cuda").close()
    print("runs on CUDA too")
except edgeai.EdgeAIError as error:
    print("refused:", error)
