"""How wrong the streamed update of GROUP-PPO is, on real rollouts, and what each way of streaming costs.

    python -m groupppo.studies streams \\
        --checkpoints start=results/quick/assets/starts/sorting/tiny \\
        --checkpoints trained=results/quick/runs/sorting/tiny/ppo/seed1/checkpoint \\
        --critic results/quick/runs/sorting/tiny/ppo/seed1/critic \\
        --task results/quick/assets/tasks/sorting \\
        --out results/quick/studies/streams/sorting.tiny

The streamed update lets only endpoints flow through the policy, past constant keys and values of all other tokens. Its
values are exact and its gradient is not. By how much, in which parameters, and does it change over the training? What
do a window before each endpoint or a random share of the tokens buy back, and at what cost? How fast do kept keys and
values grow old with the optimizer steps of a batch? Policies are the reference arm's, dense PPO, in the order of its
training, with the values of its trained critic throughout. One process, one thread, float32.
"""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, ValidationInfo, field_validator

from groupppo.config import Arm, load_arm
from groupppo.draw.blocks import Block, Text
from groupppo.draw.figures import Picture
from groupppo.draw.wording import number, percentage
from groupppo.errors import BadInput
from groupppo.studies.shared.charts import picture
from groupppo.studies.shared.study import (
    ENDPOINTS,
    GATHERED,
    RECOMPUTE,
    WINDOW,
    Clock,
    Positive,
    RolloutParameters,
    Shown,
    Study,
    Tables,
    estimated,
)

WINDOWS, SHARES, STEPS = (1, 2, 4, 8, 16), (0.05, 0.1, 0.25, 0.5), (0, 1, 2, 4, 8)


class Parameters(RolloutParameters):
    """How wrong the streamed update of GROUP-PPO is, on real rollouts, and what each way of streaming costs."""

    batches: Annotated[int, Field(ge=4)] = 8
    """Batches, each like a training step."""
    checkpoints: Annotated[dict[str, Path], Field(min_length=1)]
    """Folders of the policy by name, NAME=FOLDER, in the order of the training."""
    follow: tuple[str, ...] = ("group_ppo", "stride")
    """Arms whose endpoints are streamed."""
    stale: Annotated[int, Field(ge=2)] = 5
    """Batches on which keys and values are let grow old."""
    actor_lr: Positive = 1e-4
    """Learning rate of the steps that age them."""

    @field_validator("stale")
    @classmethod
    def _some_of_the_batches(cls, stale: int, info: ValidationInfo) -> int:
        if stale > info.data.get("batches", stale):
            raise ValueError(f"write at most {info.data['batches']}, the number of batches")
        return stale

    @property
    def models(self) -> dict[str, Path]:
        return {**self.checkpoints, **super().models}


# ---- what is measured


