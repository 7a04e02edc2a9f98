"""6. Text generation, streamed: one graph for the prompt and for each new token, greedy or sampled."""

import sys
from pathlib import Path

import edgeai

bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/gpt.bundle")

with edgeai.load(bundle) as session:
    for settings in ({"temperature": 0.0}, {"temperature": 0.8, "top_k": 40, "seed": 1}):
        print(settings)
        for piece in session.generate("And God said", max_new_tokens=40, **settings):
            print(piece, end="", flush=True)
        print("\n")
