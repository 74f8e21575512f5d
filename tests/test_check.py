"""What `groupppo validate`, a plan and a job refuse: what verl would refuse or misread once a run has begun."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from groupppo.check import check, notes
from groupppo.config import REPOSITORY, load_benchmark
from groupppo.errors import BadInput
from groupppo.verl.compose import Canvas, Cell, compose

SHIPPED = REPOSITORY / "benchmarks"
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Files of a small matrix: PPO, GRPO and GROUP-PPO."""
    for name in ("arms", "models", "tasks", "studies"):
        shutil.copytree(SHIPPED / name, tmp_path / name, ignore=shutil.ignore_patterns("*.jsonl"))
    for name in ("quick.yaml", "claims.yaml", "profile.yaml"):
        shutil.copy(SHIPPED / name, tmp_path / name)
    return tmp_path


def edit(file: Path, key: str, value: object) -> None:
    data = node = yaml.safe_load(file.read_text())
    *parents, last = key.split("/")
    for part in parents:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    file.write_text(yaml.safe_dump(data, sort_keys=False))


def test_every_file_of_the_repository_passes() -> None:
    known: dict[Path, list[BadInput]] = {}
    for file in sorted(SHIPPED.rglob("*.yaml")):
        assert check(file, known) == [], file


# A file, its key, a value, and how the fault of the whole benchmark begins.
WRONG: dict[str, tuple[str, str, Any, str]] = {
    "an unknown key of verl": ("arms/ppo.yaml", f"verl/{ACTOR}.optim.lrr", 1e-5, f"verl.{ACTOR}.optim.lrr"),
    "a misspelt parameter of groups": (
        "arms/group_ppo.yaml",
        "verl/algorithm.group_params.group_max_sise",
        8,
        "verl.algorithm.group_params.group_max_sise",
    ),
    "groups of nothing": (
        "arms/group_ppo.yaml",
        "verl/algorithm.group_params.group_max_size",
        0,
        "verl.algorithm.group_params.group_max_size",
    ),
    "text for a rate": ("arms/ppo.yaml", f"verl/{ACTOR}.optim.lr", "1e-5", f"verl.{ACTOR}.optim.lr"),
    "a rate of nothing": ("arms/ppo.yaml", f"verl/{ACTOR}.optim.lr", 0.0, f"verl.{ACTOR}.optim.lr"),
    "a number for a truth": ("arms/ppo.yaml", f"verl/{ACTOR}.use_kl_loss", 1, f"verl.{ACTOR}.use_kl_loss"),
    "half an epoch": ("arms/ppo.yaml", f"verl/{ACTOR}.ppo_epochs", 0.5, f"verl.{ACTOR}.ppo_epochs"),
    "a value from the environment": ("arms/ppo.yaml", f"verl/{ACTOR}.kl_loss_type", "${oc.env:HOME}", f"verl.{ACTOR}"),
    "code": ("arms/ppo.yaml", f"verl/{ACTOR}.optim._target_", "os.system", f"verl.{ACTOR}.optim._target_"),
    "an unknown estimator": ("arms/grpo.yaml", "verl/algorithm.adv_estimator", "grpoo", "verl.algorithm.adv_estimator"),
    "an unknown aggregation": ("arms/ppo.yaml", f"verl/{ACTOR}.loss_agg_mode", "token_mean", f"verl.{ACTOR}.loss_agg"),
    "an unknown aggregation of the critic": (
        "arms/ppo.yaml",
        "verl/critic.loss_agg_mode",
        "token_mean",
        "verl.critic.loss_agg_mode",
    ),
    "an unknown loss": (
        "arms/ppo.yaml",
        f"verl/{ACTOR}.policy_loss.loss_mode",
        "gspoo",
        f"verl.{ACTOR}.policy_loss.loss_mode",
    ),
    "an unknown KL": ("arms/ppo.yaml", f"verl/{ACTOR}.kl_loss_type", "kll", f"verl.{ACTOR}.kl_loss_type"),
    "PPO without a critic": ("arms/ppo.yaml", "verl/critic.enable", False, "verl.critic.enable"),
    "GRPO with a critic": ("arms/grpo.yaml", "verl/critic.enable", True, "verl.critic.enable"),
    "a mode of routing that verl's dataclass refuses": (
        "arms/ppo.yaml",
        f"verl/{ACTOR}.router_replay.mode",
        "R9",
        f"verl.{ACTOR}.router_replay.mode",
    ),
    "more prompts than there are": ("quick.yaml", "train/prompts_per_step", 30_000, "train.prompts_per_step"),
    "GRPO with one response": ("quick.yaml", "train/responses_per_prompt", 1, "train.responses_per_prompt"),
    "responses beyond the positions": ("tasks/sorting.yaml", "max_response_tokens", 5000, "max_response_tokens"),
    "a seed of 33 bits": ("quick.yaml", "seeds", [2**32], "seeds.0"),
    "a negative seed of a model": ("models/tiny.yaml", "seed", -1, "seed"),
    "heads that do not divide": ("models/tiny.yaml", "params/hidden_size", 65, "params.hidden_size"),
    "an odd head": ("models/tiny.yaml", "params/hidden_size", 66, "params.hidden_size"),
    "key heads that do not divide": ("models/tiny.yaml", "params/key_value_heads", 3, "params.key_value_heads"),
    "a model beyond its memory": ("models/tiny.yaml", "params/hidden_size", 65536, "resources.mem_mb"),
    "an unknown factory": ("models/tiny.yaml", "factory", "tiny_qwen", "factory"),
    "an unknown generator": ("tasks/sorting.yaml", "generator", "sortin", "generator"),
    "an unknown rule": (
        "arms/group_ppo.yaml",
        "verl/algorithm.group_params.rule",
        "varience_split",
        "verl.algorithm.group_params.rule",
    ),
    "another name than its file's": ("quick.yaml", "name", "slow", "name"),
    "more sampled prompts than tests": ("quick.yaml", "evaluation/sampled_prompts", 5000, "evaluation.sampled_prompts"),
    "a start above its limit": ("tasks/sorting.yaml", "warmstart/max_accuracy", 0.1, "warmstart.max_accuracy"),
    "a start that looks at more than dev": ("tasks/sorting.yaml", "warmstart/eval_prompts", 9999, "warmstart.eval_pr"),
    "a file elsewhere": ("quick.yaml", "profile", "../profile.yaml", "profile"),
    "a title of blanks": ("quick.yaml", "title", "  ", "title"),
    "a title of two lines": ("arms/ppo.yaml", "title", "a\nb", "title"),
    "a name with a line break": ("quick.yaml", "reference", "ppo\n", "reference"),
}


