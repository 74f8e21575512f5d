"""What the grouping rules of GROUP-PPO do on real rollouts of a trained policy.

    python -m groupppo.studies grouping \\
        --policy results/quick/runs/sorting/tiny/ppo/seed1/checkpoint \\
        --critic results/quick/runs/sorting/tiny/ppo/seed1/critic \\
        --task results/quick/assets/tasks/sorting \\
        --out results/quick/studies/grouping/sorting.tiny

Policy and critic are the reference arm's, dense PPO, so that no grouping rule has shaped the rollouts. How dense are
the endpoints of every rule, and what closes the groups, with rollouts in float32 and in bfloat16, as the public code
takes the gap between rollout and trainer log-probabilities for a score vector? How well do the endpoints of every proxy
agree with those of the score vectors themselves? Where does each arm's policy update point beside dense PPO's on the
same batch (bias), and how much does it scatter over batches (variance)? One process, one thread, else float32.
"""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, ValidationInfo, field_validator

from groupppo.config import load_arm
from groupppo.draw.blocks import Block, Table, Text
from groupppo.draw.figures import Picture
from groupppo.draw.wording import number, percentage, plural
from groupppo.studies.shared.charts import picture
from groupppo.studies.shared.study import (
    DENSE_OTHER,
    NO_RULE,
    Clock,
    RolloutParameters,
    Shown,
    Study,
    Tables,
    estimated,
)

# A quarter of the batches is enough for the densities of bfloat16 rollouts, their only use.
COARSE_SHARE = 4
CONTROL_DRAWS = 64
CLAIMED_BAND = (0.05, 0.20)
"""What GROUP-PPO's origin claims: an advantage at 5-20 % of positions."""


class Parameters(RolloutParameters):
    """What the grouping rules of GROUP-PPO do on real rollouts of a trained policy."""

    policy: Path
    """Folder of the trained policy."""
    exact: Annotated[int, Field(ge=2)] = 48
    """Responses whose exact score vectors are computed, at most one for each prompt."""

    @field_validator("exact")
    @classmethod
    def _one_for_each_prompt(cls, exact: int, info: ValidationInfo) -> int:
        most = info.data.get("batches", 0) * info.data.get("prompts", 0)
        if most and exact > most:
            raise ValueError(f"write at most {most}, one for each prompt")
        return exact

    @property
    def models(self) -> dict[str, Path]:
        return {"policy": self.policy, **super().models}


# ---- what is measured


