"""Sanity gates: what a run that can be read must also satisfy to be evidence.

A gate is a function that finds nothing, or says what is wrong in a few words; the run's row in `runs` keeps every
finding as its reason. Its rows in the other tables stay, for whoever wants to look.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from groupppo.tables.logs import StepLog

WHOLE = "step"
STAGE_SUM_SLACK, STAGE_SUM_SLACK_SECONDS = 0.02, 0.005
TOKEN_SLACK, TOKEN_SLACK_SHARE = 0.5, 1e-6
"""Of a count against a mean of 32 bits times the number of responses."""
MFU = "perf/mfu/"
LOSSES = ("actor/pg_loss", "actor/loss", "actor/grad_norm")
KNOWN_TO_VERL = (
    *("B200", "MI300X", "MI350X", "MI355X", "H100", "H800", "H200", "A100", "A800", "L40", "A40", "L20", "H20", "910B"),
    *("A2G3", "Ascend950DT", "Ascend910", "RTX 3070 Ti"),
)
"""Parts of the names of GPUs of which verl 0.9.1 has the peak: verl/utils/flops_counter.py:_DEVICE_FLOPS."""
CRITIC_LOSSES = ("critic/vf_loss", "critic/loss", "critic/grad_norm")


@dataclass(frozen=True)
class Facts:
    """What is known of every run: its row of the table `runs`, whether the benchmark plans it, and how many training
    steps and responses per step that plans."""

    row: Mapping[str, Any]
    planned: bool
    benchmark_steps: int
    responses: int


@dataclass(frozen=True)
class Logged(Facts):
    """What is known of a planned run that finished: its logs, and hashes of checkpoints, None where unrecorded.

    Args:
        critic: whether the arm trains a critic.
        start_fault: why the start's evaluation cannot be read; None where it can.
        mfu: what status.json says of MFU, by key; empty where it does not know the device's peak.
        verl_knows: whether verl has a peak for the device; a GPU without one has an MFU of 0 in every step.
    """

    steps: StepLog
    stages: pd.DataFrame
    critic: bool = False
    checkpoint: str | None = None
    evaluated: str | None = None
    start: str | None = None
    start_fault: str | None = None
    mfu: Mapping[str, float] = field(default_factory=dict)
    verl_knows: bool = True

    @property
    def whole(self) -> pd.DataFrame:
        """The rows of `stages` that are whole steps."""
        return self.stages[self.stages["stage"] == WHOLE]

    def first(self, name: str, wrong: Callable[[np.ndarray], np.ndarray]) -> tuple[int, float] | None:
        """Line and value of the first logged value of a metric that is wrong."""
        if name not in self.steps.names:
            return None
        at = self.steps.names.index(name)
        marked = wrong(self.steps.values[:, at]) & self.steps.logged[:, at]
        return (int(marked.argmax()) + 1, float(self.steps.values[marked.argmax(), at])) if marked.any() else None


_Find = Callable[[Any], str | None]


class Gate(NamedTuple):
    """`checks` completes "a run is no evidence unless ..."; `why` says what a run that fails it would do to a claim.

    `of` is what has to be known of a run for the gate to be asked.
    """

    name: str
    checks: str
    why: str
    of: type[Facts]
    find: _Find


GATES: list[Gate] = []


def findings(facts: Facts) -> list[str]:
    """What every gate finds, in the gates' order; empty for a run that may serve as evidence."""
    return [problem for gate in GATES if isinstance(facts, gate.of) and (problem := gate.find(facts))]


def _gate(checks: str, why: str, of: type[Facts] = Logged) -> Callable[[_Find], _Find]:
    """Register a function as the gate of its name."""

    def register(find: _Find) -> _Find:
        GATES.append(Gate(find.__name__, checks, why, of, find))
        return find

    return register


@_gate("no step fell back to dense PPO", "Such steps measure dense PPO under another name.", Facts)
def fallbacks(facts: Facts) -> str | None:
    return f"{facts.row['fallbacks']} fallbacks to dense PPO" if facts.row["fallbacks"] else None


@_gate(
    "the benchmark's matrix has it",
    "Seeds chosen after the fact are not a sample of those that were planned.",
    Facts,
)
def matrix(facts: Facts) -> str | None:
    return None if facts.planned else "not in the benchmark's matrix"


@_gate(
    "it set out to do as many steps as the benchmark plans",
    "Arms trained for other lengths cannot be compared.",
    Facts,
)
def planned_steps(facts: Facts) -> str | None:
    wanted, planned = facts.row["planned_steps"], facts.benchmark_steps
    return None if wanted == planned else f"planned {wanted} steps where the benchmark plans {planned}"


@_gate(
    "it did not fail, and did its planned steps",
    "A run that broke off says nothing about the end of training.",
    Facts,
)
def finished(facts: Facts) -> str | None:
    cause, done, wanted = (facts.row[key] for key in ("cause", "steps", "planned_steps"))
    if cause is not None:
        return f"failed: {cause}"
    return f"did {done} of {wanted} steps" if done < wanted else None


