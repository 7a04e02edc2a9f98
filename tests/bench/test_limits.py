import pytest

from edgeai.bench.limits import COMPUTE, MEMORY, Ceilings, NodeCost, limited, roofline

# 1 operation a ns, 1 byte a ns from the memory, 10 from the cache of 1000 bytes.
CEILINGS = Ceilings({"float32": 1e9, "int8": 4e9}, 1e9, 1e10, 1000, 2)


def node(time_ns: int, operations: int, weights: int, moved: int, kind: str = "float32") -> NodeCost:
    return NodeCost("n", "MatMul", "cpu", time_ns, operations, weights, moved, kind)


def test_the_slower_of_computing_and_moving_is_the_limit() -> None:
    computes = limited(node(200, 100, 10, 10), CEILINGS, model_weight_bytes=10)
    assert (computes.limit_ns, computes.bound, computes.percent_of_limit) == (100.0, COMPUTE, 50.0)
    moves = limited(node(50, 10, 200, 50), CEILINGS, model_weight_bytes=200)
    assert moves.limit_ns == pytest.approx(25)
    assert (moves.bound, moves.percent_of_limit) == (MEMORY, pytest.approx(50))


def test_weights_that_do_not_stay_in_the_cache_come_from_memory() -> None:
    far = limited(node(1000, 0, 200, 0), CEILINGS, model_weight_bytes=5000)
    assert far.limit_ns == pytest.approx(200), "its own are few, but the whole model's are read in between"
    assert limited(node(1000, 0, 0, 2000), CEILINGS, model_weight_bytes=0).limit_ns == pytest.approx(2000)


def test_integers_have_their_own_ceiling_and_nothing_has_no_bound() -> None:
    assert limited(node(100, 100, 0, 0, "int8"), CEILINGS, model_weight_bytes=0).limit_ns == 25
    assert limited(node(100, 0, 0, 0), CEILINGS, model_weight_bytes=0).bound == ""


def test_a_model_is_the_sum_and_its_ten_costliest() -> None:
    nodes = tuple(node(time, 10 * time, 0, 0) for time in range(1, 13))
    found = roofline(nodes, CEILINGS, latency_ns=1560)
    assert (found.node_count, len(found.nodes)) == (12, 10)
    assert [n.time_ns for n in found.nodes] == list(range(12, 2, -1))
    assert (found.operations, found.profiled_ns) == (780, 78)
    assert (found.bound, found.percent_of_limit) == (COMPUTE, pytest.approx(50))
    assert roofline((), CEILINGS, latency_ns=1).bound == ""
