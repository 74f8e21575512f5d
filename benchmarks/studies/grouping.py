"""What the grouping rules of GROUP-PPO do on real rollouts of a trained policy.

    python benchmarks/studies/grouping.py \\
        --policy results/quick/runs/sorting/tiny/ppo/seed1/checkpoint \\
        --critic results/quick/runs/sorting/tiny/ppo/seed1/critic \\
        --task results/quick/assets/tasks/sorting \\
        --out results/quick/studies/grouping/sorting.tiny

Policy and critic are those of the reference arm, dense PPO, so that no grouping rule has shaped the rollouts that it is
studied on. Four questions, in this order:

1. How dense are the endpoints of every rule, and what closes the groups?
2. The public code takes the gap between rollout and trainer log-probabilities for a score vector. What does its density
   follow, then?
3. The rule compares norms of sums of score vectors, and every implementation puts a proxy in their place. How well do
   the proxies' endpoints agree with those of the vectors themselves?
4. Where does each arm's policy update point, beside dense PPO's on the same batch (bias), and how much does it scatter
   from batch to batch (variance)?

One process, one thread, float32 except where it says otherwise. The folder gets tables (their columns:
groupppo/studies/tables.py), study.json with what was run, and figures/.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from groupppo.algorithm import GroupParams
from groupppo.config import load_arm
from groupppo.errors import GroupPPOError
from groupppo.studies.agreement import ExactScores, agreement_table, cosine_table, score_table
from groupppo.studies.arms import GroupArm, averaged_update, dense_update, group_arms, group_updates
from groupppo.studies.densities import density_table, published_table
from groupppo.studies.directions import (
    Compared,
    direction_summary,
    direction_table,
    inner_products,
    loss_gradients,
)
from groupppo.studies.figures import write_study_figures
from groupppo.studies.gram import token_gram
from groupppo.studies.models import load_critic, load_policy
from groupppo.studies.options import Options, parse
from groupppo.studies.pooling import pool, select
from groupppo.studies.record import Clock, peak_bytes, write_record
from groupppo.studies.rollouts import response_log_probs
from groupppo.studies.sampled import Sampled, draw_batches, draw_prompts
from groupppo.studies.tables import DENSE, FIGURES, write_table

# A quarter of the batches is enough for the densities of bfloat16 rollouts, their only use.
COARSE_SHARE = 4
# The real gaps of float32 rollouts are about 1e-7 nats; the largest factor takes them past any that numerics make.
FACTORS = (0.0, *(10.0**power for power in range(-8, 7)))
CONTROL_DRAWS = 64
RANDOM_DRAWS = 16


def main(arguments: Sequence[str]) -> None:
    """Run the study with the command line's arguments.

    Raises:
        BadInput: a folder is missing or is not what it should be, or a number is out of range.
    """
    options = parse(arguments, (__doc__ or "").splitlines()[0])
    torch.set_num_threads(1)
    clock = Clock()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {}

    with clock.stage("rollouts"):
        fine, coarse = roll_out(options)

    with clock.stage("densities"):
        pooled = {"float32": pool(fine.tokens), "bfloat16": pool(coarse.tokens)}
        tables["density"] = density_table(pooled)
        tables["published"] = published_table(pooled, {"float32": FACTORS, "bfloat16": (1.0,)})

    with clock.stage("exact score vectors"):
        scores = exact_scores(options, fine)
        caps, epsilons = (None, GroupParams.group_max_size), (GroupParams.group_epsilon, 0.0)
        tables["agreement"] = agreement_table(scores, caps=caps, epsilons=epsilons, draws=CONTROL_DRAWS)
        tables["scores"] = score_table(scores)
        tables["cosines"] = cosine_table(scores.grams)

    with clock.stage("update directions"):
        arms, left_out = group_arms(load_arm(file) for file in sorted(options.arms.glob("*.yaml")))
        inner, compared = gradients(options, fine, arms)
        tables["directions"] = direction_table(inner, compared)
        tables["direction_summary"] = direction_summary(inner, compared)

    with clock.stage("figures"):
        for name, rows in tables.items():
            write_table(options.out, name, rows)
        write_study_figures(tables, options.out / FIGURES)

    found = {"counts": fine.counts(), "arms": [arm.name for arm in compared], "arms_left_out": left_out}
    write_record(options, Path(__file__), arguments, found, clock)
    print(f"{options.out}: {sum(clock.seconds.values()):.0f} s, peak {peak_bytes() / 1e9:.2f} GB")


def roll_out(options: Options) -> tuple[Sampled, Sampled]:
    """Batches as training steps make them, drawn in float32, and the first of them drawn again in bfloat16.

    The trainer's side, values included, is float32 for both.
    """
    examples = draw_prompts(options)
    policy, critic = load_policy(options.policy, torch.float32), load_critic(options.critic)
    tokenizer = AutoTokenizer.from_pretrained(options.policy)

    def draw(sampler: Any, batches: int) -> Sampled:
        return draw_batches(sampler, policy, critic, tokenizer, examples, options, batches)

    coarse_policy = load_policy(options.policy, torch.bfloat16)
    return draw(policy, options.batches), draw(coarse_policy, options.batches // COARSE_SHARE)


def exact_scores(options: Options, sampled: Sampled) -> ExactScores:
    """Float64 score vectors of one response to each of the first prompts: responses to one prompt are much alike."""
    exact = load_policy(options.policy, torch.float64, attention="eager")
    coarse = load_policy(options.policy, torch.bfloat16)
    fine_parts, coarse_parts, grams = [], [], []
    for rollouts, tokens in zip(sampled.rollouts, sampled.tokens, strict=True):
        rows = torch.arange(0, len(rollouts.mask), options.responses)[: options.exact - len(grams)]
        with torch.no_grad():
            rounded = response_log_probs(coarse, rollouts, options.temperature).float()
        fine_parts.append(select(tokens, rows))
        coarse_parts.append(select(replace(tokens, rollout_log_probs=rounded), rows))
        grams += [token_gram(exact, rollouts.rows(row[None]), options.temperature) for row in rows]
        if len(grams) == options.exact:
            break
    return ExactScores(pool(fine_parts), pool(coarse_parts), grams)


def gradients(options: Options, sampled: Sampled, arms: Sequence[GroupArm]) -> tuple[np.ndarray, list[Compared]]:
    """Inner products of the gradients of dense PPO and of every arm on every batch; dense PPO comes first.

    An arm that draws its endpoints comes a second time, averaged over draws: what is left is not the luck of a draw.
    """
    policy = load_policy(options.policy, torch.float32)
    settings = {"gamma": options.gamma, "lam": options.lam}
    drawing = [arm for arm in arms if "seeds" in arm.params(density=0.5).needs]
    by_batch, densities = [], []
    for rollouts, tokens in zip(sampled.rollouts, sampled.tokens, strict=True):
        updates = {DENSE: dense_update(tokens, **settings)} | group_updates(arms, tokens, **settings)
        for arm in drawing:
            density = updates[arm.density_from].density if arm.density_from else None
            updates[averaged(arm)] = averaged_update(arm, tokens, density, draws=RANDOM_DRAWS, **settings)
        weights = [update.weights for update in updates.values()]
        by_batch.append(loss_gradients(policy, rollouts, weights, options.temperature))
        densities.append({name: update.density for name, update in updates.items()})
    titles = {DENSE: "PPO (dense)"} | {arm.name: arm.title for arm in arms}
    titles |= {averaged(arm): f"{arm.title}, mean of draws" for arm in drawing}
    draws = {averaged(arm): RANDOM_DRAWS for arm in drawing}
    compared = [
        Compared(name, titles[name], tuple(found[name] for found in densities), draws.get(name, 1))
        for name in densities[0]
    ]
    return inner_products(torch.stack(by_batch, dim=1)), compared


def averaged(arm: GroupArm) -> str:
    return f"{arm.name}_mean"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GroupPPOError as error:
        sys.exit(str(error))
