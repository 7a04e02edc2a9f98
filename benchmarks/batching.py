"""What dynamic batching gains on the BERT reference, what it does under ten times too many requests, what it leaves.

Needs a bundle of the BERT reference, such as the one that `make demo` leaves. One-by-one calls are measured twice, one
after the other and from all threads at once; the goal is for the gain over the first, and the other is said beside it.
Batched answers are asked for by as many threads, and by as many tasks of one event loop. Lengths are drawn alike for
all; the batcher pads them to a multiple of 8. What batching gains on a CPU is the fixed cost of a run, so there are two
kinds of texts; the goal is for the short ones. Leaves `benchmarks/results/batching.json` at full size.

    python benchmarks/batching.py [demo/bert.bundle] [--requests 2000] [--concurrency 32] [--seconds 10]
"""

import argparse
import asyncio
import functools
import gc
import json
import math
import os
import random
import statistics
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import edgeai
from edgeai.cli.console import print_table
from edgeai.errors import DeadlineError, OverloadError
from edgeai.machine import machine
from edgeai.probing import is_mask, redraw
from edgeai.runtime.batching import Batcher
from edgeai.runtime.engine import Engine
from edgeai.runtime.pool import SessionPool
from edgeai.runtime.session import Session
from edgeai.runtime.stacking import Padding
from edgeai.storage import atomic_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "batching.json"
FULL = {"requests": 2000, "concurrency": 32, "seconds": 10.0}
MAX_DELAY_MS = 5.0
LENGTHS = {"queries": (4, 16), "reviews": (8, 48)}  # tokens
MULTIPLE = 8
OVERLOAD = 10
CANCELLATIONS = 1000
GAIN = 1.5
ROUNDS = 5  # of one by one and batched, in turn: the median ratio counts
_ALONE, _TOGETHER = "one after the other", "all threads at once"
_THREADS, _TASKS = "batched, threads", "batched, tasks"  # who asks: so many of either


def length_axis(session: Session) -> str:
    """The one symbolic axis that is not the batch."""
    names = {axis for spec in session.signature.inputs for axis in spec.shape if isinstance(axis, str)}
    (found,) = names - {session.signature.inputs[0].shape[0]}
    return str(found)


def sentences(session: Session, count: int, lengths: tuple[int, int]) -> list[dict[str, Any]]:
    """Feeds of one row with lengths that are drawn evenly, every token of them seen."""
    generator = np.random.default_rng(0)
    batch, axis = str(session.signature.inputs[0].shape[0]), length_axis(session)
    feeds = []
    for _ in range(count):
        length = session.signature.axis(axis).nearest(int(generator.integers(lengths[0], lengths[1] + 1)))
        feed = redraw(session.signature, {batch: 1, axis: length}, generator)
        feed |= {spec.name: np.ones_like(feed[spec.name]) for spec in session.signature.inputs if is_mask(spec)}
        feeds.append(feed)
    return feeds


def closed_loop(run: Callable[[Any], Any], feeds: list[Any], concurrency: int) -> dict[str, float]:
    """So many threads, each asking for its next answer as soon as it has the last."""
    latencies: list[list[float]] = [[] for _ in range(concurrency)]

    def work(index: int) -> None:
        for feed in feeds[index::concurrency]:
            start = time.perf_counter()
            run(feed)
            latencies[index].append(1e3 * (time.perf_counter() - start))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(concurrency)]
    start, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return _throughput([one for row in latencies for one in row], seconds, cpu)


def closed_loop_of_tasks(batcher: Batcher, feeds: list[Any], concurrency: int) -> dict[str, float]:
    """The same with so many tasks of one event loop."""
    latencies: list[float] = []

    async def work(index: int) -> None:
        for feed in feeds[index::concurrency]:
            start = time.perf_counter()
            await batcher.run_async(feed)
            latencies.append(1e3 * (time.perf_counter() - start))

    async def all_of_them() -> None:
        await asyncio.gather(*(work(index) for index in range(concurrency)))

    start, cpu = time.perf_counter(), time.process_time()
    asyncio.run(all_of_them())
    return _throughput(latencies, time.perf_counter() - start, time.process_time() - cpu)


def _throughput(latencies_ms: list[float], seconds: float, cpu: float) -> dict[str, float]:
    return {
        "per_second": round(len(latencies_ms) / seconds, 1),
        "cpu_ms": round(1e3 * cpu / len(latencies_ms), 3),  # of all threads, a request
        **percentiles(latencies_ms),
    }


def percentiles(values_ms: list[float]) -> dict[str, float]:
    if not values_ms:
        return {}
    return {f"p{q}_ms": round(float(np.percentile(values_ms, q)), 2) for q in (50, 90, 99)}