@pytest.mark.parametrize(("file", "key", "value", "place"), WRONG.values(), ids=WRONG)
def test_what_a_run_would_choke_on_is_refused_with_file_key_value_and_hint(
    home: Path, file: str, key: str, value: object, place: str
) -> None:
    edit(home / file, key, value)
    faults = check(home / "quick.yaml")
    assert faults, "accepted"
    assert Path(faults[0].file) == home / file
    assert faults[0].key.startswith(place)
    assert faults[0].mend
    # Undone, nothing is wrong: it was this.
    shutil.copy(SHIPPED / file, home / file)
    assert check(home / "quick.yaml") == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"verl/{ACTOR}.optim.lr", 1.0e-5),
        (f"verl/{ACTOR}.entropy_coeff", 0.001),  # verl's default is the whole number 0, its type a float
        (f"verl/{ACTOR}.loss_agg_mode", "seq-mean-token-sum"),
        (f"verl/{ACTOR}.policy_loss.loss_mode", "gspo"),
        (f"verl/{ACTOR}.optim.min_lr_ratio", 0.1),  # its default is null
        (f"verl/{ACTOR}.optim.lr_scheduler_type", "cosine"),
    ],
)
def test_what_verl_takes_is_accepted(home: Path, key: str, value: object) -> None:
    edit(home / "arms" / "ppo.yaml", key, value)
    assert check(home / "quick.yaml") == []


