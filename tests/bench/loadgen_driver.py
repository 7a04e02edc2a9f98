"""Run MLPerf's LoadGen and then edgeai on one session: `loadgen_driver.py MODEL SCENARIO OUT BOUND_MS`.

A process of its own: LoadGen is global, and a run that hangs can be ended. Prints one JSON object.
"""

import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg
import numpy as np

from edgeai.bench.loop import Loop
from edgeai.bench.workload import NS, Workload
from edgeai.runtime import load

QUERIES = 701  # so that no percentile falls between two ranks
RATE = 300.0


def main(model: str, scenario: str, out: str, bound_ms: str) -> None:
    """Print what each side found."""
    generator = np.random.default_rng(0)
    with load(model, ep="cpu") as session:
        shape = tuple(axis if isinstance(axis, int) else 1 for axis in session.signature.inputs[0].shape)
        feeds = [{"x": generator.standard_normal(shape).astype(np.float32)} for _ in range(8)]
        for feed in feeds * 4:
            session.run(feed)
        before = ours(session, feeds, scenario)
        services = loadgen(session, feeds, scenario, Path(out), int(float(bound_ms) * 1e6))
        after = ours(session, feeds, scenario)
    print(json.dumps({"ours": [before, after], "services_ns": services}))


def ours(session: Any, feeds: Any, scenario: str) -> dict[str, Any]:
    workload = Workload(scenario, rate=RATE if scenario == "server" else None)
    block = Loop(session, feeds, workload=workload).block(200, budget_ns=20 * NS)
    return {"samples_ns": block.samples_ns, "duration_ns": block.duration_ns}


def loadgen(session: Any, feeds: Any, scenario: str, out: Path, bound_ns: int) -> list[int]:
    """Nanoseconds of each inference, in the order in which they were made."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    services: list[int] = []

    def work() -> None:  # not on LoadGen's own thread, which has to keep to the schedule
        while (query := waiting.get()) is not None:
            begin = time.perf_counter_ns()
            session.run(feeds[query.index])
            services.append(time.perf_counter_ns() - begin)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0)])

    def issue(queries: Any) -> None:
        for query in queries:
            waiting.put(query)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    settings = lg.TestSettings()
    settings.scenario = getattr(
        lg.TestScenario, {"single": "SingleStream", "server": "Server", "offline": "Offline"}[scenario]
    )
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = 0
    settings.min_query_count = QUERIES
    settings.server_target_qps = RATE
    settings.server_target_latency_ns = bound_ns
    settings.offline_expected_qps = QUERIES
    logs = lg.LogSettings()
    logs.log_output.outdir = str(out)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = True
    system, library = lg.ConstructSUT(issue, lambda: None), lg.ConstructQSL(8, 8, lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(system, library, settings, logs)
    waiting.put(None)
    worker.join(timeout=30)
    lg.DestroyQSL(library)
    lg.DestroySUT(system)
    return services


if __name__ == "__main__":
    main(*sys.argv[1:])