@_gate(
    "both logs have each planned step once and no other",
    "Medians and curves over some steps are of another run than the plan's.",
)
def logged_steps(facts: Logged) -> str | None:
    wanted = facts.row["planned_steps"]
    for file, steps in (("steps.jsonl", facts.steps.steps), ("stages.jsonl", facts.whole["step"])):
        logged = set(steps.tolist())
        # One after another: a status.json may plan more of them than memory holds.
        lacking = next((step for step in range(1, wanted + 1) if step not in logged), None)
        if lacking is not None:
            return f"{file} lacks step {lacking} of {wanted}"
        beyond = [step for step in logged if not 1 <= step <= wanted]
        if beyond:
            return f"{file} has an unplanned step {min(beyond)} of {wanted}"
    return None


@_gate(
    f"no step is shorter than its stages together (by more than {STAGE_SUM_SLACK:.0%} + "
    f"{1000 * STAGE_SUM_SLACK_SECONDS:.0f} ms)",
    "A stage was timed twice, or another clock was read.",
)
def stage_sum(facts: Logged) -> str | None:
    whole = facts.whole.set_index("step")["seconds"].sort_index()
    parts = facts.stages[facts.stages["stage"] != WHOLE].groupby("step")["seconds"].sum().reindex(whole.index)
    wrong = parts > whole * (1 + STAGE_SUM_SLACK) + STAGE_SUM_SLACK_SECONDS
    if not wrong.any():
        return None
    step = wrong.idxmax()
    return f"stages of step {step} sum to {parts[step]:.3f} s, the step took {whole[step]:.3f} s"


@_gate(
    "stages.jsonl counts as many response tokens as steps.jsonl does, in its counts and in its mean length times "
    "the planned responses",
    "Densities and seconds per token would be of other tokens than were trained on.",
)
def tokens_agree(facts: Logged) -> str | None:
    whole = facts.whole
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


@_gate(
    "every model FLOP/s utilisation that it states (`perf/mfu/*`, status.json) is above 0 and below 1; 0 in every "
    "step is verl's word for a device it does not know",
    "Time or FLOPs were counted wrongly.",
)
def mfu(facts: Logged) -> str | None:
    for key, value in facts.mfu.items():
        if not 0 < value < 1:
            return f"status.json: {key} is {value:.6g}, not between 0 and 1"
    for name in (name for name in facts.steps.names if name.startswith(MFU)):
        wrong = facts.first(name, lambda values: ~((values > 0) & (values < 1)))
        # verl divides by an infinite peak where it does not know the device: 0 throughout is then no measurement.
        if wrong and (facts.verl_knows or np.any(facts.steps.column(name) != 0)):
            shown = "null" if np.isnan(wrong[1]) else f"{wrong[1]:.6g}"
            return f"steps.jsonl line {wrong[0]}: {name} is {shown}, not between 0 and 1"
    return None


@_gate(
    "no loss and no gradient norm was NaN or infinite (null in steps.jsonl)",
    "Its parameters are no longer those that training would have made.",
)
def finite(facts: Logged) -> str | None:
    for name in LOSSES + (CRITIC_LOSSES if facts.critic else ()):
        wrong = facts.first(name, np.isnan)
        if wrong:
            return f"steps.jsonl line {wrong[0]}: {name} was not finite"
    return None


@_gate(
    "a metric of the first two steps is in every step",
    "What stopped being measured cannot be compared over the run.",
)
def steady_metrics(facts: Logged) -> str | None:
    log = facts.steps
    if len(log.steps) < 3:
        return None
    # What only some steps log, such as saving a checkpoint, is not logged by the first two.
    gone = log.logged[0] & log.logged[1] & ~log.logged.all(axis=0)
    if facts.row["fallbacks"]:
        gone &= np.array([not name.startswith("group/") for name in log.names])
    if not gone.any():
        return None
    at = int(gone.argmax())
    row = int((~log.logged[:, at]).argmax())
    return f"steps.jsonl line {row + 1} lacks {log.names[at]}, which every line before it has"


@_gate("the evaluation of its start can be read", "Whether the run learned anything cannot be told.")
def start(facts: Logged) -> str | None:
    return f"the start's evaluation cannot be read: {facts.start_fault}" if facts.start_fault else None


@_gate(
    "its evaluation is of its own checkpoint (where both recorded a SHA-256) and not of the start's",
    "The accuracy would be another policy's.",
)
def checkpoint(facts: Logged) -> str | None:
    if facts.evaluated is None:
        return None
    if facts.checkpoint is not None and facts.evaluated != facts.checkpoint:
        return f"the evaluated checkpoint {facts.evaluated:.12} is not the run's {facts.checkpoint:.12}"
    return f"the evaluated checkpoint {facts.evaluated:.12} is the start's" if facts.evaluated == facts.start else None