def overload(batcher: Batcher, feeds: list[Any], rate: float, seconds: float, timeout: float) -> dict[str, Any]:
    """Requests at a fixed rate whatever comes back: how many are refused, how fast, and are the others in time."""
    refusals, latencies = [], []
    lock = threading.Lock()

    def finished(began: float, future: Future[Any]) -> None:
        with lock:
            latencies.append((1e3 * (time.perf_counter() - began), future.exception()))

    gc.collect()
    gc.freeze()  # a collection that looks at everything there is would stop all threads for a while
    start = time.perf_counter()
    sent = 0
    while (now := time.perf_counter()) - start < seconds:
        for _ in range(int((now - start) * rate) - sent):
            began = time.perf_counter()
            sent += 1
            try:
                future = batcher.submit(feeds[sent % len(feeds)], timeout=timeout)
            except OverloadError:
                refusals.append(1e3 * (time.perf_counter() - began))
                continue
            future.add_done_callback(functools.partial(finished, began))
        time.sleep(0.001)
    accepted = sent - len(refusals)
    while len(latencies) < accepted:
        time.sleep(0.001)
    gc.unfreeze()
    answered = [latency for latency, error in latencies if error is None]
    return {
        "asked_per_second": round(rate, 1),
        "sent": sent,
        "refused": len(refusals),
        "refusal": percentiles(refusals),
        "accepted": accepted,
        "answered": len(answered),
        "answer": percentiles(answered),
        "expired": sum(isinstance(error, DeadlineError) for _, error in latencies),
        "failed": sum(error is not None and not isinstance(error, DeadlineError) for _, error in latencies),
    }


async def cancellations(batcher: Batcher, feeds: list[Any]) -> dict[str, int]:
    """Tasks that are cancelled at random moments of their lives; how many were, and what is still held afterwards."""
    draw = random.Random(0)
    kept = []

    async def one(index: int) -> str:
        feed = {name: array.copy() for name, array in feeds[index % len(feeds)].items()}
        kept.extend(weakref.ref(array) for array in feed.values())
        task = asyncio.create_task(batcher.run_async(feed))
        del feed
        await asyncio.sleep(draw.random() * 0.2)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        except OverloadError:
            return "refused"
        return "answered"

    came = await asyncio.gather(*(one(index) for index in range(CANCELLATIONS)))
    while batcher.waiting:
        await asyncio.sleep(0.01)
    return {word: came.count(word) for word in ("cancelled", "answered", "refused")} | {"kept": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=ROOT / "demo" / "bert.bundle")
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    asked = vars(parser.parse_args())
    bundle, concurrency = asked.pop("bundle"), asked["concurrency"]
    if not bundle.exists():
        raise SystemExit(f"{bundle} is not there: run make demo, or name a bundle of the BERT reference")
    with edgeai.load(bundle, ep="cpu") as session, SessionPool(bundle, ep="cpu") as pool:
        kinds = {kind: gain(session, pool, lengths, asked) for kind, lengths in LENGTHS.items()}
        batched, batch_ms = kinds["queries"]["clients"][_THREADS], kinds["queries"]["batch_ms"]
        feeds = sentences(session, asked["requests"], LENGTHS["queries"])
        full = batching(session, LENGTHS["queries"], concurrency)
        queue = 4 * concurrency
        # As many batches as fit into a full queue, those that are running, and as much again for half-full ones.
        timeout = (queue / concurrency / pool.size + 2) * 2 * batch_ms / 1e3 + MAX_DELAY_MS / 1e3
        with Batcher(pool, max_queue=queue, **full) as batcher:
            batcher.run(feeds[0])
            crowd = overload(batcher, feeds, OVERLOAD * batched["per_second"], asked["seconds"], timeout)
        with Batcher(pool, max_queue=CANCELLATIONS, **full) as batcher:
            threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
            left = asyncio.run(cancellations(batcher, feeds))
            counted = batcher.counts.cancelled
        gc.collect()
        arrays = sum(reference() is not None for reference in left.pop("kept"))
        left |= {
            "counted": counted,
            "arrays_kept": arrays,
            "threads_grow": threading.active_count() - (threads - 1),  # the batcher's own has ended
            "open_files_grow": len(os.listdir("/proc/self/fd")) - files,
        }
    kept = {
        **{
            f"{GAIN}x the throughput, {who}": statistics.median(kinds["queries"]["gains"][who]) >= GAIN
            for who in (_THREADS, _TASKS)
        },
        "p99 under the bound": all(
            row["clients"][who]["p99_ms"] <= row["p99_bound_ms"] for row in kinds.values() for who in (_THREADS, _TASKS)
        ),
        "overload refused at once (p99 below 1 ms)": crowd["refused"] > 0 and crowd["refusal"]["p99_ms"] < 1,
        "the accepted in time": crowd["expired"] == crowd["failed"] == 0,
        "cancellation leaves nothing": left["arrays_kept"] == 0
        and max(left["threads_grow"], left["open_files_grow"]) <= 0,
    }
    data = {
        "schema": "edgeai.batching/1",
        "machine": {"cpu": machine().cpu, "cores": machine().cores, "features": machine().features},
        "versions": machine().versions,
        "bundle": bundle.name,
        "asked": asked,
        "texts": kinds,
        "overload": crowd | {"timeout_ms": round(1e3 * timeout, 1), "max_queue": queue},
        "cancellations": left,
        "kept": kept,
    }
    if asked == FULL:
        atomic_text(RESULTS, json.dumps(data, indent=1) + "\n", overwrite=True)
    rows: list[tuple[str, str]] = []
    for kind, row in kinds.items():
        rows += [(f"{kind}, {how}", _shown(found)) for how, found in row["clients"].items()]
        rows += [
            (
                f"{kind}, {how}",
                f"{statistics.median(gains):g}x one after the other (p99 bound {row['p99_bound_ms']:g} ms)",
            )
            for how, gains in row["gains"].items()
        ]
    rows += [
        ("ten times too many", f"{crowd['refused']} of {crowd['sent']} refused, {crowd['expired']} expired"),
        ("cancelled", f"{left['cancelled']}; arrays kept {left['arrays_kept']}"),
    ]
    print_table(("", "found"), rows)
    if missed := [name for name, held in kept.items() if not held]:
        raise SystemExit(f"not kept: {', '.join(missed)}")


