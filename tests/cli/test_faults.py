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
ACTOR, ROLLOUT, GROUPS = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm.group_params"
OPTIM = f"{ACTOR}.optim"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a small matrix: PPO, GRPO and GROUP-PPO."""
    home = tmp_path_factory.mktemp("benchmarks")
    for name in ("arms", "models", "tasks", "claims", "studies"):
        shutil.copytree(SHIPPED / name, home / name, ignore=shutil.ignore_patterns("*.jsonl"))
    for name in ("quick.yaml", "pilot.yaml", "profile.yaml"):
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


WRONG: dict[str, tuple[str, str, Any, str]] = {
    "an unknown key of verl": ("arms/ppo", f"verl/{ACTOR}.optim.lrr", 1e-5, ""),
    "a misspelt parameter of groups": ("arms/group_ppo", f"verl/{GROUPS}.group_max_sise", 8, ""),
    "groups of nothing": ("arms/group_ppo", f"verl/{GROUPS}.group_max_size", 0, ""),
    "an unknown rule": ("arms/group_ppo", f"verl/{GROUPS}.rule", "varience_split", ""),
    "text for a rate": ("arms/ppo", f"verl/{ACTOR}.optim.lr", "1e-5", ""),
    "a rate of nothing": ("arms/ppo", f"verl/{ACTOR}.optim.lr", 0.0, ""),
    "a number for a truth": ("arms/ppo", f"verl/{ACTOR}.use_kl_loss", 1, ""),
    "half an epoch": ("arms/ppo", f"verl/{ACTOR}.ppo_epochs", 0.5, ""),
    "a value from the environment": ("arms/ppo", f"verl/{ACTOR}.kl_loss_type", "${oc.env:HOME}", f"verl.{ACTOR}"),
    "code": ("arms/ppo", f"verl/{ACTOR}.optim._target_", "os.system", ""),
    "an unknown estimator": ("arms/grpo", "verl/algorithm.adv_estimator", "grpoo", ""),
    "an unknown aggregation": ("arms/ppo", f"verl/{ACTOR}.loss_agg_mode", "token_mean", ""),
    "an unknown aggregation of the critic": ("arms/ppo", "verl/critic.loss_agg_mode", "token_mean", ""),
    "an unknown loss": ("arms/ppo", f"verl/{ACTOR}.policy_loss.loss_mode", "gspoo", ""),
    "an unknown KL": ("arms/ppo", f"verl/{ACTOR}.kl_loss_type", "kll", ""),
    "PPO without a critic": ("arms/ppo", "verl/critic.enable", False, ""),
    "GRPO with a critic": ("arms/grpo", "verl/critic.enable", True, ""),
    "a mode of routing that verl's dataclass refuses": ("arms/ppo", f"verl/{ACTOR}.router_replay.mode", "R9", ""),
    "more prompts than there are": ("quick", "train/prompts_per_step", 30_000, ""),
    "GRPO with one response": ("quick", "train/responses_per_prompt", 1, ""),
    "responses beyond the positions": ("tasks/sorting", "max_response_tokens", 5000, ""),
    "a seed of 33 bits": ("quick", "seeds", [2**32], "seeds.0"),
    "a negative seed of a model": ("models/tiny", "seed", -1, ""),
    "heads that do not divide": ("models/tiny", "params/hidden_size", 65, ""),
    "an odd head": ("models/tiny", "params/hidden_size", 66, ""),
    "key heads that do not divide": ("models/tiny", "params/key_value_heads", 3, ""),
    "a model beyond its memory": ("models/tiny", "params/hidden_size", 65536, "resources.mem_mb"),
    "an unknown factory": ("models/tiny", "factory", "tiny_qwen", ""),
    "an unknown generator": ("tasks/sorting", "generator", "sortin", ""),
    "another name than its file's": ("quick", "name", "slow", ""),
    "more sampled prompts than tests": ("quick", "evaluation/sampled_prompts", 5000, ""),
    "a start above its limit": ("tasks/sorting", "warmstart/max_accuracy", 0.1, ""),
    "a start that looks at more than dev": ("tasks/sorting", "warmstart/eval_prompts", 9999, ""),
    "a file elsewhere": ("quick", "profile", "../profile.yaml", ""),
    "a title of blanks": ("quick", "title", "  ", ""),
    "a title of two lines": ("arms/ppo", "title", "a\nb", ""),
    "a name with a line break": ("quick", "reference", "ppo\n", ""),
}


@pytest.mark.parametrize(("file", "key", "value", "place"), WRONG.values(), ids=WRONG)
def test_what_a_run_would_choke_on_is_refused_with_file_key_value_and_hint(
    home: Path, file: str, key: str, value: object, place: str
) -> None:
    edit(home / f"{file}.yaml", key, value)
    faults = faults_of(home)
    assert faults, "accepted"
    assert Path(faults[0].file) == home / f"{file}.yaml"
    assert faults[0].key.startswith(place or key.replace("/", "."))
    assert faults[0].hint


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
        {f"{OPTIM}.lr": 1.0e-5, f"{ACTOR}.entropy_coeff": 0.001},  # verl's default is the whole number 0
        {f"{ACTOR}.loss_agg_mode": "seq-mean-token-sum"},
        {f"{OPTIM}.min_lr_ratio": 0.1, f"{OPTIM}.lr_scheduler_type": "cosine"},  # the default of the first is null
        {f"{OPTIM}.betas": [0.9, 0.95], f"{OPTIM}.override_optimizer_config.momentum": 0.9},
        {f"{ACTOR}.clip_ratio": 0.1, f"{ACTOR}.clip_ratio_low": None, f"{ACTOR}.clip_ratio_high": None},
        {f"{ROLLOUT}.engine_kwargs.vllm.swap_space": 4},
        {f"{ROLLOUT}.engine_kwargs": {"vllm": {"swap_space": 4}}},
        {"actor_rollout_ref.model.override_config.attn_implementation": "eager"},
    ],
)
def test_what_a_user_of_verl_writes_is_accepted(home: Path, keys: dict[str, Any]) -> None:
    edit(home / "quick.yaml", "train/verl", keys)
    assert faults_of(home) == []


def test_an_arm_without_a_rule_may_take_another_loss(home: Path) -> None:
    edit(home / "arms" / "ppo.yaml", f"verl/{ACTOR}.policy_loss.loss_mode", "gspo")
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
    wrong = "pilot.yaml" if key == "profile" else "profile.yaml"
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
