"""What `groupppo validate`, a plan and a job refuse: what verl would refuse or misread once a run has begun."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from groupppo.cli.check import check
from groupppo.config import REPOSITORY, load_benchmark
from groupppo.errors import BadInput
from groupppo.verl.compose import Canvas, Cell, compose

SHIPPED = REPOSITORY / "benchmarks"
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a small matrix: PPO, GRPO and GROUP-PPO."""
    home = tmp_path_factory.mktemp("benchmarks")
    for name in ("arms", "models", "tasks", "studies"):
        shutil.copytree(SHIPPED / name, home / name, ignore=shutil.ignore_patterns("*.jsonl"))
    for name in ("quick.yaml", "claims.yaml", "profile.yaml"):
        shutil.copy(SHIPPED / name, home / name)
    return home


@pytest.fixture
def home(shipped: Path) -> Iterator[Path]:
    """As it was, whatever the test before has written."""
    yield shipped
    for file in shipped.rglob("*.yaml"):
        if file.read_bytes() != (original := SHIPPED / file.relative_to(shipped)).read_bytes():
            shutil.copy(original, file)


def faults_of(home: Path, name: str = "quick.yaml") -> list[BadInput]:
    """Of a file in `home`; files that are as shipped, which the first test checks, have none."""
    same = [
        file for file in home.rglob("*.yaml") if file.read_bytes() == (SHIPPED / file.relative_to(home)).read_bytes()
    ]
    return check(home / name, {file.resolve(): [] for file in same if file != home / name})


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
    faults = faults_of(home)
    assert faults, "accepted"
    assert Path(faults[0].file) == home / file
    assert faults[0].key.startswith(place)
    assert faults[0].hint


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
    assert faults_of(home) == []


def test_text_for_a_number_is_answered_with_the_number(home: Path) -> None:
    edit(home / "arms" / "ppo.yaml", f"verl/{ACTOR}.optim.lr", "1e-5")
    edit(home / "quick.yaml", "train/critic_lr", "3e-4")
    hints = {fault.key: fault.hint for fault in faults_of(home)}
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
    assert faults_of(home) == []
    [note] = load_benchmark(home / "quick.yaml").notes()
    assert f"ppo sets {ACTOR}.clip_ratio_high, which cannot act" in note
    for key, value in (("mini_batches", 2), ("epochs", 2)):
        edit(home / "quick.yaml", f"train/{key}", value)
        assert load_benchmark(home / "quick.yaml").notes() == []
        edit(home / "quick.yaml", f"train/{key}", 1)
    assert load_benchmark(home / "quick.yaml").notes() == [note]
    shutil.copy(SHIPPED / "arms" / "ppo.yaml", home / "arms")
    assert load_benchmark(home / "quick.yaml").notes() == []


OPTIM = f"{ACTOR}.optim"


def test_a_mapping_of_keys_is_checked_key_by_key_and_gives_way_to_what_is_said_later(home: Path) -> None:
    arm = home / "arms" / "ppo.yaml"
    edit(arm, f"verl/{OPTIM}", {"lr": 3.0e-6, "min_lr_ratio": 0.5})
    edit(home / "quick.yaml", "learning_rates", {"ppo": [1.0e-5, 1.0e-4]})
    edit(home / "quick.yaml", "reference", "ppo_lr10u")
    benchmark, canvas = load_benchmark(home / "quick.yaml"), Canvas()
    for name, rate in (("ppo_lr10u", 1e-5), ("ppo_lr100u", 1e-4), ("ppo_lr10u", 1e-5)):
        optim = compose(cell_of(benchmark, name), canvas).actor_rollout_ref.actor.optim
        assert (optim.lr, optim.min_lr_ratio) == (rate, 0.5)
    assert compose(cell_of(benchmark, "grpo"), canvas).actor_rollout_ref.actor.optim.min_lr_ratio == 0.0
    for wrong, key in (({"lr": "1e-5"}, "lr"), ({"lr": -1.0}, "lr"), ({"lrr": 1.0}, "lrr")):
        edit(arm, f"verl/{OPTIM}", wrong)
        assert [fault.key for fault in check(arm)] == [f"verl.{OPTIM}.{key}"]


def test_one_arms_mapping_is_not_the_next_ones(home: Path) -> None:
    edit(home / "arms" / "ppo.yaml", f"verl/{ACTOR}", {"grad_clip": 2.0, "optim": {"min_lr_ratio": 0.5}})
    assert faults_of(home) == []
    benchmark, canvas = load_benchmark(home / "quick.yaml"), Canvas()
    for name in ("ppo", "grpo", "group_ppo", "ppo"):
        cell = cell_of(benchmark, name)
        assert OmegaConf.to_yaml(compose(cell, canvas)) == OmegaConf.to_yaml(compose(cell)), name


