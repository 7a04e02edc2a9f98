"""Write the README's table from benchmarks/results. A test compares; run this after `make bench`."""

import json
from pathlib import Path

from edgeai.building import BuildReport
from edgeai.demo import COLUMNS, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "reference_models.json"
BEGIN, END = "<!-- results: benchmarks/results/reference_models.json -->", "<!-- end of results -->"


def render(readme: str) -> str:
    """The README with the table of the newest results in it."""
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = table([BuildReport.from_json(build) for build in data["builds"]])
    lines = [f"| {' | '.join(row)} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
    machine, version = data["machine"], data["versions"].get("onnxruntime-gpu") or data["versions"]["onnxruntime"]
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {' '.join(machine['features'])}; ONNX Runtime {version}.",
    ]
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return "\n".join([before + BEGIN, *lines, END]) + after


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text(encoding="utf-8")), encoding="utf-8")
