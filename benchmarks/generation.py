"""Generation with GPT-2 124M (`gpt:base`, untrained: the values of weights cost no time) on the CPU.

    python benchmarks/generation.py [--source gpt:base] [--models DIR] [--tokens 1000] [--quick] [--out results.json]

- decode: time of one token at growing contexts, for each way to keep the cache, interleaved. The attention's own share
  is what ONNX Runtime's profiler says its node type took at that context, in a profiled session of its own; "beyond"
  is the rest of the unprofiled time. The target, 1.25, is for beyond at the longest context over that at the shortest.
- memory: resident size after each of five texts of `--tokens` tokens, the model and a cache of each text's own.
- first token: a prompt of 512 tokens through `generate`, with a cache of its own each time, against
  `InferenceSession.run` of the same file with the same feed, in turns.
- lookup: tokens a second of greedy choice with guesses and without, after a prompt that repeats itself, in turns.

`--models` keeps the exported files. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeai.cli.console import print_table
from edgeai.exporting import export, resolve
from edgeai.graph import optimize, share_cache
from edgeai.machine import machine
from edgeai.modelfile import open_artifact
from edgeai.ort import onnxruntime
from edgeai.runtime.generation import Decoder, generate
from edgeai.runtime.kv_cache import PAST, Cache, HandedCache, InPlaceCache, Layout, SwappingCache, open_cache
from edgeai.runtime.loading import load
from edgeai.runtime.sampling import Sampling
from edgeai.runtime.session import Session
from edgeai.runtime.settings import SessionSettings
from edgeai.runtime.speculation import PromptLookup
from edgeai.spec import Array
from edgeai.storage import atomic_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "generation.json"
TARGET = 1.25
ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Plan:
    positions: int
    contexts: tuple[int, ...]
    rounds: int
    steps: int  # tokens of a round at a context
    tokens: int  # of each of the five texts
    prompt: int
    turns: int

    @classmethod
    def of(cls, positions: int, tokens: int, quick: bool) -> Plan:
        rounds, steps, turns = (2, 3, 2) if quick else (15, 10, 15)
        shares = (round(share * positions) for share in (0.25, 0.5, 0.75))
        contexts = tuple(sorted({min(10, positions // 2), *shares, min(1000, positions - steps)}))
        return cls(positions, contexts, rounds, steps, min(tokens, positions - 16), min(512, positions // 2), turns)


@dataclasses.dataclass(frozen=True)
class Profiled:
    """A session with ONNX Runtime's profiler on, as far as a cache asks for it."""

    signature: Any
    path: Path
    _session: Any

    def run(self, feed: Any) -> Any:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(feed)), strict=True))

    def close(self) -> None: ...


def files(source: str, directory: Path) -> dict[str, Path]:
    """Name of a form -> its file; made where it is not there yet."""
    made = {name: directory / f"{source.replace(':', '-')}.{name}.onnx" for name in ("exported", "mha", "in-place")}
    if not made["exported"].exists():
        export(resolve(source), out=made["exported"])
    artifact = open_artifact(made["exported"])
    if not made["mha"].exists():
        optimize(artifact, out=made["mha"])
    if not made["in-place"].exists():
        share_cache(artifact, out=made["in-place"])
    return made


def step(cache: Cache, mask: Array, token: int) -> int:
    logits = cache.advance(np.array([[token]], np.int64), mask[:, : cache.length + 1], keep=1)
    return GREEDY.choose(logits[0, -1], (), np.random.default_rng(0))


def fill(cache: Cache, ids: Array, mask: Array, context: int) -> None:
    """Only the tokens that are not there yet: the contexts come in rising order."""
    if cache.length < context:
        cache.advance(ids[:, cache.length : context], mask[:, :context], keep=1)