def batching(session: Session, lengths: tuple[int, int], concurrency: int) -> dict[str, Any]:
    """The batcher's settings for such texts."""
    axis = length_axis(session)
    padded = [spec.name for spec in session.signature.inputs if axis in spec.shape]
    sizes = tuple(range(MULTIPLE, lengths[1] + 1, MULTIPLE))
    padding = Padding(axis, sizes, dict.fromkeys(padded, 0))
    return {"max_batch": concurrency, "max_delay_ms": MAX_DELAY_MS, "padding": padding}


def gain(session: Session, pool: SessionPool, lengths: tuple[int, int], asked: dict[str, Any]) -> dict[str, Any]:
    """The same requests one by one on the plain session, and batched on a pool of as many as there are cores."""
    concurrency = asked["concurrency"]
    feeds = sentences(session, asked["requests"], lengths)
    session.warm_up(feeds[:50])
    pool.session.warm_up(feeds[:50])
    # Full batches of the longest, every place of the pool busy: what the bound of the latency is made of.
    longest = {name: np.concatenate([array] * concurrency) for name, array in max(feeds, key=_size).items()}
    with ThreadPoolExecutor(pool.size) as threads:
        batch_ms = float(np.median(list(threads.map(lambda feed: _milliseconds(pool, feed), [longest] * 40))))
    rows: dict[str, list[dict[str, float]]] = {_ALONE: [], _TOGETHER: [], _THREADS: [], _TASKS: []}
    settings = batching(session, lengths, concurrency)
    with Batcher(pool, **settings) as batcher:
        difference = worst_difference(session, batcher, feeds[:64])
        before = batcher.counts
        for _ in range(ROUNDS):
            rows[_ALONE].append(closed_loop(session.run, feeds, 1))
            rows[_THREADS].append(closed_loop(batcher.run, feeds, concurrency))
            rows[_TASKS].append(closed_loop_of_tasks(batcher, feeds, concurrency))
            rows[_TOGETHER].append(closed_loop(session.run, feeds, concurrency))
        counts = batcher.counts
    medians = {
        how: {key: round(statistics.median(row[key] for row in of), 3) for key in of[0]} for how, of in rows.items()
    }
    gains = {
        one: [round(now["per_second"] / row["per_second"], 2) for now, row in zip(rows[one], rows[_ALONE], strict=True)]
        for one in rows
        if one != _ALONE
    }
    return {
        "lengths": lengths,
        "batch_ms": round(batch_ms, 2),
        # A request waits for its batch to fill, for one of each of the other padded lengths at most, and for its own;
        # none costs more than a full one of the longest.
        "p99_bound_ms": round(MAX_DELAY_MS + (math.ceil(len(settings["padding"].sizes) / pool.size) + 1) * batch_ms, 2),
        "clients": medians,
        "mean_batch": round((counts.rows - before.rows) / (counts.batches - before.batches), 1),
        "gains": gains,  # over one after the other
        "largest_difference": difference,
    }


def _milliseconds(session: Engine, feed: dict[str, Any]) -> float:
    start = time.perf_counter()
    session.run(feed)
    return 1e3 * (time.perf_counter() - start)


def _shown(found: dict[str, float]) -> str:
    return f"{found['per_second']:g}/s, p99 {found['p99_ms']:g} ms, {found['cpu_ms']:g} ms of CPU each"


def worst_difference(session: Session, batcher: Batcher, feeds: list[Any]) -> float:
    """How far batched and padded answers are from the plain ones, absolute; they are rounded in another order."""
    futures = [batcher.submit(feed) for feed in feeds]
    pairs = [(session.run(feed), future.result(60)) for feed, future in zip(feeds, futures, strict=True)]
    return max(float(np.abs(plain[name] - batched[name]).max()) for plain, batched in pairs for name in plain)


def _size(feed: dict[str, Any]) -> int:
    return sum(array.size for array in feed.values())


if __name__ == "__main__":
    main()
