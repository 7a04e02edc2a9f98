"""What the pages of results share: a table, and the line that names the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

# What decides which kernels run.
_TOLD = frozenset({"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8"})


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of Markdown."""
    for row in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |"


def machine_line(data: dict[str, Any]) -> str:
    """The processor, what of its instructions matters, its cores, and the release of ONNX Runtime."""
    machine = data["machine"]
    versions = machine.get("versions") or data.get("versions", {})
    runtime = versions.get("onnxruntime-gpu") or versions.get("onnxruntime")
    wide = sorted(_TOLD & set(machine.get("features", ())))
    features = f" ({', '.join(wide)})" if wide else ""
    return f"{machine['cpu']}{features}, {machine['cores']} cores; ONNX Runtime {runtime}."
