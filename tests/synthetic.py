"""A small results folder with known answers, written by the file contracts, for tests of everything downstream.

    benchmark = write_results(tmp_path, seeds=(1, 2, 3), arms=ARMS | {"group_ppo": Effect(density=1 / 16)})
    collect(tmp_path, benchmark)

Answers are exact by construction: over seeds, each paired quantity has the mean its `Effect` states and the standard
deviation its `Spread` states (ratios on the log scale), because the offsets of the seeds are standardised.
Assets (tasks, models, starts) and model weights are not written: nothing downstream of `collect` reads them.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from groupppo.config import REPOSITORY, Benchmark, CellPlan, load_arm, load_benchmark, load_model, load_task

ITEMS = 1000
RESPONSES, TOKENS_PER_RESPONSE, PROMPT_TOKENS, MAX_GROUP = 128, 50, 20, 16
STAGE_SECONDS = {
    "gen": 0.40,
    "old_log_prob": 0.10,
    "values": 0.08,
    "adv": 0.02,
    "update_critic": 0.15,
    "update_actor": 0.20,
    "update_weights": 0.03,
}
CRITIC_STAGES = ("values", "update_critic")
SLOW_STEPS = 2
"""Steps at the start that take three times as long, as compilation and caches make them."""


@dataclass(frozen=True)
class Effect:
    """What one arm does, as means over seeds: held-out accuracy, endpoints / tokens, seconds of the reference / its own
    by stage ("step" for every stage not named), and to the reference's the rise of memory in `update_actor` and the
    memory before it."""

    accuracy: float = 0.80
    density: float = 1.0
    speedup: Mapping[str, float] = field(default_factory=dict)
    memory: float = 1.0
    base: float = 1.0


@dataclass(frozen=True)
class Spread:
    """Standard deviations over seeds of each arm against the reference; `log_*` are of logarithms of ratios."""

    accuracy: float = 0.01
    density: float = 0.001
    log_seconds: float = 0.02
    log_memory: float = 0.02


ARMS: dict[str, Effect] = {
    "ppo": Effect(accuracy=0.80),
    "grpo": Effect(accuracy=0.82),
    "group_ppo": Effect(accuracy=0.76, density=0.08, speedup={"adv": 0.5}),
}


def write_results(
    folder: Path,
    *,
    arms: Mapping[str, Effect] = ARMS,
    seeds: Collection[int] = (1, 2),
    steps: int = 8,
    tasks: Collection[str] = ("sorting",),
    cells: Collection[CellPlan] = (),
    spread: Spread = Spread(),
    start_accuracy: float = 0.40,
    device: str = "cpu",
    fallbacks: Mapping[tuple[str, int], int] | None = None,
    failed: Mapping[tuple[str, int], str] | None = None,
) -> Benchmark:
    """Write benchmark.yaml, runs/ and evals/ under `folder` and return the benchmark they belong to.

    Args:
        folder: the results folder; made when missing.
        arms: names of files in benchmarks/arms with their effects; must hold the reference arm, ppo.
        seeds: training seeds. With one seed the spread is zero.
        steps: of each run; use 6 or more where the first five are skipped as warm-up.
        tasks: names of files in benchmarks/tasks; every task gets the same effects.
        cells: tasks that have fewer arms or seeds than these, with the model tiny.
        spread: over seeds.
        start_accuracy: held-out accuracy of the start checkpoint.
        device: of all runs, "cpu" or "cuda".
        fallbacks: to dense PPO of the runs of (arm, seed).
        failed: causes of the runs of (arm, seed) that failed: half their steps, and no evaluation.
    """
    benchmark = synthetic_benchmark(arms=tuple(arms), seeds=seeds, steps=steps, tasks=tasks, cells=cells)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(benchmark.resolved(), sort_keys=False), encoding="utf-8")
    for plan in benchmark.plans():
        offsets = standardised(len(plan.seeds))
        start = _Cell(folder, benchmark, plan.task, plan.model, "start", None, Effect(accuracy=start_accuracy))
        start.write_evaluation()
        for place, arm in enumerate(plan.arms):
            for index, seed in enumerate(plan.seeds):
                # Rolled, so that two arms that are not the reference differ by seed too.
                offset = offsets[(index + place) % len(offsets)]
                shifted = arms[arm] if arm == benchmark.reference else _shift(arms[arm], spread, offset)
                # What a seed does to every arm alike: pairing must take it out again.
                together = replace(shifted, accuracy=shifted.accuracy + 0.004 * index)
                cell = _Cell(folder, benchmark, plan.task, plan.model, arm, seed, together)
                cause = (failed or {}).get((arm, seed))
                cell.write_run(device, start_accuracy, (fallbacks or {}).get((arm, seed), 0), cause)
                if cause is None:
                    cell.write_evaluation()
    return benchmark


def synthetic_benchmark(
    *,
    arms: Collection[str] = tuple(ARMS),
    seeds: Collection[int] = (1, 2),
    steps: int = 8,
    tasks: Collection[str] = ("sorting",),
    cells: Collection[CellPlan] = (),
) -> Benchmark:
    """benchmarks/quick.yaml with its arms, seeds, steps, tasks and cells replaced."""
    home = REPOSITORY / "benchmarks"
    quick = load_benchmark(home / "quick.yaml")
    return replace(
        quick,
        models={"tiny": load_model(home / "models" / "tiny.yaml")},
        tasks={name: load_task(home / "tasks" / f"{name}.yaml") for name in tasks},
        arms={name: load_arm(home / "arms" / f"{name}.yaml") for name in arms},
        seeds=tuple(seeds),
        cells=tuple(cells),
        reference="ppo",
        train=replace(quick.train, steps=steps, rollout="transformers"),
        studies=(),
        profile=None,
    )


def standardised(count: int) -> list[float]:
    """`count` evenly spaced offsets of mean 0 and sample standard deviation 1 (a single one is 0)."""
    if count == 1:
        return [0.0]
    even = np.linspace(-1.0, 1.0, count)
    return list(even / even.std(ddof=1))


def rewrite_json(file: Path, **values: Any) -> None:
    """Replace keys of a JSON object on disk, as a test that breaks one thing wants."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


