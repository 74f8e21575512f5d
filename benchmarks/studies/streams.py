"""How wrong the streamed update of GROUP-PPO is, on real rollouts, and what each way of streaming costs.

    python benchmarks/studies/streams.py \\
        --checkpoint start=results/quick/assets/starts/sorting/tiny \\
        --checkpoint trained=results/quick/runs/sorting/tiny/ppo/seed1/checkpoint \\
        --critic results/quick/runs/sorting/tiny/ppo/seed1/critic \\
        --task results/quick/assets/tasks/sorting \\
        --out results/quick/studies/streams/sorting.tiny

The streamed update lets only endpoints flow through the policy, past constant keys and values of all other tokens. Its
values are exact and its gradient is not. Policies are those of the reference arm, dense PPO, in the order of its
training; values come from its trained critic at every checkpoint, so that between checkpoints only the policy
changes. Four questions, in this order:

1. Which parameters' gradients are wrong, and by how much?
2. Does that change over the training?
3. What do a window before each endpoint or a random share of the tokens buy back, and at what cost? All tokens of an
   endpoint's own group are a window as long as the longest group: groups follow each other without gaps.
4. Kept keys and values grow old with every optimizer step of the same batch. How fast does that hurt?

One process, one thread, float32. The folder gets tables (their columns: groupppo/studies/stream_tables.py), study.json
with what was run, and figures/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoTokenizer

from groupppo.config import load_arm
from groupppo.errors import BadInput, GroupPPOError
from groupppo.studies.arms import GroupArm, group_arms, group_updates
from groupppo.studies.figures import STREAM_PLANS, write_study_figures
from groupppo.studies.models import load_critic, load_policy
from groupppo.studies.options import StreamOptions, parse_streams
from groupppo.studies.record import Clock, peak_bytes, write_record
from groupppo.studies.sampled import Sampled, draw_batches, draw_prompts
from groupppo.studies.staleness import stale_rows
from groupppo.studies.stream_curves import (
    Curve,
    cost_table,
    expected_cosines,
    group_table,
    measure_curve,
    progress_table,
    staleness_table,
)
from groupppo.studies.streams import Endpoints
from groupppo.studies.tables import FIGURES, write_table
from groupppo.update.passes import LiveRows

WINDOWS = (1, 2, 4, 8, 16)
SHARES = (0.05, 0.1, 0.25, 0.5)
WAYS = (LiveRows(), *(LiveRows(window=size) for size in WINDOWS), *(LiveRows(share=size) for size in SHARES))
STEPS = (0, 1, 2, 4, 8)


def main(arguments: Sequence[str]) -> None:
    """Run the study with the command line's arguments.

    Raises:
        BadInput: a folder is missing or is not what it should be, a number is out of range, or an arm has no endpoints
            that could be streamed.
    """
    options = parse_streams(arguments, (__doc__ or "").splitlines()[0])
    torch.set_num_threads(1)
    clock = Clock()
    options.out.mkdir(parents=True, exist_ok=True)
    arms = followed(options)
    rows, stale, expected, counts = [], [], {}, {}

    for name, folder in options.checkpoints.items():
        policy = load_policy(folder, torch.float32)
        with clock.stage(f"rollouts of {name}"):
            sampled = roll_out(options, policy, folder)
            counts[name] = sampled.counts()
        for arm in arms:
            place = {"checkpoint": name, "arm": arm.name, "title": arm.title}
            endpoints, densities = streamed_endpoints(options, sampled, arm)
            with clock.stage(f"bias of {arm.name} at {name}"):
                curve = measure_curve(policy, endpoints, WAYS, options.temperature)
            rows.append(curve.rows.assign(**place, density=curve.rows["batch"].map(densities)))
            expected |= {(name, arm.name, *way): found for way, found in expected_cosines(curve, WAYS).items()}
            if folder == list(options.checkpoints.values())[-1]:
                with clock.stage(f"staleness of {arm.name} at {name}"):
                    stale.append(aged(options, policy, endpoints, curve).assign(**place))

    with clock.stage("figures"):
        measured = pd.concat(rows, ignore_index=True)
        tables = {
            "stream_groups": group_table(measured),
            "stream_costs": cost_table(measured, expected),
            "stream_progress": progress_table(measured),
            "stream_staleness": staleness_table(pd.concat(stale, ignore_index=True)),
        }
        for name, table in tables.items():
            write_table(options.out, name, table)
        write_study_figures(tables, options.out / FIGURES, STREAM_PLANS)

    write_record(options, Path(__file__), arguments, {"counts": counts}, clock)
    print(f"{options.out}: {sum(clock.seconds.values()):.0f} s, peak {peak_bytes() / 1e9:.2f} GB")


def followed(options: StreamOptions) -> list[GroupArm]:
    """The arms that were asked for.

    Raises:
        BadInput: there is no such arm, it is not about groups, or its loss counts all tokens, so that all would flow.
    """
    arms, left_out = group_arms(load_arm(file) for file in sorted(options.arms.glob("*.yaml")))
    known = {arm.name: arm for arm in arms if arm.density_from is None}
    for name in options.follow:
        if name not in known:
            reason = left_out.get(name, f"write one of: {', '.join(known)}.")
            raise BadInput(options.command, "--follow", name, reason)
        if known[name].settings.get("spread") == "group":
            raise BadInput(options.command, "--follow", name, "its loss counts all tokens; write an arm of endpoints.")
    return [known[name] for name in options.follow]


def roll_out(options: StreamOptions, policy: Any, folder: Path) -> Sampled:
    critic, tokenizer = load_critic(options.critic), AutoTokenizer.from_pretrained(folder)
    return draw_batches(policy, policy, critic, tokenizer, draw_prompts(options), options, options.batches)


def streamed_endpoints(
    options: StreamOptions, sampled: Sampled, arm: GroupArm
) -> tuple[list[Endpoints], dict[int, float]]:
    """Every batch's endpoints with the weights of the arm's loss, and their density by batch."""
    updates = [group_updates([arm], tokens, options.gamma, options.lam)[arm.name] for tokens in sampled.tokens]
    endpoints = [Endpoints.of(rollouts, update) for rollouts, update in zip(sampled.rollouts, updates, strict=True)]
    return endpoints, {number: update.density for number, update in enumerate(updates)}


def aged(options: StreamOptions, policy: Any, endpoints: Sequence[Endpoints], curve: Curve) -> pd.DataFrame:
    chosen = endpoints[: options.stale]
    return pd.DataFrame(stale_rows(policy, chosen, curve.gradients, STEPS, options.actor_lr, options.temperature))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GroupPPOError as error:
        sys.exit(str(error))