def decode(made: dict[str, Path], plan: Plan) -> list[dict[str, Any]]:
    sessions = {name: Session(path, ep="cpu") for name, path in made.items()}
    layout = Layout.of(sessions["mha"].signature)
    ways: dict[str, tuple[str, Cache]] = {
        "in place": ("in-place", open_cache(sessions["in-place"], 1, plan.positions)),
        "swapping": ("mha", open_cache(sessions["mha"], 1, plan.positions)),
        "handed": ("mha", HandedCache(sessions["mha"], layout, 1, plan.positions)),
        "swapping, as exported": ("exported", open_cache(sessions["exported"], 1, plan.positions)),
    }
    assert isinstance(ways["in place"][1], InPlaceCache) and isinstance(ways["swapping"][1], SwappingCache)
    ids, mask = text(sessions["mha"], plan.positions), np.ones((1, plan.positions), np.int64)
    times: dict[tuple[str, int], list[float]] = {}
    for context in plan.contexts:
        for _, cache in ways.values():
            fill(cache, ids, mask, context)
        for turn in range(plan.rounds + 1):
            for name, (_, cache) in ways.items():
                begin = time.perf_counter_ns()
                for _ in range(plan.steps):
                    step(cache, mask, 1)
                spent = (time.perf_counter_ns() - begin) / plan.steps / 1e6
                cache.truncate(context)
                if turn:  # the first warms up
                    times.setdefault((name, context), []).append(spent)
    for session in sessions.values():
        session.close()
    shares = {name: attention(made[name], plan) for name in made}
    rows = []
    for name, (form, _) in ways.items():
        medians = {context: statistics.median(times[name, context]) for context in plan.contexts}
        beyond = {context: medians[context] - shares[form][context] for context in plan.contexts}
        first, last = plan.contexts[0], plan.contexts[-1]
        rows.append(
            {
                "cache": name,
                "form": form,
                "token_ms": medians,
                "attention_ms": shares[form],
                "beyond_ms": beyond,
                "ratio": medians[last] / medians[first],
                "ratio_beyond": beyond[last] / beyond[first],
                "samples_ms": {context: times[name, context] for context in plan.contexts},
            }
        )
    return rows


def attention(path: Path, plan: Plan) -> dict[int, float]:
    """Milliseconds that the nodes of attention take for one token, by context."""
    ort = onnxruntime()
    found = {}
    with load(path, ep="cpu") as session:
        signature = session.signature
    ids, mask = text(Profiled(signature, path, None), plan.positions), np.ones((1, plan.positions), np.int64)
    with tempfile.TemporaryDirectory() as directory:
        for context in plan.contexts:
            options = SessionSettings().apply(ort)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(directory) / "profile")
            native = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            cache = open_cache(Profiled(signature, path, native), 1, plan.positions)
            fill(cache, ids, mask, context)
            runs = plan.rounds * plan.steps
            for _ in range(runs):
                step(cache, mask, 1)
                cache.truncate(context)
            events = json.loads(Path(native.end_profiling()).read_text())
            nodes = [
                event["dur"]
                for event in events
                if event.get("cat") == "Node" and event.get("args", {}).get("op_name") in ATTENTION
            ]
            layers = len(Layout.of(signature).names) // 2
            assert len(nodes) >= layers * runs, "the profiler named no attention"
            by_run = [
                sum(nodes[start : start + layers]) for start in range(len(nodes) - layers * runs, len(nodes), layers)
            ]
            found[context] = statistics.median(by_run) / 1e3
    return found


def memory(path: Path, plan: Plan) -> dict[str, Any]:
    resident = []
    with Session(path, ep="cpu") as session:
        prompt = text(session, 10)[0]
        for _ in range(5):
            count = sum(1 for _ in generate(session, prompt, max_new_tokens=plan.tokens, max_positions=plan.positions))
            resident.append(_resident_bytes())
    growth = (resident[-1] - resident[0]) / (4 * count)
    return {"tokens_each": count, "resident_bytes": resident, "bytes_a_token_after_the_first_text": growth}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def first_token(path: Path, plan: Plan) -> dict[str, Any]:
    ort = onnxruntime()
    options = SessionSettings().apply(ort)  # above all the same threads, which do not spin into the other's turn
    raw = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with Session(path, ep="cpu") as session:
        ids = text(session, plan.prompt)
        layout = Layout.of(session.signature)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)} | {
            name: np.zeros((1, heads, 0, size), layout.dtype) for name, (heads, size) in layout.sizes.items()
        }
        assert all(name.startswith(PAST) for name in list(feed)[2:])

        def ours() -> int:
            return next(generate(session, ids, max_new_tokens=64, max_positions=plan.positions))

        def theirs() -> int:
            return int(raw.run(["logits"], feed)[0][0, -1].argmax())

        def theirs_with_cache() -> int:
            return int(raw.run(None, feed)[0][0, -1].argmax())

        runs = {"edgeai": ours, "raw, logits alone": theirs, "raw, with the cache": theirs_with_cache}
        times, tokens = in_turns(runs, plan.turns)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "prompt_tokens": plan.prompt,
        "same_token": len(set(tokens.values())) == 1,
        "median_ms": medians,
        "ratio_to_raw": medians["edgeai"] / medians["raw, with the cache"],
        "ratio_to_raw_logits_alone": medians["edgeai"] / medians["raw, logits alone"],
        "samples_ms": times,
    }


