"""1. Your own module, the whole way in one call: export, optimize, quantize, verify, measure, pack."""

import sys
from pathlib import Path

import edgeai

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
source = f"{Path(__file__).parent / 'own_model.py'}:TinyNet"

report = edgeai.build(source, out=out / "own.bundle", overwrite=True)

print(f"{report.bundle} ships {report.chosen}, {report.verdict}")
for row in report.rows:
    print(f"  {row.name}: {row.reason}")
