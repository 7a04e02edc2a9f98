"""Whose turn it is: blocks of all subjects in turn, so that drift of the machine meets them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgeai.bench.loop import Block, Lane, WarmUp
from edgeai.bench.workload import NS, Workload
from edgeai.progress import SILENT, Progress


@dataclass
class Recording:
    """Raw samples as they come in. `order` names the lane of each block, in the order they were taken."""

    warm_ups: dict[str, WarmUp] = field(default_factory=dict)
    blocks: dict[str, list[Block]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    interrupted: bool = False


def interleave(
    lanes: Mapping[str, Lane],
    workload: Workload,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
    sleep: Callable[[float], None] = time.sleep,
) -> Recording:
    """Warm every lane up, then take blocks in rounds: each unfinished lane once a round, in an order drawn anew.

    The i-th block of every lane is from round i. Ctrl-C keeps the blocks that are complete and marks the recording;
    before the first one it goes through.
    """
    recording = Recording(blocks={name: [] for name in lanes})
    try:
        with progress.task("warming up", len(lanes)) as advance:
            for name, lane in lanes.items():
                recording.warm_ups[name] = lane.warm_up()
                advance(note=name)
        _take_rounds(lanes, workload, recording, random.Random(seed), progress, sleep)
    except KeyboardInterrupt:
        if not recording.order:
            raise
        recording.interrupted = True
    return recording


def _take_rounds(
    lanes: Mapping[str, Lane],
    workload: Workload,
    recording: Recording,
    generator: random.Random,
    progress: Progress,
    sleep: Callable[[float], None],
) -> None:
    run_ns: dict[str, float] = {name: warm_up.median_ns for name, warm_up in recording.warm_ups.items()}
    iterations, elapsed_ns = dict.fromkeys(lanes, 0), dict.fromkeys(lanes, 0)

    def unfinished() -> list[str]:
        return [
            name
            for name, blocks in recording.blocks.items()
            if not workload.finished(len(blocks), iterations[name], elapsed_ns[name])
        ]

    with progress.task("measuring", workload.rounds * len(lanes)) as advance:
        while turn := unfinished():
            generator.shuffle(turn)
            for name in turn:
                switched = recording.order[-1:] != [name] and len(lanes) > 1
                if switched:  # the other's threads may still spin, and its data fills the caches
                    sleep(workload.settle_seconds)
                left_ns = int(workload.max_seconds * NS) - elapsed_ns[name]
                block = lanes[name].block(
                    min(workload.block_runs(run_ns[name]), workload.max_iterations - iterations[name]),
                    budget_ns=min(left_ns, int(workload.max_seconds * NS / workload.rounds)),
                    discard=workload.discarded_runs if switched else 0,
                )
                recording.blocks[name].append(block)
                recording.order.append(name)
                iterations[name] += len(block.samples_ns)
                elapsed_ns[name] += block.duration_ns
                run_ns[name] = block.duration_ns / len(block.samples_ns)
                if len(recording.blocks[name]) <= workload.rounds:
                    advance(note=name)