def lookup(path: Path, plan: Plan) -> dict[str, Any]:
    count = min(200, plan.positions // 4)
    with Session(path, ep="cpu") as session:
        phrase = text(session, 12)[0]
        prompt = np.tile(phrase, plan.positions)[: plan.positions // 4]
        decoders = {name: Decoder(session, positions=plan.positions) for name in ("plain", "lookup")}

        def run(name: str, guess: PromptLookup | None) -> tuple[int, ...]:
            return tuple(decoders[name].generate(prompt, max_new_tokens=count, lookup=guess))

        times, said = in_turns(
            {"plain": lambda: run("plain", None), "lookup": lambda: run("lookup", PromptLookup())},
            max(2, plan.turns // 3),
        )
        runs = {name: decoder.runs for name, decoder in decoders.items()}
    rates = {name: count / (statistics.median(values) / 1e3) for name, values in times.items()}
    return {
        "tokens": count,
        "same_tokens": said["plain"] == said["lookup"],
        "tokens_a_second": rates,
        "runs_of_the_model": runs,
        "gain": rates["lookup"] / rates["plain"],
        "samples_ms": times,
    }


def in_turns(runs: dict[str, Callable[[], Any]], turns: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Milliseconds of each, one after the other in every turn, and what each answered last."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Any] = {}
    for turn in range(turns + 1):
        for name in runs if turn % 2 else reversed(runs):
            begin = time.perf_counter_ns()
            answers[name] = runs[name]()
            if turn:  # the first warms up
                times[name].append((time.perf_counter_ns() - begin) / 1e6)
    return times, answers


def text(engine: Any, length: int) -> Array:
    high = engine.signature.inputs[0].high or 2
    return np.random.default_rng(0).integers(0, high, (1, length))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="gpt:base")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        directory = given.models or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        made = files(given.source, directory)
        signature = open_artifact(made["exported"]).signature
        assert signature is not None
        plan = Plan.of(signature.axis("past+sequence").maximum, given.tokens, given.quick)
        data = {
            "machine": dataclasses.asdict(machine()),
            "source": given.source,
            "plan": dataclasses.asdict(plan),
            "target_beyond_attention": TARGET,
            "memory": memory(made["in-place"], plan),
            "decode": decode(made, plan),
            "first_token": {name: first_token(made[name], plan) for name in ("in-place", "mha")},
            "lookup": lookup(made["in-place"], plan),
        }
    if out := given.out or (None if given.quick else RESULTS):  # a quick look replaces no figures
        atomic_text(out, json.dumps(data, indent=1, default=str) + "\n", overwrite=True)
    show(data, plan)


def show(data: dict[str, Any], plan: Plan) -> None:
    print_table(
        ("cache", *(f"ms at {context}" for context in plan.contexts), "ratio", "beyond attention"),
        [
            (
                row["cache"],
                *(f"{ms:.2f}" for ms in row["token_ms"].values()),
                f"{row['ratio']:.2f}",
                f"{row['ratio_beyond']:.3f}",
            )
            for row in data["decode"]
        ],
    )
    for name, row in data["first_token"].items():
        ratios = f"{row['ratio_to_raw']:.3f} of raw, {row['ratio_to_raw_logits_alone']:.3f} of raw without its cache"
        print(f"first token, {name}: {row['median_ms']['edgeai']:.1f} ms, {ratios}, same token: {row['same_token']}")
    print("resident MB:", *(f"{size / 1e6:.0f}" for size in data["memory"]["resident_bytes"]))
    found = data["lookup"]
    rates = ", ".join(f"{name} {rate:.1f}/s" for name, rate in found["tokens_a_second"].items())
    print(f"lookup: {rates}, same tokens: {found['same_tokens']}, runs: {found['runs_of_the_model']}")


if __name__ == "__main__":
    main()
