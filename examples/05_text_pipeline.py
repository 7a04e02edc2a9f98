"""5. Text in, label out: the tokenizer and the labels travel in the bundle."""

import sys
from pathlib import Path

import edgeai

bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/bert.bundle")

with edgeai.load(bundle) as session:
    for text in ("I love this movie!", "This is a terrible film.", "A film."):
        prediction = session.task(text)
        print(f"{prediction.label:>4} {prediction.score:.2f}  {text}")