def measure(parameters: Parameters, clock: Clock) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables, and counts and arms for the record."""
    import torch

    from groupppo.algorithm import GroupParams
    from groupppo.studies.shared.rollouts import draw_batches, load_policy, pool
    from groupppo.studies.shared.rules import agreement_table, cosine_table, density_table, exact_scores
    from groupppo.studies.shared.updates import arm_gradients, direction_summary, group_arms

    torch.set_num_threads(1)
    with clock.stage("rollouts"):
        fine = draw_batches(parameters, parameters.policy)
        coarse = draw_batches(parameters, parameters.policy, torch.bfloat16, parameters.batches // COARSE_SHARE)
    with clock.stage("densities"):
        tables = {"density": density_table({"float32": pool(fine.tokens), "bfloat16": pool(coarse.tokens)})}
    temperature = parameters.temperature
    with clock.stage("exact score vectors"):
        scores = exact_scores(parameters.policy, fine, parameters.responses, parameters.exact, temperature)
        caps, epsilons = (None, GroupParams.group_max_size), (GroupParams.group_epsilon, 0.0)
        tables["agreement"] = agreement_table(scores, caps=caps, epsilons=epsilons, draws=CONTROL_DRAWS)
        tables["cosines"] = cosine_table(scores.grams)
    with clock.stage("update directions"):
        arms, left_out = group_arms(map(load_arm, parameters.arm_files))
        settings = {"temperature": temperature, "gamma": parameters.gamma, "lam": parameters.lam}
        policy = load_policy(parameters.policy, torch.float32)
        inner, compared = arm_gradients(policy, fine, arms, **settings)
        tables["direction_summary"] = direction_summary(inner, compared)
    return tables, {"counts": fine.counts(), "arms": list(compared["arm"]), "arms_left_out": left_out}


# ---- its tables

_JACKKNIFE = "90 % jackknife interval over responses"

COLUMNS: dict[str, dict[str, str]] = {
    "density": {
        "rollout": "Precision of the sampling policy, `float32` or `bfloat16`; the trainer is float32 throughout.",
        "rule": "Grouping rule.",
        "score": "Proxy of the score vectors; empty for a rule without one.",
        "threshold": "tau; empty for a rule without one.",
        "default": "Whether the row is the rule with its default parameters.",
        "density": "Endpoints / valid tokens.",
        "criterion": "Share of groups closed by the rule's criterion.",
        "cap": "Share of groups closed by the largest group size.",
        "end": "Share of groups closed by the end of the response.",
        "size_p50": "Median group size, in tokens.",
        "r_ratio_p50": "Median over groups of r_grpo / r_ppo at the endpoint; empty for a rule without a ratio.",
        "tokens": "Valid tokens grouped.",
    },
    "agreement": {
        "proxy": "What stands for the score vectors, or a control that does without them.",
        "cap": "Largest group size; empty where there is none.",
        "epsilon": "What was added to r_ppo, in the exact rule and in the proxy's.",
        "precision": "Share of the proxy's endpoints that are the exact rule's.",
        "recall": "Share of the exact rule's endpoints that are the proxy's.",
        **estimated("f1", "Harmonic mean of the two.", _JACKKNIFE),
        "f1_inner": "F1 without the last token of each response, which every rule makes an endpoint.",
        "density": "Endpoints / valid tokens of the proxy's rule.",
        "exact_density": "The same of the exact rule.",
        "draws": "Draws that the row is the mean of; 1 for a rule that draws nothing.",
        "responses": "Responses.",
        "tokens": "Their valid tokens.",
    },
    "cosines": {
        "statistic": "`mean` of the cosines between exact score vectors of two tokens of one response, and `mean_abs`, "
        "that of their absolute values.",
        "value": "Its value.",
        "low": f"Lower end of its {_JACKKNIFE}.",
        "high": "Upper end.",
        "responses": "Responses.",
    },
    "direction_summary": {
        "arm": "Its name; `dense` is dense PPO, `dense_other` is dense PPO on another batch.",
        "title": "Label of the arm.",
        "density": "Endpoints / valid tokens, mean over batches.",
        **estimated("cosine", "Mean over batches of the cosine with dense PPO on the same batch."),
        **estimated("norm_ratio", "Mean over batches of norm / dense PPO's norm."),
        "mean_cosine": "Cosine between the two gradients averaged over all batches, their shared noise included.",
        **estimated("expected_cosine", "The same for expected gradients: products between different batches only."),
        **estimated("relative_variance", "Trace of the gradient's covariance / squared norm of its expectation."),
        "same_as": "An earlier arm whose gradients are the same up to rounding; empty where there is none.",
        "draws": "Draws averaged in each batch; 1.",
        "batches": "Batches.",
    },
}


# ---- its figures

PROXY_LABELS = {
    "true_norm": "exact norms alone",
    "logit_norm": "logit norm",
    "log_ratio_float32": "log-ratio, float32",
    "log_ratio_bfloat16": "log-ratio, bfloat16",
}


def setting_label(cap: float | None, epsilon: float) -> str:
    """Such as "cap 16, epsilon 1e-06"; a missing cap is none."""
    return f"{'no cap' if pd.isna(cap) else f'cap {cap:.0f}'}, epsilon {epsilon:g}"


def agreement(tables: Tables) -> Picture:
    """F1 of each proxy's endpoints, with intervals."""
    rows, cosines = tables["agreement"], tables["cosines"].set_index("statistic")["value"]
    settings = [setting_label(*one) for one in zip(rows["cap"], rows["epsilon"], strict=True)]
    return picture(
        "agreement",
        "Proxies against exact score vectors",
        rows.assign(proxy=rows["proxy"].replace(PROXY_LABELS), setting=settings),
        {"f1": "F1 with the exact rule's endpoints"},
        keys=["proxy", "setting"],
        caption="F1 between the endpoints that variance_split (tau 1) takes with a proxy and those it takes with the "
        "score vectors themselves, the gradients in all parameters, on "
        f"{plural(int(rows['responses'].iloc[0]), 'response')} to different prompts ({rows['tokens'].iloc[0]:,} "
        "tokens). Random and stride have the exact rule's density and know nothing else: only what lies to the right "
        "of them is knowledge. Epsilon is what both rules add to r_ppo. Whiskers are 90 % jackknife intervals over "
        f"responses. Cosines between the exact vectors of two tokens of a response are {number(cosines['mean'])} on "
        f"average and {number(cosines['mean_abs'])} in absolute value.",
        row="proxy",
        series="setting",
    )


