"""The columns of every tidy table, declared once; docs/tables.md explains them."""

from functools import partial
from typing import NamedTuple

import pyarrow as pa

DEVICES, ROLLOUTS = ("cpu", "cuda"), ("transformers", "vllm")
FINISHED, FAILED, MISSING, UNREADABLE = "finished", "failed", "missing", "unreadable"
GROUP_METRICS = {
    "tokens": "group/total_tokens",
    "endpoints": "group/total_endpoints",
    "density": "group/density",
    "threshold": "group/threshold",
    "criterion": "group/closed_by/criterion",
    "cap": "group/closed_by/cap",
    "end": "group/closed_by/end",
    "size_mean": "group/size/mean",
    "size_p50": "group/size/p50",
    "r_ratio_p50": "group/r_ratio/p50",
}
RULE_METRICS = ("threshold", "r_ratio_p50")
"""Columns of `groups` that a rule without a threshold, or without a variance ratio, has no metric for."""
MATCHED_EVALUATION = ("n", "data_sha256", "yaml_sha256", "batch_size", "repeats", "eval_seed")
"""What the evaluations of a task and model must share."""

_ARROW = {
    "str": pa.string(),
    "category": pa.dictionary(pa.int32(), pa.string()),
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}


class Column(NamedTuple):
    """`dtype` is pandas' name of the type; "Int64" is the whole number that may be missing, "category" a text that few
    rows tell apart, kept once."""

    name: str
    dtype: str
    description: str
    missing: bool = False


_maybe = partial(Column, missing=True)


def _keys(text: str) -> tuple[Column, ...]:
    return (
        Column("task", text, "Name of the task."),
        Column("model", text, "Name of the model."),
        Column("arm", text, "Name of the arm; `start` is the checkpoint that every run starts from."),
        _maybe("seed", "Int64", "Training seed, the unit of replication; missing for the arm `start`."),
    )


_STEP = Column("step", "int64", "Training step, from 1.")
_TOKENS = Column("tokens", "int64", "Valid response tokens of the step.")

USAGE_FIGURES = {
    "energy_joules": ("float64", "Energy of the run's GPUs, whole boards, start-up included, in joules"),
    "energy_source": ("str", "`counter` (the GPU's own), `power` (its readings integrated), or `counter and power`"),
    "cpu_energy_joules": ("float64", "Energy of the machine's processor packages, whoever used them, in joules"),
    "gpu_utilisation": ("float64", "Mean over GPUs and time of the share of time in which a kernel ran"),
    "gpu_peak_bytes": ("Int64", "Largest memory in use on one GPU, of whatever process, in bytes"),
    "gpu_hours": ("float64", "GPUs of the run times hours of `wall_seconds`"),
    "tokens_per_second": ("float64", "Prompt and response tokens over the seconds of the steps"),
    "mfu": ("float64", "Model FLOP/s utilisation over the stages whose operations are counted, a share of 1"),
}
"""Type and meaning of what a run's status.json says of its machine; `usage_reason` says why one is missing."""

SCHEMA: dict[str, tuple[Column, ...]] = {
    "runs": (
        *_keys("str")[:3],
        _maybe("seed", "Int64", "Training seed, the unit of replication; missing for a folder whose name tells none."),
        Column("status", "str", "`finished`, `failed`, `missing` or `unreadable`."),
        _maybe("cause", "str", "Why a failed run failed; else missing."),
        _maybe("rollout", "str", "Rollout server, `transformers` or `vllm`; missing where no status tells."),
        _maybe("device", "str", "`cpu` or `cuda`; missing where the run did not say."),
        Column("steps", "int64", "Training steps done; 0 where no status tells."),
        Column("planned_steps", "int64", "Training steps the run set out to do, or the benchmark's."),
        Column("fallbacks", "int64", "Steps that fell back to dense PPO."),
        _maybe("startup_seconds", "float64", "Wall-clock seconds before the first step; missing as `device`."),
        _maybe("wall_seconds", "float64", "Wall-clock seconds of the whole run; missing as `device`."),
        *(_maybe(name, dtype, f"{text}; or missing.") for name, (dtype, text) in USAGE_FIGURES.items()),
        _maybe("usage_reason", "str", "Why any of the eight before it is not there; else missing."),
        Column("admissible", "bool", "Whether the run may serve as evidence."),
        _maybe("reason", "str", "Why it may not; missing when it may."),
    ),
    "steps": (
        *_keys("category"),
        _STEP,
        Column("metric", "category", "Name of the metric, as in steps.jsonl."),
        _maybe("value", "float64", "Its value at this step; missing where the run logged null."),
    ),
    "stages": (
        *_keys("category"),
        _STEP,
        Column("stage", "category", "Stage of the step; `step` is the whole step."),
        Column("seconds", "float64", "Wall-clock seconds."),
        Column("cpu_seconds", "float64", "CPU seconds of all processes of the run."),
        Column("peak_bytes", "int64", "Largest memory during the stage, in bytes."),
        Column("rise_bytes", "int64", "Peak minus the memory at entry to the stage, in bytes."),
        _TOKENS,
        Column("endpoints", "int64", "Endpoints of the step; equals `tokens` for a dense arm."),
    ),
    "groups": (
        *_keys("category"),
        _STEP,
        _TOKENS,
        Column("endpoints", "int64", "Group endpoints of the step."),
        Column("density", "float64", "endpoints / tokens."),
        _maybe("threshold", "float64", "Threshold tau; missing for a rule that has none."),
        _maybe(
            "criterion",
            "float64",
            "Share of groups closed by the rule's criterion; it and the rest are missing where a step has none.",
        ),
        _maybe("cap", "float64", "Share of groups closed by the largest group size."),
        _maybe("end", "float64", "Share of groups closed by the end of the response."),
        _maybe("size_mean", "float64", "Mean group size, in tokens."),
        _maybe("size_p50", "float64", "Median group size, in tokens."),
        _maybe(
            "r_ratio_p50",
            "float64",
            "Median over groups of r_grpo / r_ppo at the endpoint; missing for a rule without a ratio.",
        ),
    ),
    "evals": (
        *_keys("str"),
        Column("metric", "str", "`accuracy` (greedy) or `mean@k` (k sampled responses), on held-out prompts."),
        Column("value", "float64", "Its value, a share of 1."),
        Column("stderr", "float64", "Standard error over prompts; says nothing about training seeds."),
        Column("n", "int64", "Prompts."),
    ),
}


def arrow_schema(name: str) -> pa.Schema:
    """The Arrow schema of a table: types and which columns may be missing."""
    return pa.schema([pa.field(column.name, _ARROW[column.dtype], nullable=column.missing) for column in SCHEMA[name]])