def measure(parameters: Parameters, clock: Clock) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables, and counts for the record."""
    import torch

    from groupppo.studies.shared import streaming
    from groupppo.studies.shared.rollouts import draw_batches, load_policy
    from groupppo.studies.shared.updates import group_updates
    from groupppo.update.passes import LiveRows

    torch.set_num_threads(1)
    ways = [LiveRows(), *(LiveRows(window=size) for size in WINDOWS), *(LiveRows(share=size) for size in SHARES)]
    arms, last, temperature = followed(parameters), list(parameters.checkpoints)[-1], parameters.temperature
    rows, stale, counts = [], [], {}
    for name, folder in parameters.checkpoints.items():
        policy = load_policy(folder, torch.float32)
        with clock.stage(f"rollouts of {name}"):
            sampled = draw_batches(parameters, folder)
            counts[name] = sampled.counts()
        for arm in arms:
            place = {"checkpoint": name, "arm": arm.name, "title": arm.title}
            updates = [
                group_updates([arm], tokens, parameters.gamma, parameters.lam)[arm.name] for tokens in sampled.tokens
            ]
            endpoints = list(map(streaming.Endpoints.of, sampled.rollouts, updates))
            with clock.stage(f"bias of {arm.name} at {name}"):
                curve, gradients = streaming.measure_curve(policy, endpoints, ways, temperature)
            density = curve["batch"].map(dict(enumerate(update.density for update in updates)))
            rows.append(curve.assign(**place, density=density))
            if name == last:
                with clock.stage(f"staleness of {arm.name} at {name}"):
                    chosen, rate = endpoints[: parameters.stale], parameters.actor_lr
                    aged = streaming.stale_rows(policy, chosen, gradients, STEPS, rate, temperature)
                    stale.append(pd.DataFrame(aged).assign(**place))
    measured = pd.concat(rows, ignore_index=True)
    tables = {
        "stream_groups": streaming.group_table(measured),
        "stream_costs": streaming.cost_table(measured),
        "stream_staleness": streaming.staleness_table(pd.concat(stale, ignore_index=True)),
    }
    return tables, {"counts": counts}


def followed(parameters: Parameters) -> list[Arm]:
    """The arms that were asked for.

    Raises:
        BadInput: there is no such arm, it is not about groups, or its loss counts all tokens, so that all would flow.
    """
    from groupppo.studies.shared.updates import PREFIX, group_arms

    arms, left_out = group_arms(map(load_arm, parameters.arm_files))
    known = {arm.name: arm for arm in arms if arm.density_from is None}
    for name in parameters.follow:
        if name not in known:
            reason = left_out.get(name, f"write one of: {', '.join(known)}.")
            raise BadInput("study streams", "--follow", name, reason)
        if known[name].verl.get(f"{PREFIX}spread") == "group":
            raise BadInput("study streams", "--follow", name, "its loss counts all tokens; write an arm of endpoints.")
    return [known[name] for name in dict.fromkeys(parameters.follow)]


# ---- its tables


_CASE = {
    "checkpoint": "The policy, by the name that the command gave it.",
    "arm": "Name of the arm whose endpoints are streamed.",
    "title": "Label of the arm.",
}
_BOTH = {
    **estimated("cosine", "Between the streamed and the exact gradient of the same batch, mean over batches."),
    **estimated("norm_ratio", "Norm of the streamed gradient / of the exact one, mean over batches."),
    "batches": "Batches.",
}

COLUMNS: dict[str, dict[str, str]] = {
    "stream_groups": {
        **_CASE,
        "group": "Parameter group, or `all`; the streamed update is of endpoints alone.",
        **_BOTH,
    },
    "stream_costs": {
        **_CASE,
        "kind": "What flows: `endpoints` alone, a `window` of tokens before each as well, a random `share` of all "
        "tokens as well, or `gathered`, the exact update.",
        "size": "Tokens of the window, or the share; 0 for the others.",
        "density": "Endpoints / response tokens.",
        "live": "Tokens that flow / all tokens, prompts included.",
        "speedup": "Operations of a dense update / of this one, keys and values at hand.",
        "speedup_recompute": "The same where the update makes keys and values itself.",
        **_BOTH,
    },
    "stream_staleness": {
        **_CASE,
        "steps": "Optimizer steps since keys and values were made.",
        "kv": "`reuse`: made before the steps; `recompute`: at the present weights.",
        **_BOTH,
        **estimated("log_prob_error", "Mean |streamed - exact log-probability| over endpoints, in nats."),
        **estimated("moved", "Mean |exact log-probability - the one before the steps| over endpoints, in nats."),
    },
}


# ---- its figures

KIND_LABELS = {ENDPOINTS: "endpoints alone", GATHERED: "gathered (exact)"}
_COSINE = "cosine with the exact gradient"


def way_label(kind: str, size: float) -> str:
    """Such as "window of 4" or "share of 25 %"."""
    return KIND_LABELS.get(kind) or (f"window of {size:g}" if kind == WINDOW else f"share of {percentage(size)}")


def parameters_figure(tables: Tables) -> Picture:
    """Cosine and norm ratio of every parameter group, for each arm at each checkpoint."""
    rows = _with_cases(tables["stream_groups"])
    return picture(
        "parameters",
        "The streamed gradient's bias by parameter group",
        rows,
        {"cosine": _COSINE, "norm_ratio": "norm / the exact gradient's"},
        keys=[*_CASE, "case", "group"],
        caption="The streamed gradient of a batch against the exact one when endpoints alone flow, means over "
        f"{rows['batches'].iloc[0]} batches with 90 % t intervals. What flows through other tokens' keys and values is "
        "missing, so that the projections of keys and values are hit first.",
        row="group",
        series="case",
        around_one=["cosine", "norm_ratio"],
    )


def costs_figure(tables: Tables) -> Picture:
    """Speed-up and cosine of each way, for each arm at each checkpoint."""
    rows = _with_cases(tables["stream_costs"])
    return picture(
        "costs",
        "What streaming costs and what it gets wrong",
        rows.assign(way=[way_label(*way) for way in zip(rows["kind"], rows["size"], strict=True)]),
        {"speedup": "operations of a dense update / of this one", "cosine": _COSINE},
        keys=[*_CASE, "case", "way"],
        caption="Operations of a dense update over the streamed one's with keys and values at hand, counted for this "
        "model's shape, and cosine of the streamed gradient with the exact one, for what flows next to the endpoints. "
        f"Means over {rows['batches'].iloc[0]} batches, 90 % t intervals. A way with no more speed-up than the exact "
        "gathered update buys nothing.",
        row="way",
        series="case",
        logarithmic=["speedup"],
    )


def staleness_figure(tables: Tables) -> Picture:
    """Cosine, and error of log-probabilities beside the policy's own move, by steps since they were made."""
    rows = _with_cases(tables["stream_staleness"])
    drawn = rows.assign(case=rows["case"] + ", " + rows["kv"], steps=rows["steps"].map("{:g} steps".format))
    # How far the policy has moved does not depend on keys and values; the error of fresh ones is rounding.
    drawn.loc[drawn["kv"] == RECOMPUTE, ["log_prob_error", "moved"]] = float("nan")
    return picture(
        "staleness",
        "Keys and values that grow old",
        drawn,
        {"cosine": _COSINE, "log_prob_error": "mean log-prob error, nats", "moved": "policy's own move, nats"},
        keys=[*_CASE, "kv", "case", "steps"],
        caption="Cosine of the streamed gradient at endpoints alone with the exact one, after optimizer steps on the "
        "same batch, with keys and values kept from before the steps (reuse) and made again (recompute); mean error "
        "of the streamed log-probabilities with kept ones, beside how far the exact ones have moved. Means over "
        f"{rows['batches'].iloc[0]} batches with 90 % t intervals.",
        row="steps",
        series="case",
    )


def _with_cases(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(case=rows["title"] + ", " + rows["checkpoint"])


# ---- its section of the page


def show(shown: Shown) -> list[Block]:
    """What it ran on, and its figures."""
    checkpoints = [
        f"{name}: {counts['responses']:,} responses ({counts['tokens']:,} tokens), mean reward "
        f"{number(counts['mean_reward'])}"
        for name, counts in dict(shown.record["counts"]).items()
    ]
    if not checkpoints:
        raise KeyError("counts")
    words = (
        f"Rollouts of {shown.reference}, seed {shown.seed}, in {shown.record['settings']['batches']} batches for each "
        f"checkpoint. {'; '.join(checkpoints)}. Values are those of the trained critic throughout. The numbers are "
        "those of one training run; intervals cover batches, not training seeds."
    )
    return [Text(words), *shown.figures]


STUDY = Study(
    name="streams",
    title="Study: what the streamed update gets wrong",
    nav="Streaming study",
    order=61,
    parameters=Parameters,
    measure=measure,
    columns=COLUMNS,
    words=frozenset({"checkpoint", "arm", "title", "group", "kind", "kv"}),
    figures=lambda tables: [make(tables) for make in (parameters_figure, costs_figure, staleness_figure)],
    show=show,
)