def test_what_one_task_hides_of_another_is_seen(home: Path) -> None:
    """A length that is right for the first task and wrong for the second."""
    edit(home / "tasks" / "chain.yaml", "max_response_tokens", 90)
    for tasks in (["sorting", "chain"], ["chain", "sorting"]):
        edit(home / "quick.yaml", "tasks", tasks)
        longest = yaml.safe_load((home / "tasks" / "sorting.yaml").read_text())["max_response_tokens"]
        edit(home / "quick.yaml", "train/verl", {"data.max_response_length": longest})
        assert [fault.key for fault in faults_of(home)] == ["data.max_response_length"]


@pytest.mark.parametrize(
    "keys",
    [
        {f"{OPTIM}.betas": [0.9, 0.95]},
        {f"{ACTOR}.clip_ratio": 0.1, f"{ACTOR}.clip_ratio_low": None, f"{ACTOR}.clip_ratio_high": None},
        {f"{ROLLOUT}.engine_kwargs.vllm.swap_space": 4},
        {f"{ROLLOUT}.engine_kwargs": {"vllm": {"swap_space": 4}}},
        {f"{OPTIM}.override_optimizer_config.momentum": 0.9},
        {"actor_rollout_ref.model.override_config.attn_implementation": "eager"},
    ],
)
def test_what_a_user_of_verl_writes_is_accepted(home: Path, keys: dict[str, Any]) -> None:
    edit(home / "quick.yaml", "train/verl", keys)
    assert faults_of(home) == []


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({f"{ACTOR}.clip_ratio": 0.1}, f"{ACTOR}.clip_ratio"),
        ({"algorithm.rollout_correction": None}, "algorithm.rollout_correction"),
        ({"trainer.total_training_steps": 3}, "trainer.total_training_steps"),
        ({"data.seed": 5}, "data.seed"),
        ({f"{ACTOR}.ppo_mini_batch_size": 0}, f"{ACTOR}.ppo_mini_batch_size"),
        ({f"{ACTOR}.optim": 3}, f"{ACTOR}.optim"),
        ({"algorithm.group_params": {"rule": "stride"}}, "algorithm.group_params.rule"),
    ],
)
def test_what_could_do_nothing_or_part_arms_is_refused(home: Path, keys: dict[str, Any], place: str) -> None:
    file = home / "arms" / "ppo.yaml"
    data = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(data | {"verl": data["verl"] | keys}))
    assert [(fault.file, fault.key) for fault in faults_of(home)] == [(str(file), f"verl.{place}")]


@pytest.mark.parametrize("estimator", ["remax", "gdpo", "optimal_token_baseline"])
def test_an_estimator_that_needs_what_no_run_has_is_refused(home: Path, estimator: str) -> None:
    edit(home / "arms" / "grpo.yaml", "verl/algorithm.adv_estimator", estimator)
    assert [fault.key for fault in faults_of(home)] == ["verl.algorithm.adv_estimator"]


def test_a_fault_of_the_matrix_is_its_own_and_no_arms(home: Path) -> None:
    edit(home / "quick.yaml", "train/verl", {"algorithm.group_params.group_max_size": 0})
    faults = faults_of(home)
    assert {fault.file for fault in faults} == {str(home / "quick.yaml")}
    assert {fault.key for fault in faults} == {"algorithm.group_params.group_max_size"}


@pytest.mark.parametrize(("file", "reward"), [("sorting", "math"), ("gsm8k", "exact"), ("gym_chain_sum", "exact")])
def test_a_reward_that_gives_nothing_for_the_right_answer_is_refused(home: Path, file: str, reward: str) -> None:
    path = home / "tasks" / f"{file}.yaml"
    assert check(path) == []
    edit(path, "reward", reward)
    assert [fault.key for fault in check(path)] == ["reward"]


@pytest.mark.parametrize("key", ["claims", "profile", "pilot"])
def test_a_file_beside_the_benchmark_is_of_its_kind_and_not_the_benchmark_itself(home: Path, key: str) -> None:
    wrong = "claims.yaml" if key == "profile" else "profile.yaml"
    edit(home / "quick.yaml", key, wrong)
    assert [fault.key for fault in faults_of(home)] == [key]
    if key != "pilot":
        edit(home / "quick.yaml", key, "quick.yaml")
        assert key in [fault.key for fault in faults_of(home)]


@pytest.mark.parametrize(
    ("verl", "noted"),
    [
        ({f"{ACTOR}.policy_loss.loss_mode": "cispo"}, True),
        ({f"{ACTOR}.policy_loss.loss_mode": "clip_cov"}, False),  # it looks at covariances
        ({"critic.cliprange_value": 0.2}, True),
        ({"critic.cliprange_value": 0.2, "critic.ppo_epochs": 4}, False),
        ({f"{ACTOR}.clip_ratio_c": 4.0, "algorithm.rollout_correction.bypass_mode": True}, False),
    ],
)
def test_only_what_clips_and_cannot_is_noted(home: Path, verl: dict[str, Any], noted: bool) -> None:
    file = home / "arms" / "ppo.yaml"
    data = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(data | {"verl": data["verl"] | verl}))
    if "critic.ppo_epochs" in verl:
        edit(home / "quick.yaml", "compares", ["critic.ppo_epochs"])
    assert bool(load_benchmark(home / "quick.yaml").notes()) == noted
