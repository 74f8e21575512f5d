"""The trainer between verl's store and its workers: which masks each update gets, and what a failed grouping leaves.

verl's store is a dictionary here and its workers are names; everything else is the trainer of a run and verl's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transfer_queue
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData, NonTensorStack, TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.protocol import DataProto
from verl.trainer.ppo.metric_utils import compute_data_metrics
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from groupppo.algorithm import GroupParams
from groupppo.algorithm.loss import GroupBatch, LossMask
from groupppo.config import REPOSITORY, load_arm
from groupppo.errors import BadInput
from groupppo.verl import trainer as trainer_module
from groupppo.verl.compose import compose
from groupppo.verl.group_stage import STATE_FILE, GroupStage
from groupppo.verl.passes import POLICY_WEIGHTS, VALUE_WEIGHTS
from groupppo.verl.trainer import FULL_MASK, GroupPPOTrainer, Step
from tests.verl.conftest import MakeCell

MASKS = ("1111111111", "1", "0000", "1100111011", "0001111", "1111111111111111")
MASK_FIELDS = ("response_mask", "loss_mask")
PROMPT_LENGTHS = (4, 4, 1, 1, 7, 7)
KEYS = [f"step000001-prompt{row // 2:05d}_{row % 2}_0" for row in range(len(MASKS))]


@dataclass
class Store:
    """Fields of the batch in verl's form: nested tensors, one part for each response."""

    fields: dict[str, Any]

    def get(self, *, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        found = {name: self.fields[name] for name in select_fields if name in self.fields}
        return TensorDict(found, batch_size=len(keys))

    def put(self, *, keys: list[str], partition_id: str, fields: TensorDict) -> KVBatchMeta:
        self.fields |= dict(fields.items())
        return batch_meta()

    def padded(self, name: str) -> Tensor:
        return self.fields[name].to_padded_tensor(0)

    def masks(self) -> LossMask:
        return LossMask(self.padded("response_mask").bool(), self.padded("loss_mask").bool())


def batch_meta() -> KVBatchMeta:
    return KVBatchMeta(partition_id="train", keys=KEYS, tags=[{"is_padding": False}] * len(KEYS))


def made_up() -> dict[str, Any]:
    """What rollout, old log-probs, reference and critic have written when the advantage stage begins."""
    generator = torch.Generator().manual_seed(0)

    def nested(numbers: list[Tensor]) -> Tensor:
        return torch.nested.as_nested_tensor(numbers, layout=torch.jagged)

    def random(extra: tuple[int, ...] = (0,) * len(MASKS)) -> Tensor:
        return nested([torch.rand(len(m) + more, generator=generator) for m, more in zip(MASKS, extra, strict=True)])

    mask = nested([torch.tensor([int(valid) for valid in text]) for text in MASKS])
    names = ("rm_scores", "values", "old_log_probs", "rollout_log_probs", "ref_log_prob", "entropy")
    uids = NonTensorStack(*(NonTensorData(key.rsplit("_", 2)[0]) for key in KEYS))
    return {
        **{name: random() for name in names},
        "response_mask": mask,
        "loss_mask": mask,
        "sum_pi_squared": random(PROMPT_LENGTHS),  # verl has this one for the prompt too
        "uid": uids,
    }


@dataclass
class Stand:
    """A trainer on a store, and what its workers would have seen."""

    trainer: GroupPPOTrainer
    store: Store
    seen: dict[str, LossMask] = field(default_factory=dict)

    def step(self, number: int = 1, *, early: bool = False) -> dict[str, Any]:
        """Advantage stage and updates of one step, grouped `early` or not; returns verl's metrics with ours."""
        metrics: dict[str, Any] = {}
        self.store.fields = made_up()
        self.trainer.global_steps = number
        self.trainer.this_step = Step(early=early and self.trainer._group_early(batch_meta()))
        self.trainer.meter.begin_step(number)
        batch = self.trainer._compute_advantage(batch_meta(), metrics)
        batch = self.trainer._update_critic(batch, metrics)
        self.trainer._update_actor(batch, metrics)
        self.trainer.meter.end_step()
        return metrics | self.trainer.this_step.metrics

    def expected(self, step: int = 1) -> GroupBatch:
        """What a stage of its own makes of the same batch."""
        fresh = GroupStage(GroupParams.from_config(dict(self.config.algorithm.group_params)), 1.0, 1.0, seed=1)
        fields = made_up()
        batch = {name: fields[name].to_padded_tensor(0) for name in fields.keys() - {"uid", "sum_pi_squared"}}
        return fresh.run(batch | {"token_level_rewards": batch["rm_scores"]}, KEYS, step).losses

    @property
    def config(self) -> DictConfig:
        return self.trainer.config


MakeStand = Callable[..., Stand]


@pytest.fixture
def make_stand(make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> MakeStand:
    def make(arm: str = "group_ppo", **keys: object) -> Stand:
        arm_file = load_arm(REPOSITORY / "benchmarks" / "arms" / f"{arm}.yaml")
        said = {key.replace("__", "."): value for key, value in keys.items()}
        own = {key: value for key, value in said.items() if not key.startswith("trainer.")}
        cell = make_cell(replace(arm_file, verl=arm_file.verl | {"algorithm.group_params.update": "masked"} | own))
        if arm in ("ppo", "grpo"):
            cell = replace(cell, arm=replace(arm_file, verl=arm_file.verl | own))
        config = compose(cell)
        for key in said.keys() - own.keys():  # the launcher's
            OmegaConf.update(config, key, said[key])
        stand = Stand(GroupPPOTrainer(config), Store({}))
        stand.trainer.actor_rollout_wg = SimpleNamespace(reset_peak_memory=lambda: None)
        monkeypatch.setattr(transfer_queue, "kv_batch_get", stand.store.get)
        monkeypatch.setattr(transfer_queue, "kv_batch_put", stand.store.put)
        for name in ("critic", "actor"):

            def update(self: object, batch: KVBatchMeta, metrics: dict[str, Any], name: str = name) -> KVBatchMeta:
                stand.seen[name] = stand.store.masks()
                return batch

            monkeypatch.setattr(PPOTrainerSync, f"_update_{name}", update)
        return stand

    return make


GROUP = "algorithm__group_params__"


@pytest.mark.parametrize("normalizer", ["endpoints", "tokens"])
@pytest.mark.parametrize("spread", ["endpoint", "group"])
def test_each_update_gets_its_own_masks(make_stand: MakeStand, spread: str, normalizer: str) -> None:
    stand = make_stand(**{f"{GROUP}spread": spread, f"{GROUP}loss_normalizer": normalizer, f"{GROUP}group_max_size": 3})
    for number in (1, 2):  # nothing of one step's masks is left in the next one
        stand.step(number)
        expected = stand.expected()
        assert stand.seen["critic"].equals(expected.value)
        assert stand.seen["actor"].equals(expected.policy)
        assert torch.equal(stand.store.padded("advantages"), expected.advantages)
        assert torch.equal(stand.store.padded("returns"), expected.returns)
        assert torch.equal(stand.store.padded(FULL_MASK), made_up()["response_mask"].to_padded_tensor(0))
    assert stand.seen["actor"].equals(stand.seen["critic"]) == (spread == "endpoint")


def test_a_dense_arm_keeps_the_masks_that_verl_made(make_stand: MakeStand) -> None:
    stand = make_stand("ppo")
    stand.step()
    full = made_up()["response_mask"].to_padded_tensor(0).bool()
    for name in ("critic", "actor"):
        assert stand.seen[name].equals(LossMask(full, full))


def test_what_verl_writes_over_prompt_and_response_is_read_at_the_response(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = make_stand(**{f"{GROUP}score": "logit_norm"})
    stage = stand.trainer.group_stage
    read: dict[str, Tensor] = {}
    run = stage.run
    monkeypatch.setattr(stage, "run", lambda batch, keys, step: read.update(batch) or run(batch, keys, step))
    stand.step()
    for row, (whole, prompt) in enumerate(zip(made_up()["sum_pi_squared"].unbind(), PROMPT_LENGTHS, strict=True)):
        length = len(MASKS[row])
        # The logits of a position are about the token after it.
        assert torch.equal(read["sum_pi_squared"][row, :length], whole[prompt - 1 : prompt - 1 + length])
        assert not torch.equal(read["sum_pi_squared"][row, :length], whole[prompt : prompt + length])
    assert torch.equal(read["values"], made_up()["values"].to_padded_tensor(0))


# ---- metrics of the critic

ALL_TOKENS = "/all_tokens"


def of_critic(metrics: dict[str, Any]) -> dict[str, float]:
    return {name.removesuffix(ALL_TOKENS): value for name, value in metrics.items() if name.endswith(ALL_TOKENS)}


def verls(stand: Stand, mask: Tensor) -> dict[str, float]:
    """verl's own metrics of the critic on the store's batch, over a mask."""
    fields = ("rm_scores", "values", "returns", "advantages")
    tensors = {name: stand.store.padded(name) for name in fields} | {"response_mask": mask}
    tensors |= dict.fromkeys(("token_level_scores", "token_level_rewards"), tensors["rm_scores"])
    prompt = torch.ones(len(mask), 1, dtype=torch.long)
    tensors |= {"prompts": prompt, "responses": mask, "attention_mask": torch.cat([prompt, mask], dim=1)}
    found = compute_data_metrics(DataProto(TensorDict(tensors, batch_size=len(mask))))
    return {
        name: value
        for name, value in found.items()
        if name.startswith(("critic/values", "critic/returns", "critic/vf"))
    }


def test_metrics_of_the_critic_over_all_tokens_are_verls_in_dense_ppo_whatever_the_groups(
    make_stand: MakeStand,
) -> None:
    full = made_up()["response_mask"].to_padded_tensor(0)
    dense = make_stand("ppo")
    expected = of_critic(dense.step())
    assert expected == verls(dense, full)
    singleton = make_stand(**{f"{GROUP}rule": "singleton"})
    assert of_critic(singleton.step()) == verls(singleton, full) == expected
    grouped = make_stand(**{f"{GROUP}group_max_size": 3})
    assert of_critic(grouped.step()) == expected
    assert verls(grouped, grouped.seen["critic"].counts.long()) != expected  # what verl logs for a grouped arm
    shared = make_stand(**{f"{GROUP}spread": "group", f"{GROUP}on_error": "dense"})
    assert of_critic(shared.step()) == expected


def test_they_are_left_out_where_values_are_known_at_endpoints_alone(make_stand: MakeStand) -> None:
    stand = make_stand(**{f"{GROUP}rule": "stride", f"{GROUP}update": "gathered", f"{GROUP}group_max_size": 3})
    assert of_critic(stand.step())
    assert not of_critic(stand.step(early=True))


# ---- a grouping that fails


def fails_at(number: int, stand: Stand, stock: Callable[..., Any], first: Callable[..., None]) -> Callable[..., Any]:
    """A function that fails once in one step, after doing `first`."""
    done = []

    @wraps(stock)
    def breaking(*args: Any, **kwargs: Any) -> Any:
        if stand.trainer.global_steps == number and not done:
            done.append(number)
            first(*args, **kwargs)
            raise ArithmeticError("a rule that breaks")
        return stock(*args, **kwargs)

    return breaking


def nothing(*_: Any, **__: Any) -> None: ...


def torn(batch: KVBatchMeta, fields: dict[str, Tensor], nested_mask: Tensor) -> None:
    """Half of a write: the masks without the advantages."""
    trainer_module.put_fields.__wrapped__(batch, {name: fields[name] for name in MASK_FIELDS}, nested_mask)


def whole(batch: KVBatchMeta, fields: dict[str, Tensor], nested_mask: Tensor) -> None:
    trainer_module.put_fields.__wrapped__(batch, fields, nested_mask)


PLACES = {
    "the rule": ("trainer.group_stage.run", nothing),
    "the write, nothing written": ("put_fields", nothing),
    "the write, masks written": ("put_fields", torn),
    "the write, all written": ("put_fields", whole),
    "the statistics": ("trainer.group_stage.metrics", nothing),
}


def break_step(stand: Stand, number: int, monkeypatch: pytest.MonkeyPatch, place: str = "the rule") -> None:
    path, first = PLACES[place]
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, stand) if owners else trainer_module
    monkeypatch.setattr(owner, name, fails_at(number, stand, getattr(owner, name), first))


@pytest.mark.parametrize("place", PLACES)
def test_a_step_whose_grouping_fails_is_verls_dense_ppo_and_the_next_one_is_grouped_again(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    dense = make_stand("ppo")
    dense.step()
    advantages, masks = dense.store.padded("advantages"), dense.seen
    stand = make_stand(**{f"{GROUP}on_error": "dense"})
    stage = stand.trainer.group_stage
    break_step(stand, 2, monkeypatch, place)
    counted, thresholds = [], [stage.threshold]
    for number in (1, 2, 3):
        counted.append(stand.step(number)["group/fallbacks"])
        thresholds.append(stage.threshold)
        fell_back = number == 2
        assert torch.equal(stand.store.padded("advantages"), advantages) == fell_back
        assert stand.seen["critic"].equals(masks["critic"]) == fell_back
        assert stand.seen["actor"].equals(masks["actor"]) == fell_back
    assert counted == [0, 1, 0]
    assert thresholds[0] != thresholds[1] == thresholds[2] != thresholds[3]
    assert stand.config.algorithm.adv_estimator == "group_ppo"
    assert "step 2: grouping failed" in caplog.text
    assert "ArithmeticError: a rule that breaks" in caplog.text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("arm", "dense_arm"), [("ppo_bernoulli_ht", "ppo"), ("grpo_bernoulli_ht", "grpo")])
def test_a_step_whose_selection_fails_is_a_dense_one_of_the_same_estimator_each_token_weighted_once(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch, place: str, arm: str, dense_arm: str
) -> None:
    dense = make_stand(dense_arm)
    dense.step()
    advantages, returns, masks = (*map(dense.store.padded, ("advantages", "returns")), dense.seen)
    stand = make_stand(arm, **{f"{GROUP}on_error": "dense"})
    break_step(stand, 2, monkeypatch, place)
    for number in (1, 2, 3):
        fell_back = number == 2
        assert stand.step(number)["group/fallbacks"] == fell_back
        assert torch.equal(stand.store.padded("advantages"), advantages)
        assert torch.equal(stand.store.padded("returns"), returns)
        assert stand.seen["actor"].equals(masks["actor"]) == fell_back
        for name in (POLICY_WEIGHTS, VALUE_WEIGHTS):
            assert torch.equal(stand.store.padded(name), masks["actor"].counts.float()) == fell_back


@pytest.mark.parametrize("penalised", [True, False])
def test_a_rule_that_reads_rewards_reads_those_that_verls_estimator_did(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch, penalised: bool
) -> None:
    own = {f"{GROUP}rule": "variance_split", f"{GROUP}rule_advantage": "residual"}
    stand = make_stand("ppo", **own, algorithm__use_kl_in_reward=penalised)
    stage = stand.trainer.group_stage
    read: list[Tensor] = []
    stock = stage.run
    monkeypatch.setattr(
        stage, "run", lambda batch, *rest: (read.append(batch["token_level_rewards"]), stock(batch, *rest))[1]
    )
    stand.step()
    scores = stand.store.padded("rm_scores")
    assert torch.equal(read[0], stand.store.padded("token_level_rewards") if penalised else scores)
    assert torch.equal(read[0], scores) != penalised


@pytest.mark.parametrize("place", ["the rule", "the statistics"])
def test_without_a_fallback_the_error_goes_on(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    stand = make_stand()
    break_step(stand, 1, monkeypatch, place)
    with pytest.raises(ArithmeticError, match="a rule that breaks"):
        stand.step()


@pytest.mark.parametrize("place", ["the rule", "the statistics"])
def test_a_step_moves_the_kl_controller_once_grouped_or_not(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    keys = {"algorithm__use_kl_in_reward": True, "algorithm__kl_ctrl__type": "adaptive"}
    moved = {}
    for name in ("dense", "grouped", "fallen back"):
        own = {} if name == "dense" else {f"{GROUP}on_error": "dense"}
        stand = make_stand("ppo" if name == "dense" else "group_ppo", **keys, **own)
        before = stand.trainer.kl_ctrl_in_reward.value
        if name == "fallen back":
            break_step(stand, 1, monkeypatch, place)
        assert stand.step()["group/fallbacks"] == (name == "fallen back")
        moved[name] = stand.trainer.kl_ctrl_in_reward.value / before
    assert moved["dense"] != 1.0
    assert moved["grouped"] == moved["fallen back"] == moved["dense"]


# ---- kept keys and values


@pytest.mark.parametrize(("kv", "epochs", "warned"), [("reuse", 2, True), ("reuse", 1, False), ("recompute", 2, False)])
def test_kept_keys_that_go_stale_within_a_batch_are_warned_of(
    make_stand: MakeStand, caplog: pytest.LogCaptureFixture, kv: str, epochs: int, warned: bool
) -> None:
    own = {f"{GROUP}update": "streamed", f"{GROUP}kv": kv, "actor_rollout_ref__actor__ppo_epochs": epochs}
    make_stand(**own)
    assert ("optimizer steps per batch" in caplog.text) == warned


# ---- checkpoints


@pytest.fixture
def verl_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl's part of saving and loading, reduced to its order: the latest step is named when all is written."""

    def save(self: PPOTrainerSync) -> None:
        folder = Path(self.config.trainer.default_local_dir)
        (folder / f"global_step_{self.global_steps}").mkdir(exist_ok=True)
        named = folder / "latest_checkpointed_iteration.txt"
        complete = (folder / f"global_step_{self.global_steps}" / STATE_FILE).is_file()
        named.write_text(f"{self.global_steps} {complete}")

    def load(self: PPOTrainerSync) -> None:
        self.global_steps = 0 if self.config.trainer.resume_mode == "disable" else 2

    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", save)
    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", load)


def test_a_run_that_is_resumed_goes_on_with_the_threshold_of_its_checkpoint_and_one_that_starts_anew_does_not(
    make_stand: MakeStand, verl_saves: None
) -> None:
    stand = make_stand()
    for number in (1, 2):
        stand.step(number)
    stand.trainer.meter.begin_step(3)
    stand.trainer._save_checkpoint()
    # It is named as the latest when the threshold is in it.
    assert (stand.trainer.run_folder / "latest_checkpointed_iteration.txt").read_text() == "2 True"
    threshold = stand.trainer.group_stage.threshold
    assert threshold != 1.0
    folder = stand.trainer.run_folder
    elsewhere = {"trainer__resume_from_path": str(folder / "global_step_2")}
    for mode, keys, goes_on_with in (
        ("auto", {"trainer__default_local_dir": str(folder)}, threshold),
        ("disable", {"trainer__default_local_dir": str(folder)}, 1.0),
        ("resume_path", elsewhere | {"trainer__default_local_dir": str(folder / "new")}, threshold),
    ):
        other = make_stand(trainer__resume_mode=mode, **keys).trainer
        assert other.group_stage.threshold == 1.0
        other._load_checkpoint()
        assert other.group_stage.threshold == goes_on_with


def test_a_checkpoint_of_a_dense_run_cannot_be_gone_on_with(make_stand: MakeStand, verl_saves: None) -> None:
    resumed = make_stand(trainer__resume_mode="auto").trainer
    with pytest.raises(BadInput, match=STATE_FILE):
        resumed._load_checkpoint()
