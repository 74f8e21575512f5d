"""Run the study of the streamed update with the settings of the training."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    train = benchmark.train
    checkpoints = [f"start={snakemake.input.start}", f"trained={snakemake.input.policy}"]
    options = {
        # Beside the policy, and no output of the training rule: not every arm has one.
        "critic": Path(str(snakemake.input.policy)).parent / "critic",
        "task": Path(snakemake.input.card).parent,
        "out": snakemake.output[0],
        "arms": benchmark.source.parent / "arms",
        "prompts": train.prompts_per_step,
        "responses": train.responses_per_prompt,
        "temperature": train.temperature,
        "gamma": train.gamma,
        "lam": train.lam,
        "actor_lr": train.actor_lr,
    }
    arguments = [word for folder in checkpoints for word in ("--checkpoint", folder)]
    arguments += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    runpy.run_path(snakemake.input.script)["main"](arguments)
