"""Sanity gates: what a run that can be read must also satisfy to be evidence.

A gate finds nothing, or says what is wrong in a few words; the run's row in `runs` keeps every finding as its reason.
Its rows in the other tables stay, for whoever wants to look.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from groupppo.tables.logs import StepLog

WHOLE = "step"
STAGE_SUM_SLACK, STAGE_SUM_SLACK_SECONDS = 0.02, 0.005
TOKEN_SLACK, TOKEN_SLACK_SHARE = 0.5, 1e-6
"""Of a count against a mean of 32 bits times the number of responses."""
MFU = "perf/mfu/"
LOSSES = ("actor/pg_loss", "actor/loss", "actor/grad_norm")
CRITIC_LOSSES = ("critic/vf_loss", "critic/loss", "critic/grad_norm")


@dataclass(frozen=True)
class Facts:
    """What a gate looks at.

    Args:
        planned: whether the run is in the benchmark's matrix.
        cause: why the run failed; None when it finished.
        done: training steps done.
        wanted: training steps that the run set out to do.
        benchmark_steps: training steps that the benchmark plans.
        responses: responses per step that the benchmark plans.
        fallbacks: steps that fell back to dense PPO.
        critic: whether the arm trains a critic.
        steps: the run's steps.jsonl; None for a run that failed or is not planned.
        stages: the run's stages.jsonl; None as `steps`.
        checkpoint: SHA-256 of the trained checkpoint; None where the run did not record it.
        evaluated: SHA-256 of the checkpoint that was evaluated; None where it is not recorded.
        start: SHA-256 of the start checkpoint; None where it is not recorded.
        start_fault: why the start's evaluation cannot be read; None where it can.
        mfu: what status.json says of MFU, by key; empty where it does not know the device's peak.
        verl_knows: whether verl surely has a peak for the device; a GPU without one has an MFU of 0 in every step.
    """

    planned: bool
    cause: str | None
    done: int
    wanted: int
    benchmark_steps: int
    responses: int
    fallbacks: int = 0
    critic: bool = False
    steps: StepLog | None = None
    stages: pd.DataFrame | None = None
    checkpoint: str | None = None
    evaluated: str | None = None
    start: str | None = None
    start_fault: str | None = None
    mfu: Mapping[str, float] = field(default_factory=dict)
    verl_knows: bool = True


@dataclass(frozen=True)
class Gate:
    """`checks` completes "a run is no evidence unless ..."; `why` says what a run that fails it would do to a claim."""

    name: str
    checks: str
    why: str
    find: Callable[[Facts], str | None]


def findings(facts: Facts) -> list[str]:
    """What every gate finds, in the gates' order; empty for a run that may serve as evidence."""
    return [problem for gate in GATES if (problem := gate.find(facts))]


def _fallbacks(facts: Facts) -> str | None:
    return f"{facts.fallbacks} fallbacks to dense PPO" if facts.fallbacks else None


def _planned(facts: Facts) -> str | None:
    return None if facts.planned else "not in the benchmark's matrix"


def _planned_steps(facts: Facts) -> str | None:
    if facts.wanted == facts.benchmark_steps:
        return None
    return f"planned {facts.wanted} steps where the benchmark plans {facts.benchmark_steps}"


def _finished(facts: Facts) -> str | None:
    if facts.cause is not None:
        return f"failed: {facts.cause}"
    return f"did {facts.done} of {facts.wanted} steps" if facts.done < facts.wanted else None


def _logged_steps(facts: Facts) -> str | None:
    if facts.steps is None or facts.stages is None:
        return None
    for file, steps in (("steps.jsonl", facts.steps.steps), ("stages.jsonl", _whole_steps(facts.stages)["step"])):
        logged = set(steps.tolist())
        lacking = next((step for step in range(1, facts.wanted + 1) if step not in logged), None)
        if lacking is not None:
            return f"{file} lacks step {lacking} of {facts.wanted}"
        beyond = min(logged - set(range(1, facts.wanted + 1)), default=None)
        if beyond is not None:
            return f"{file} has an unplanned step {beyond} of {facts.wanted}"
    return None


def _whole_steps(stages: pd.DataFrame) -> pd.DataFrame:
    return stages[stages["stage"] == WHOLE]


def _stage_sum(facts: Facts) -> str | None:
    if facts.stages is None:
        return None
    whole = _whole_steps(facts.stages).set_index("step")["seconds"].sort_index()
    parts = facts.stages[facts.stages["stage"] != WHOLE].groupby("step")["seconds"].sum().reindex(whole.index)
    wrong = parts > whole * (1 + STAGE_SUM_SLACK) + STAGE_SUM_SLACK_SECONDS
    if not wrong.any():
        return None
    step = wrong.idxmax()
    return f"stages of step {step} sum to {parts[step]:.3f} s, the step took {whole[step]:.3f} s"


def _tokens_agree(facts: Facts) -> str | None:
    if facts.steps is None or facts.stages is None:
        return None
    whole = _whole_steps(facts.stages)
    shared, ours, theirs = np.intersect1d(facts.steps.steps, whole["step"], return_indices=True)
    timed = whole["tokens"].to_numpy(float)[theirs]
    for metric, scale in (("group/total_tokens", 1), ("tokens/response", 1), ("response_length/mean", facts.responses)):
        values = facts.steps.column(metric)
        if values is None:
            continue
        counted = values[ours] * scale
        # A missing value is another gate's business.
        wrong = np.abs(counted - timed) > TOKEN_SLACK + TOKEN_SLACK_SHARE * timed
        if wrong.any():
            i = int(wrong.argmax())
            times = f" times {scale} responses" if scale > 1 else ""
            return f"step {shared[i]} has {timed[i]:.0f} tokens in stages.jsonl, {counted[i]:.10g} by {metric}{times}"
    return None


