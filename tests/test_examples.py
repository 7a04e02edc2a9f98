"""Every example runs, and none is forgotten."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))
NEEDS = {"04_embed_the_runtime.py": "mlp", "05_text_pipeline.py": "bert", "06_gpt_streaming.py": "gpt"}
SAYS = {
    "01_own_module.py": "own.bundle ships ",
    "02_export.py": "verified on ",
    "03_quantize.py": "'integer_weight_share': ",
    "04_embed_the_runtime.py": "input x: axis 1 must be 64, got 63",
    "05_text_pipeline.py": "I love this movie!",
    "06_gpt_streaming.py": "'temperature': 0.8",
}


def test_the_story_is_whole_and_each_page_is_short() -> None:
    assert [name[:2] for name in EXAMPLES] == [f"{i:02}" for i in range(1, len(SAYS) + 1)]
    assert set(EXAMPLES) == set(SAYS)
    for name in EXAMPLES:
        assert len((ROOT / "examples" / name).read_text().splitlines()) <= 40, name


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs(name: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    argument = built(NEEDS[name]) if name in NEEDS else tmp_path
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), str(argument)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert SAYS[name] in result.stdout