def test_text_for_a_number_is_answered_with_the_number(home: Path) -> None:
    edit(home / "arms" / "ppo.yaml", f"verl/{ACTOR}.optim.lr", "1e-5")
    edit(home / "quick.yaml", "train/critic_lr", "3e-4")
    hints = {fault.key: fault.mend for fault in check(home / "quick.yaml")}
    assert hints[f"verl.{ACTOR}.optim.lr"].startswith("write 1.0e-05: YAML takes 1e-5 for text.")
    assert hints["train.critic_lr"].startswith("write 0.0003: YAML takes 3e-4 for text.")


def test_a_job_refuses_what_the_plan_refuses(home: Path) -> None:
    """The same function composes a cell in both; the matrix's own keys are named as the matrix names them."""
    edit(home / "quick.yaml", "train/responses_per_prompt", 1)
    benchmark = load_benchmark(home / "quick.yaml")
    cells = [cell_of(benchmark, arm) for arm in ("grpo", "ppo")]
    with pytest.raises(BadInput) as error:
        compose(cells[0])
    assert (error.value.file, error.value.key) == (str(home / "quick.yaml"), "train.responses_per_prompt")
    assert compose(cells[1]).actor_rollout_ref.rollout.n == 1  # dense PPO compares no responses


def cell_of(benchmark: Any, arm: str, task: str = "sorting", model: str = "tiny") -> Cell:
    nowhere = Path("none")
    return Cell(
        task=benchmark.tasks[task],
        model=benchmark.models[model],
        arm=benchmark.arms[arm],
        seed=1,
        train=benchmark.train,
        task_folder=nowhere,
        start=nowhere,
        out=nowhere,
        device=benchmark.device,
        ranks=benchmark.models[model].ranks,
        matrix=benchmark.source,
        density_source=nowhere if benchmark.arms[arm].density_from else None,
    )


@pytest.mark.parametrize("name", ["study", "origin_gsm8k"])
def test_cells_composed_one_after_the_other_are_those_composed_alone(name: str) -> None:
    benchmark, canvas = load_benchmark(SHIPPED / f"{name}.yaml"), Canvas()
    arms = [*benchmark.plans()[0].arms][:6]
    task, model = benchmark.plans()[0].task, benchmark.plans()[0].model
    for arm in [*arms, *reversed(arms)]:
        cell = cell_of(benchmark, arm, task, model)
        assert OmegaConf.to_yaml(compose(cell, canvas)) == OmegaConf.to_yaml(compose(cell)), arm


def test_a_cell_that_is_refused_leaves_nothing_for_the_next() -> None:
    benchmark, canvas = load_benchmark(SHIPPED / "quick.yaml"), Canvas()
    good = cell_of(benchmark, "ppo")
    bad = replace(good, arm=replace(good.arm, verl=good.arm.verl | {"critic.cliprange_value": 0.3, "critic.absent": 1}))
    with pytest.raises(BadInput, match=r"critic\.absent"):
        compose(bad, canvas)
    assert OmegaConf.to_yaml(compose(good, canvas)) == OmegaConf.to_yaml(compose(good))


def test_an_arm_that_clips_where_nothing_can_be_clipped_is_noted_and_not_refused(home: Path) -> None:
    edit(home / "arms" / "ppo.yaml", f"verl/{ACTOR}.clip_ratio_high", 0.28)
    assert check(home / "quick.yaml") == []
    [note] = notes(load_benchmark(home / "quick.yaml"))
    assert f"ppo sets {ACTOR}.clip_ratio_high, which cannot act" in note
    for key, value in (("mini_batches", 2), ("epochs", 2)):
        edit(home / "quick.yaml", f"train/{key}", value)
        assert notes(load_benchmark(home / "quick.yaml")) == []
        edit(home / "quick.yaml", f"train/{key}", 1)
    assert notes(load_benchmark(home / "quick.yaml")) == [note]
    shutil.copy(SHIPPED / "arms" / "ppo.yaml", home / "arms")
    assert notes(load_benchmark(home / "quick.yaml")) == []
