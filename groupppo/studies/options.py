"""What a study is asked to do: the options of the command lines."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput


@dataclass(frozen=True)
class RolloutOptions:
    """What every study on rollouts of trained policies is asked.

    Attributes:
        critic: Hugging Face folder of a trained run. task: folder of the built task. out: where results go.
        arms: folder of arm files.
        batches: batches of rollouts, at least 4. prompts: distinct ones in a batch. responses: to each of them.
        temperature, gamma, lam: of the training. seed: of prompts and responses.
    """

    critic: Path
    task: Path
    out: Path
    arms: Path
    batches: int
    prompts: int
    responses: int
    temperature: float
    gamma: float
    lam: float
    seed: int

    command: ClassVar[str]
    least: ClassVar[Mapping[str, int]] = {"batches": 4, "prompts": 1, "responses": 1, "seed": 0}

    def __post_init__(self) -> None:
        for name, low in self.least.items():
            if getattr(self, name) < low:
                raise self.wrong(name, f"write at least {low}.")
        # Written so that NaN, for which every comparison is false, is refused too.
        if not 0.0 < self.temperature < float("inf"):
            raise self.wrong("temperature", "write a number above 0.")
        if not 0.0 < self.gamma <= 1.0:
            raise self.wrong("gamma", "keep it above 0 and at most 1.")
        if not 0.0 <= self.lam <= 1.0:
            raise self.wrong("lam", "keep it between 0 and 1.")
        if not any(self.arms.glob("*.yaml")):
            raise self.wrong("arms", "name a folder that holds arm files.")

    def wrong(self, name: str, hint: str) -> BadInput:
        """The error that names an option and its value."""
        value = getattr(self, name)
        return BadInput(self.command, f"--{name}", str(value) if isinstance(value, Path) else value, hint)

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the models by what each of them is."""
        return {"critic": self.critic}

    @property
    def sizes(self) -> dict[str, Any]:
        """Everything but folders, as plain data."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Path | Mapping)}


@dataclass(frozen=True)
class Options(RolloutOptions):
    """The study of the grouping rules.

    Attributes:
        policy: Hugging Face folder of a trained run.
        exact: responses whose exact score vectors are computed, at most one for each prompt.
    """

    policy: Path
    exact: int

    command: ClassVar[str] = "grouping.py"
    least: ClassVar[Mapping[str, int]] = {**RolloutOptions.least, "exact": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exact > self.batches * self.prompts:
            raise self.wrong("exact", f"write at most {self.batches * self.prompts}, one for each prompt.")

    @property
    def models(self) -> dict[str, Path]:
        return {"policy": self.policy, **super().models}


@dataclass(frozen=True)
class StreamOptions(RolloutOptions):
    """The study of the streamed update.

    Attributes:
        checkpoints: Hugging Face folders of the policy by name, in the order of the training.
        follow: names of the arms whose endpoints are streamed.
        stale: batches on which keys and values are let grow old. actor_lr: learning rate of the steps that age them.
    """

    checkpoints: Mapping[str, Path]
    follow: tuple[str, ...]
    stale: int
    actor_lr: float

    command: ClassVar[str] = "streams.py"
    least: ClassVar[Mapping[str, int]] = {**RolloutOptions.least, "stale": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stale > self.batches:
            raise self.wrong("stale", f"write at most {self.batches}, the number of batches.")
        if not 0.0 < self.actor_lr < float("inf"):
            raise self.wrong("actor_lr", "write a number above 0.")

    @property
    def models(self) -> dict[str, Path]:
        return {**self.checkpoints, **super().models}


def parse(arguments: Sequence[str], description: str) -> Options:
    """Options of a command line.

    Raises:
        BadInput: a number is out of range, or the folder of arms holds none.
    """
    parser = _parser(Options.command, description, batches=24)
    add = parser.add_argument
    add("--policy", type=Path, required=True, help="Hugging Face folder of the trained policy")
    add("--exact", type=int, default=48, help="responses whose exact score vectors are computed")
    return Options(**vars(parser.parse_args(arguments)))


def parse_streams(arguments: Sequence[str], description: str) -> StreamOptions:
    """Options of a command line.

    Raises:
        BadInput: a number is out of range, the folder of arms holds none, or a checkpoint is not NAME=FOLDER.
    """
    parser = _parser(StreamOptions.command, description, batches=8)
    add = parser.add_argument
    add("--checkpoint", action="append", required=True, metavar="NAME=FOLDER", help="a policy; repeat in order")
    add("--follow", nargs="+", default=["group_ppo", "stride"], help="arms whose endpoints are streamed")
    add("--stale", type=int, default=5, help="batches on which keys and values are let grow old")
    add("--actor_lr", type=float, default=1e-4, help="learning rate of the training")
    found = vars(parser.parse_args(arguments))
    checkpoints = _named_folders(found.pop("checkpoint"))
    return StreamOptions(**found | {"checkpoints": checkpoints, "follow": tuple(dict.fromkeys(found["follow"]))})


def _named_folders(words: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for word in words:
        name, sign, folder = word.partition("=")
        if not (name and sign and folder) or name in folders:
            raise BadInput(StreamOptions.command, "--checkpoint", word, "write NAME=FOLDER, each name once.")
        folders[name] = Path(folder)
    return folders


def _parser(command: str, description: str, batches: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=command, description=description)
    add = parser.add_argument
    add("--critic", type=Path, required=True, help="folder of the policy's critic (train.save_critic: true)")
    add("--task", type=Path, required=True, help="folder of the built task")
    add("--out", type=Path, required=True, help="folder for tables, figures and study.json")
    add("--arms", type=Path, default=REPOSITORY / "benchmarks" / "arms", help="folder of arm files")
    add("--batches", type=int, default=batches, help="batches, each like a training step; at least 4")
    add("--prompts", type=int, default=16, help="prompts in a batch")
    add("--responses", type=int, default=8, help="responses to a prompt")
    add("--temperature", type=float, default=1.0, help="of the sampling, above 0")
    add("--gamma", type=float, default=1.0, help="discount of the training")
    add("--lam", type=float, default=1.0, help="lambda of the training")
    add("--seed", type=int, default=1, help="of prompts and responses")
    return parser


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
        hint = f"build the task again ({type(error).__name__}: {error})."
        raise BadInput(card, "spec.max_response_tokens", None, hint) from error