def directions(tables: Tables) -> Picture:
    """Cosine, norm and relative variance of every arm's gradient, the noise floor first."""
    summary = tables["direction_summary"]
    summary = pd.concat([summary[summary["arm"] == DENSE_OTHER], summary[summary["arm"] != DENSE_OTHER]])
    titles = summary.set_index("arm")["title"]
    twins = summary[summary["same_as"] != ""]
    same = "".join(f" {row.title} has the gradients of {titles[row.same_as]}." for row in twins.itertuples())
    return picture(
        "directions",
        "Update direction against dense PPO",
        summary,
        {
            "cosine": "cosine with dense PPO",
            "expected_cosine": "cosine of expectations",
            "norm_ratio": "norm / dense PPO's",
            "relative_variance": "relative variance",
        },
        keys=["arm", "title"],
        caption="The gradient of each arm's policy loss on a batch, as it would train at the threshold it starts with, "
        f"beside dense PPO's: cosine on the same batch, mean over {summary['batches'].iloc[0]} batches; cosine of the "
        "two expected gradients, estimated between different batches only, so that noise which both share does not "
        "count (an interval below 1 is bias); ratio of norms; variance over batches in units of the squared expected "
        "gradient (the smaller, the surer is the direction of one batch). The first line is dense PPO against itself "
        "on another batch: a cosine means nothing without it. Whiskers are 90 % intervals over batches, and may leave "
        f"the panel.{same}",
        row="title",
        logarithmic=["norm_ratio", "relative_variance"],
        around_one=["cosine", "expected_cosine", "norm_ratio"],
    )


# ---- its section of the page


def show(shown: Shown) -> list[Block]:
    """What it ran on, the densities, and its figures."""
    counts, left_out = shown.record["counts"], dict(shown.record["arms_left_out"])
    words = (
        f"Rollouts of {shown.reference}, seed {shown.seed}, after training: {counts['responses']:,} responses "
        f"({counts['tokens']:,} tokens) in {shown.record['settings']['batches']} batches, mean reward "
        f"{number(counts['mean_reward'])}."
    )
    others = [f"{name} ({reason})" for name, reason in left_out.items() if reason != NO_RULE]
    if others:
        words += f" Arms left out of the update directions: {', '.join(others)}."
    words += " The numbers are this one policy's; intervals cover responses or batches, not training seeds."
    rows = shown.tables["density"]
    rows = rows[rows["default"]]
    shares = ["density", "criterion", "cap", "end"]
    body = [[*row[:3], *map(percentage, row[3:])] for row in rows[["rule", "score", "rollout", *shares]].to_numpy()]
    inside, (low, high) = int(rows["density"].between(*CLAIMED_BAND).sum()), map(percentage, CLAIMED_BAND)
    caption = (
        "Every rule and score with default parameters: endpoints over tokens, and shares of groups by what closed "
        "them. Rules that choose a given share of tokens (entropy, random) have the density of variance_split with the "
        f"unit score. {inside} of {len(rows)} have a density within the claimed {low} to {high}."
    )
    head = ["Rule", "Score", "Rollouts", "Density", *(f"Closed by {name}" for name in shares[1:])]
    return [Text(words), Table("Density of each rule", caption, head, body), *shown.figures]


STUDY = Study(
    name="grouping",
    title="Study: what the grouping rules do",
    nav="Grouping study",
    order=60,
    parameters=Parameters,
    measure=measure,
    columns=COLUMNS,
    words=frozenset({"rollout", "rule", "score", "proxy", "statistic", "arm", "title", "same_as"}),
    figures=lambda tables: [make(tables) for make in (agreement, directions)],
    show=show,
)
