"""verl's own main with our trainer, in any folder: python -m groupppo.verl.stock KEY=VALUE...

On GPUs this is no more than

    VERL_USE_EXTERNAL_MODULES=groupppo.verl.register python -m verl.trainer.main_ppo \
        --config-path pkg://groupppo.verl.config --config-name group_ppo KEY=VALUE...

Where PyTorch finds no GPU it asks for our CPU platform, too, and sets config/cpu.yaml's keys before yours; one
training process then.
"""

import json
import os
import sys
from pathlib import Path

import torch
import yaml

from groupppo.verl import PLATFORM

CONFIG = Path(__file__).parent / "config"


def command(keys: list[str], cpu: bool) -> tuple[list[str], dict[str, str]]:
    """The program with its arguments, and the variables that it needs.

    Args:
        keys: overrides as Hydra takes them; a later one wins.
        cpu: whether to train without a GPU.
    """
    variables = {"VERL_USE_EXTERNAL_MODULES": "groupppo.verl.register"}
    own = []
    if cpu:
        variables |= {PLATFORM: "cpu"}
        fixed = yaml.safe_load((CONFIG / "cpu.yaml").read_text(encoding="utf-8"))
        # A "GPU" is a place for a training process, a CPU one for another of verl's processes.
        fixed |= {"trainer.device": "cpu", "ray_kwargs.ray_init.num_gpus": 1, "ray_kwargs.ray_init.num_cpus": 8}
        # verl starts eight of each otherwise, and every process imports it.
        fixed |= {"actor_rollout_ref.rollout.agent.num_workers": 1, "reward.num_workers": 1}
        own = [f"++{key}={json.dumps(value).replace(chr(34), '')}" for key, value in fixed.items()]
    config = ["--config-path", "pkg://groupppo.verl.config", "--config-name", "group_ppo"]
    return [sys.executable, "-m", "verl.trainer.main_ppo", *config, *own, *keys], variables


if __name__ == "__main__":
    program, variables = command(sys.argv[1:], cpu=not torch.cuda.is_available())
    os.execve(program[0], program, os.environ | variables)
