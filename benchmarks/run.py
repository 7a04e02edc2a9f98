"""`make bench`: measure the reference models longer than the demo does, and keep every figure.

Needs what `make demo` leaves in `demo/trained`; leaves `benchmarks/results/reference_models.json`.
Leave the machine alone while it runs.
"""

import json
import tempfile
from pathlib import Path

from edgeai.bench import Workload
from edgeai.building import build
from edgeai.cli.console import RichProgress, print_table
from edgeai.demo import COLUMNS, report_data, table
from edgeai.storage import atomic_text
from model_defs import NAMES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reference_models.json"
# Enough runs to tell p99, and enough rounds for a narrow interval of the ratio.
WORKLOAD = Workload(min_iterations=662, min_seconds=5.0, max_seconds=30.0, rounds=20)


def main() -> None:
    trained = [ROOT / "demo" / "trained" / name for name in NAMES]
    if not all((path / "training.json").exists() for path in trained):
        raise SystemExit("the reference models are not trained yet: run make demo first")
    progress = RichProgress()
    with tempfile.TemporaryDirectory() as directory:
        builds = []
        for path in trained:
            out = Path(directory) / f"{path.name}.bundle"
            builds.append(build(str(path), out=out, workload=WORKLOAD, progress=progress))
    data = report_data(builds, ())
    for row in data["builds"]:
        row["bundle"] = Path(row["bundle"]).name
    atomic_text(RESULTS, json.dumps(data, indent=1) + "\n", overwrite=True)
    print_table(COLUMNS, table(builds))


if __name__ == "__main__":
    main()