def _mfu(facts: Facts) -> str | None:
    for key, value in facts.mfu.items():
        if not 0 < value < 1:
            return f"status.json: {key} is {value:.6g}, not between 0 and 1"
    for at, name in enumerate(facts.steps.names) if facts.steps else ():
        # verl divides by an infinite peak where it does not know the device: 0 throughout is then no measurement.
        if name.startswith(MFU) and facts.steps and (facts.verl_knows or np.any(facts.steps.values[:, at] != 0)):
            wrong = _first(facts, name, lambda values: ~((values > 0) & (values < 1)))
            if wrong is not None:
                shown = "null" if np.isnan(wrong[1]) else f"{wrong[1]:.6g}"
                return f"steps.jsonl line {wrong[0]}: {name} is {shown}, not between 0 and 1"
    return None


def _finite(facts: Facts) -> str | None:
    for name in LOSSES + (CRITIC_LOSSES if facts.critic else ()):
        wrong = _first(facts, name, np.isnan)
        if wrong is not None:
            return f"steps.jsonl line {wrong[0]}: {name} was not finite"
    return None


def _first(facts: Facts, name: str, wrong: Callable[[np.ndarray], np.ndarray]) -> tuple[int, float] | None:
    """Line and value of the first logged value of a metric that is wrong."""
    if facts.steps is None or name not in facts.steps.names:
        return None
    at = facts.steps.names.index(name)
    marked = wrong(facts.steps.values[:, at]) & facts.steps.logged[:, at]
    return (int(marked.argmax()) + 1, float(facts.steps.values[marked.argmax(), at])) if marked.any() else None


def _steady(facts: Facts) -> str | None:
    log = facts.steps
    if log is None or len(log.steps) < 3:
        return None
    # What only some steps log, such as saving a checkpoint, is not logged by the first two.
    gone = log.logged[0] & log.logged[1] & ~log.logged.all(axis=0)
    if facts.fallbacks:
        gone &= np.array([not name.startswith("group/") for name in log.names])
    if not gone.any():
        return None
    at = int(gone.argmax())
    row = int((~log.logged[:, at]).argmax())
    return f"steps.jsonl line {row + 1} lacks {log.names[at]}, which every line before it has"


def _start(facts: Facts) -> str | None:
    return f"the start's evaluation cannot be read: {facts.start_fault}" if facts.start_fault else None


def _checkpoint(facts: Facts) -> str | None:
    if facts.evaluated is None:
        return None
    if facts.checkpoint is not None and facts.evaluated != facts.checkpoint:
        return f"the evaluated checkpoint {facts.evaluated:.12} is not the run's {facts.checkpoint:.12}"
    return f"the evaluated checkpoint {facts.evaluated:.12} is the start's" if facts.evaluated == facts.start else None


GATES = (
    Gate(
        "fallbacks",
        "no step fell back to dense PPO",
        "Such steps measure dense PPO under another name.",
        _fallbacks,
    ),
    Gate(
        "matrix",
        "the benchmark's matrix has it",
        "Seeds chosen after the fact are not a sample of those that were planned.",
        _planned,
    ),
    Gate(
        "planned_steps",
        "it set out to do as many steps as the benchmark plans",
        "Arms trained for other lengths cannot be compared.",
        _planned_steps,
    ),
    Gate(
        "finished",
        "it did not fail, and did its planned steps",
        "A run that broke off says nothing about the end of training.",
        _finished,
    ),
    Gate(
        "logged_steps",
        "both logs have each planned step once and no other",
        "Medians and curves over some steps are of another run than the plan's.",
        _logged_steps,
    ),
    Gate(
        "stage_sum",
        f"no step is shorter than its stages together (by more than {STAGE_SUM_SLACK:.0%} + "
        f"{1000 * STAGE_SUM_SLACK_SECONDS:.0f} ms)",
        "A stage was timed twice, or another clock was read.",
        _stage_sum,
    ),
    Gate(
        "tokens_agree",
        "stages.jsonl counts as many response tokens as steps.jsonl does, in its counts and in its mean length times "
        "the planned responses",
        "Densities and seconds per token would be of other tokens than were trained on.",
        _tokens_agree,
    ),
    Gate(
        "mfu",
        "every model FLOP/s utilisation that it states (`perf/mfu/*`, status.json) is above 0 and below 1; 0 in every "
        "step is verl's word for a device it does not know",
        "Time or FLOPs were counted wrongly.",
        _mfu,
    ),
    Gate(
        "finite",
        "no loss and no gradient norm was NaN or infinite (null in steps.jsonl)",
        "Its parameters are no longer those that training would have made.",
        _finite,
    ),
    Gate(
        "steady_metrics",
        "a metric of the first two steps is in every step",
        "What stopped being measured cannot be compared over the run.",
        _steady,
    ),
    Gate(
        "start",
        "the evaluation of its start can be read",
        "Whether the run learned anything cannot be told.",
        _start,
    ),
    Gate(
        "checkpoint",
        "its evaluation is of its own checkpoint (where both recorded a SHA-256) and not of the start's",
        "The accuracy would be another policy's.",
        _checkpoint,
    ),
)
