"""Where nodes run, as data and in one line."""

from __future__ import annotations

from pathlib import Path

from edgeai.runtime.placement import Node, Placement
from edgeai.runtime.session import Session


def test_shares_and_summary() -> None:
    nodes = [Node(f"m{i}", "MatMul", "cuda") for i in range(6)]
    nodes += [Node("s", "Shape", "cpu"), Node("g", "Gather", "cpu")]
    placement = Placement(tuple(nodes))
    assert placement.share("cuda") == placement.share("CUDAExecutionProvider") == 0.75
    assert placement.count("cpu") == 2
    assert placement.share("tensorrt") == 0
    assert placement.summary == "cuda 6/8 (75%), cpu 2/8: 1 Shape, 1 Gather"


def test_an_empty_graph_has_no_nodes() -> None:
    assert (Placement(()).share("cpu"), Placement(()).summary) == (0.0, "no nodes")


def test_real_nodes(double: Path) -> None:
    assert [(node.op_type, node.provider) for node in Session(double).placement.nodes] == [("Mul", "cpu")]