@dataclass(frozen=True)
class _Cell:
    folder: Path
    benchmark: Benchmark
    task: str
    model: str
    arm: str
    seed: int | None
    effect: Effect

    @property
    def place(self) -> Path:
        home = Path(self.task) / self.model / self.arm
        return home if self.seed is None else home / f"seed{self.seed}"

    @property
    def keys(self) -> dict[str, Any]:
        return {"task": self.task, "model": self.model, "arm": self.arm, "seed": self.seed}

    def write_run(self, device: str, start_accuracy: float, fallbacks: int, cause: str | None) -> None:
        run = self.folder / "runs" / self.place
        (run / "checkpoint").mkdir(parents=True, exist_ok=True)
        planned = self.benchmark.train.steps
        steps = planned if cause is None else planned // 2
        stages = list(self._stages(steps))
        whole = [row["seconds"] for row in stages if row["stage"] == "step"]
        _write_lines(run / "stages.jsonl", stages)
        _write_lines(run / "steps.jsonl", self._steps(whole, start_accuracy, fallbacks))
        status = {"status": "finished" if cause is None else "failed", "cause": cause, **self.keys}
        status |= {"steps": steps, "planned_steps": planned, "rollout": "transformers", "fallbacks": fallbacks}
        status |= {"startup_seconds": 9.0, "wall_seconds": 9.0 + sum(whole), "finished_at": "2026-11-22T12:00:00+00:00"}
        _write_json(run / "status.json", status)
        versions = {"torch": "2.13.0", "verl": "0.9.1", "transformers": "5.9.0"}
        _write_json(run / "provenance.json", {"device": device, "host": "synthetic", "cpu": "one", **versions})
        verl = self.benchmark.arms[self.arm].verl
        (run / "config.yaml").write_text(yaml.safe_dump(verl | {"data.seed": self.seed}), encoding="utf-8")
        (run / "log.txt").write_text(f"{self.arm} seed {self.seed}: {cause or 'finished'}\n", encoding="utf-8")

    def write_evaluation(self) -> None:
        evaluation = self.benchmark.evaluation
        value = self.effect.accuracy
        stderr = math.sqrt(value * (1 - value) / ITEMS)
        metrics = {"accuracy": {"value": value, "stderr": stderr, "n": ITEMS}}
        metrics[f"mean@{evaluation.repeats}"] = {"value": 0.95 * value, "stderr": 0.8 * stderr, "n": ITEMS}
        result = {**self.keys, "n": ITEMS, "metrics": metrics, "checkpoint_sha256": str(self.place), "seconds": 12.0}
        result |= {"yaml_sha256": f"yaml {self.task}", "data_sha256": f"data {self.task}", "lm_eval_version": "0.4.13"}
        result |= {"batch_size": evaluation.batch_size, "repeats": evaluation.repeats, "eval_seed": evaluation.seed}
        place = self.folder / "evals" / self.place
        place.mkdir(parents=True, exist_ok=True)
        _write_json(place / "result.json", result)

    @property
    def grouped(self) -> bool:
        return self.benchmark.arms[self.arm].verl["algorithm.adv_estimator"] == "group_ppo"

    def _counts(self, step: int) -> tuple[int, int]:
        """Valid response tokens and endpoints of a step."""
        tokens = RESPONSES * TOKENS_PER_RESPONSE + 10 * (step % 5)
        return tokens, round(self.effect.density * tokens)

    def _stages(self, steps: int) -> Iterator[dict[str, Any]]:
        everything = self.effect.speedup.get("step", 1.0)
        critic = self.benchmark.arms[self.arm].verl["critic.enable"]
        for step in range(1, steps + 1):
            tokens, endpoints = self._counts(step)
            slow = 3.0 if step <= SLOW_STEPS else 1.0
            jitter = (1.0, 0.97, 1.03)[step % 3] * slow
            rows = {
                stage: seconds * jitter / self.effect.speedup.get(stage, everything)
                for stage, seconds in STAGE_SECONDS.items()
                if critic or stage not in CRITIC_STAGES
            }
            if step == steps:
                rows["save_checkpoint"] = 0.05
            # 2 % between the stages; the last step's checkpoint must not change the ratio of whole steps.
            rows["step"] = sum(rows.values()) * 1.02
            for stage, seconds in rows.items():
                rise = 200e6 * self.effect.memory if stage == "update_actor" else 50e6
                yield {
                    "step": step,
                    "stage": stage,
                    "seconds": seconds,
                    "cpu_seconds": 0.9 * seconds,
                    "peak_bytes": round(1e9 * self.effect.base) + round(rise),
                    "rise_bytes": round(rise),
                    "tokens": tokens,
                    "endpoints": endpoints,
                }

    def _steps(self, seconds: list[float], start_accuracy: float, fallbacks: int) -> Iterator[dict[str, Any]]:
        planned = self.benchmark.train.steps
        for step, elapsed in enumerate(np.cumsum(seconds), start=1):
            tokens, endpoints = self._counts(step)
            learned = (1 - math.exp(-3 * step / planned)) / (1 - math.exp(-3))
            row = {
                "step": step,
                "reward/mean": start_accuracy + (self.effect.accuracy - start_accuracy) * learned,
                "response_length/mean": tokens / RESPONSES,
                "tokens/response": tokens,
                "tokens/total": tokens + RESPONSES * PROMPT_TOKENS,
                "throughput/tokens_per_second": tokens / seconds[step - 1],
                "elapsed_seconds": float(elapsed),
                "actor/entropy": 0.5 * math.exp(-step / planned),
                "actor/pg_loss": 0.01,
                "actor/grad_norm": 1.0,
                "critic/vf_loss": 0.05 if self.benchmark.arms[self.arm].verl["critic.enable"] else None,
                "group/density": endpoints / tokens,
                "group/total_endpoints": endpoints,
                "group/total_tokens": tokens,
            }
            yield row | (self._group_metrics(tokens, endpoints, step, fallbacks) if self.grouped else {})

    def _group_metrics(self, tokens: int, endpoints: int, step: int, fallbacks: int) -> dict[str, Any]:
        size = tokens / endpoints
        return {
            "group/compression_ratio": 1 - endpoints / tokens,
            "group/efficiency_gain": size,
            "group/threshold": math.exp(0.002 * step),
            "group/closed_by/criterion": 0.10,
            "group/closed_by/cap": 0.80,
            "group/closed_by/end": 0.10,
            "group/size/mean": size,
            "group/size/p10": max(1.0, 0.5 * size),
            "group/size/p50": min(size * 1.1, MAX_GROUP),
            "group/size/p90": float(MAX_GROUP),
            "group/endpoints_per_response/mean": endpoints / RESPONSES,
            "group/fallbacks": int(step <= fallbacks),
        }


def _shift(effect: Effect, spread: Spread, offset: float) -> Effect:
    factor = math.exp(spread.log_seconds * offset)
    everything = effect.speedup.get("step", 1.0)
    return replace(
        effect,
        accuracy=effect.accuracy + spread.accuracy * offset,
        density=effect.density + (spread.density * offset if effect.density < 1 else 0.0),
        speedup={stage: effect.speedup.get(stage, everything) * factor for stage in (*STAGE_SECONDS, "step")},
        memory=effect.memory * math.exp(spread.log_memory * offset),
    )


def _write_lines(file: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8")


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
