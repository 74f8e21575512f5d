"""What the study is asked to do: the options of its command line."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput

COMMAND = "grouping.py"


@dataclass(frozen=True)
class Options:
    """One study.

    Attributes:
        policy, critic: Hugging Face folders of a trained run. task: folder of the built task. out: where results go.
        arms: folder of arm files.
        batches: batches of rollouts, at least 4. prompts: distinct ones in a batch. responses: to each of them.
        exact: responses whose exact score vectors are computed, at most one for each prompt.
        temperature, gamma, lam: of the training. seed: of prompts and responses.
    """

    policy: Path
    critic: Path
    task: Path
    out: Path
    arms: Path
    batches: int
    prompts: int
    responses: int
    exact: int
    temperature: float
    gamma: float
    lam: float
    seed: int

    def __post_init__(self) -> None:
        for name, low in {"batches": 4, "prompts": 1, "responses": 1, "exact": 2, "seed": 0}.items():
            if getattr(self, name) < low:
                raise BadInput(COMMAND, f"--{name}", getattr(self, name), f"write at least {low}.")
        if self.exact > self.batches * self.prompts:
            mend = f"write at most {self.batches * self.prompts}, one for each prompt."
            raise BadInput(COMMAND, "--exact", self.exact, mend)
        # Written so that NaN, for which every comparison is false, is refused too.
        if not 0.0 < self.temperature < float("inf"):
            raise BadInput(COMMAND, "--temperature", self.temperature, "write a number above 0.")
        if not 0.0 < self.gamma <= 1.0:
            raise BadInput(COMMAND, "--gamma", self.gamma, "keep it above 0 and at most 1.")
        if not 0.0 <= self.lam <= 1.0:
            raise BadInput(COMMAND, "--lam", self.lam, "keep it between 0 and 1.")
        if not any(self.arms.glob("*.yaml")):
            raise BadInput(COMMAND, "--arms", str(self.arms), "name a folder that holds arm files.")

    @property
    def sizes(self) -> dict[str, Any]:
        """Everything but folders, as plain data."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Path)}


def parse(arguments: Sequence[str], description: str) -> Options:
    """Options of a command line.

    Raises:
        BadInput: a number is out of range, or the folder of arms holds none.
    """
    parser = argparse.ArgumentParser(prog=COMMAND, description=description)
    add = parser.add_argument
    add("--policy", type=Path, required=True, help="Hugging Face folder of the trained policy")
    add("--critic", type=Path, required=True, help="folder of its critic (train.save_critic: true)")
    add("--task", type=Path, required=True, help="folder of the built task")
    add("--out", type=Path, required=True, help="folder for tables, figures and study.json")
    add("--arms", type=Path, default=REPOSITORY / "benchmarks" / "arms", help="folder of arm files")
    add("--batches", type=int, default=24, help="batches, each like a training step; at least 4")
    add("--prompts", type=int, default=16, help="prompts in a batch")
    add("--responses", type=int, default=8, help="responses to a prompt")
    add("--exact", type=int, default=48, help="responses whose exact score vectors are computed")
    add("--temperature", type=float, default=1.0, help="of the sampling, above 0")
    add("--gamma", type=float, default=1.0, help="discount of the training")
    add("--lam", type=float, default=1.0, help="lambda of the training")
    add("--seed", type=int, default=1, help="of prompts and responses")
    return Options(**vars(parser.parse_args(arguments)))


def max_response_tokens(task: Path) -> int:
    """The longest response of a built task.

    Raises:
        BadInput: its card is missing or does not say.
    """
    card = task / "card.json"
    try:
        return int(json.loads(card.read_text(encoding="utf-8"))["spec"]["max_response_tokens"])
    except FileNotFoundError as error:
        raise BadInput(card, "file", None, "build the task first.") from error
    except (ValueError, KeyError, TypeError) as error:
        mend = f"build the task again ({type(error).__name__}: {error})."
        raise BadInput(card, "spec.max_response_tokens", None, mend) from error
