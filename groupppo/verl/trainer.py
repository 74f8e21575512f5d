"""The trainer `group_ppo`: verl's synchronous PPO trainer with grouping, fixed order and stage measurement.

Every arm runs through it. With `algorithm.adv_estimator=group_ppo` the advantage stage groups tokens, and each update
gets its own masks: verl's stock losses count the tokens of `response_mask` and divide by those of `loss_mask`.
"""

import copy
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.protocol import DataProto
from verl.trainer.ppo.ray_trainer import apply_kl_penalty
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.utils.padding import response_from_nested

from groupppo.algorithm import GroupParams
from groupppo.algorithm.loss import LossMask
from groupppo.algorithm.metrics import critic_metrics, dense_metrics, log_prob_gap
from groupppo.config import GROUPED
from groupppo.measure.stages import AllocatorProbe, ProcessTreeProbe, StageMeter
from groupppo.records.folders import RunFolder
from groupppo.records.storage import write_whole
from groupppo.verl.compose import responses_together
from groupppo.verl.endings import watch_engines
from groupppo.verl.engine import ActorWorker, CriticWorker
from groupppo.verl.group_stage import Grouped, GroupStage
from groupppo.verl.passes import (
    POLICY_WEIGHTS,
    VALUE_WEIGHTS,
    Asks,
    FlopsOfStep,
    asking,
    call_with,
    get_fields,
    mask_fields,
    put_fields,
)
from groupppo.verl.rollouts import SingleServerClient, register_replicas

logger = logging.getLogger(__name__)

FULL_MASK = "full_response_mask"

# What a worker call needs of the batch. Without this verl fetches and copies every field for it, chat messages and
# dataset columns included, which for a tiny model costs as much as the forward pass.
_TOKENS = ("input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask")
_POLICY_UPDATE = (*_TOKENS, "old_log_probs", "advantages")
_VALUE_UPDATE = (*_TOKENS, "values", "returns")


@dataclass(frozen=True)
class Step:
    """What is decided of one training step, before its updates.

    Attributes:
        early: whether the passes before the update compute endpoints only.
        grouped: its groups, with nested_mask, the valid tokens in verl's form; None where it trains on every token.
        policy_masks: the policy's masks, where they differ from the critic's, which is updated first.
        controller: of the KL penalty in the reward, moved by this step; None without one.
        lengths: tokens of each response. metrics: of tokens, groups and critic.
    """

    early: bool = False
    grouped: Grouped | None = None
    nested_mask: Tensor | None = None
    policy_masks: dict[str, Tensor] | None = None
    controller: Any = None
    lengths: list[int] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


@register_trainer("group_ppo")
class GroupPPOTrainer(PPOTrainerSync):
    # The base class compares `trainer_mode` with "sync" in many places and assigns the registered name to it.
    trainer_mode = property(lambda self: "sync", lambda self, name: None)
    kl_ctrl_in_reward: Any  # verl's; there where the reward has a KL penalty

    def __init__(self, config: Any):
        register_replicas()
        super().__init__(config)
        self.group_stage: GroupStage | None = None
        algorithm = config.algorithm
        # Whether advantages are an estimate over groups; else they are those of an estimator of verl's.
        self.over_groups = algorithm.adv_estimator == GROUPED
        if self.over_groups or algorithm.group_params.rule is not None:
            params = GroupParams.from_config(dict(algorithm.group_params), stock=not self.over_groups)
            self.group_stage = GroupStage(params, float(algorithm.gamma), float(algorithm.lam), seed=config.data.seed)
        self.asks = Asks(None if self.group_stage is None else self.group_stage.params, responses_together(config))
        if self.asks.own_old:  # verl's stages then take the rollouts' log-probabilities along, and nothing uses them
            self.config.algorithm.rollout_correction.bypass_mode = True
        actor = config.actor_rollout_ref.actor
        updates = config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
        if self.asks.keeps and updates > 1:
            logger.warning(
                "kv=reuse with %d optimizer steps per batch: from the second on, keys and values are stale; "
                "write kv: recompute, or one mini-batch and one epoch (the study `streams` measures what it costs)",
                updates,
            )
        self.run_folder = Path(config.trainer.default_local_dir)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self.meter = self._meter(config.trainer.device)
        self.flops = FlopsOfStep(config, self.asks)
        self._fit_began = 0.0
        self._policy_fields, self._value_fields = [*_POLICY_UPDATE], [*_VALUE_UPDATE]
        if self.use_reference_policy:
            self._policy_fields.append("ref_log_prob")
        weighted = self.group_stage is not None and self.group_stage.params.weights != "none"
        if weighted or config.algorithm.rollout_correction.rollout_is is not None:
            self._policy_fields.append(POLICY_WEIGHTS)
        if weighted:
            self._value_fields.append(VALUE_WEIGHTS)
        self.this_step = Step()

    def _meter(self, device: str) -> StageMeter:
        file = RunFolder(self.run_folder).stages
        if device == "cpu":
            return StageMeter(file, ProcessTreeProbe(settle=lambda: self.actor_rollout_wg.reset_peak_memory()))
        probe = AllocatorProbe(
            reset=lambda: self.actor_rollout_wg.reset_peak_memory(),
            read=lambda: self.actor_rollout_wg.read_peak_memory(),
        )
        return StageMeter(file, probe, synchronise=lambda: self.actor_rollout_wg.synchronise())

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = ray.remote(CriticWorker if role == Role.Critic else ActorWorker)

    # ---- one order of prompts, responses and seeds for all arms

    def _fetch_one_gen_batch(self) -> TensorDict:
        batch = super()._fetch_one_gen_batch()
        uids = np.array([f"step{self.global_steps:06d}-prompt{row:05d}" for row in range(len(batch))], dtype=object)
        batch.update(tu.get_tensordict({"uid": uids}))
        requests = self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n
        one_server = len(self.llm_server_manager.get_replicas()) == 1
        tu.assign_non_tensor_data(batch, "requests_in_step", requests if one_server else 0)
        return batch

    def get_llm_client(self) -> LLMServerClient:
        manager = self.llm_server_manager
        return manager.get_client(SingleServerClient) if len(manager.get_replicas()) == 1 else manager.get_client()

    # ---- stages: every method below is a stage of verl's step, measured and otherwise stock

    def fit(self, agent_loop_manager: Any) -> None:
        self._fit_began = time.perf_counter()
        startup = time.time() - psutil.Process().create_time()
        write_whole(self.run_folder / "started.json", json.dumps({"startup_seconds": startup}))
        if self.config.actor_rollout_ref.rollout.name == "vllm":
            servers = self.llm_server_manager
            watch_engines(dict(zip(servers.server_addresses, servers.server_handles, strict=True)))
        try:
            super().fit(agent_loop_manager)
        finally:
            if self.meter.in_step:
                self.meter.end_step(completed=False)

    def on_step_begin(self) -> None:
        self.meter.begin_step(self.global_steps)
        super().on_step_begin()

    def prepare_step(self) -> dict[str, Any]:
        self.meter.begin_stage("gen")
        return super().prepare_step()

    def on_sample_end(self) -> None:
        super().on_sample_end()
        self.meter.end_stage()

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.meter.stage("old_log_prob"):
            self.this_step = Step(early=self._group_early(batch))
            with asking(batch, self.asks.log_probs(self.this_step.early)):
                if self.asks.own_old:
                    return super()._compute_old_log_prob(batch, metrics)  # no pass
                return call_with(batch, _TOKENS, super()._compute_old_log_prob, metrics)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.meter.stage("ref"), asking(batch, self.asks.gathered_if(self.this_step.early)):
            return call_with(batch, _TOKENS, super()._compute_ref_log_prob, metrics)

    def _compute_values(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.meter.stage("values"), asking(batch, self.asks.gathered_if(self.this_step.early)):
            return call_with(batch, _TOKENS, super()._compute_values, metrics)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        step = Step(early=self.this_step.early)
        with self.meter.stage("adv"):
            full = get_fields(batch, [self._mask_name(step)])[self._mask_name(step)]
            if not self.over_groups:
                batch = super()._compute_advantage(batch, metrics)
            if self.group_stage is not None:
                try:
                    batch, step = self._group(self.group_stage, batch, step, full, metrics)
                except Exception as error:
                    batch = self._fall_back(error, batch, full, metrics)
        try:
            step = self._measured(batch, step)
        except Exception as error:
            if step.grouped is None:
                raise
            with self.meter.stage("fallback"):
                batch = self._fall_back(error, batch, full, metrics)
            step = self._measured(batch, Step(early=step.early))
        # Nothing can fail any more: from here on the step is trained on.
        if self.group_stage is not None and step.grouped is not None:
            self.group_stage.accept(step.grouped)
        if step.controller is not None:
            self.kl_ctrl_in_reward = step.controller
        tokens, endpoints = (int(step.metrics[f"group/total_{name}"]) for name in ("tokens", "endpoints"))
        flops = self.flops.count(batch.tags, step.lengths, step.grouped, step.early)
        self.meter.count(tokens=tokens, endpoints=endpoints, flops=flops)
        self.this_step = step
        return batch

    def _update_critic(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with (
            self.meter.stage("update_critic"),
            asking(batch, self.asks.gathered_if(self.asks.gathers(self.this_step.grouped))),
        ):
            return call_with(batch, self._value_fields, super()._update_critic, metrics)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        step = self.this_step
        with (
            self.meter.stage("update_actor"),
            asking(batch, self.asks.policy_update(step.grouped, self.global_steps)),
        ):
            if step.policy_masks is not None and step.nested_mask is not None:
                put_fields(batch, step.policy_masks, step.nested_mask)
            batch = call_with(batch, self._policy_fields, super()._update_actor, metrics)
            if self.asks.keeps:
                self.actor_rollout_wg.drop_keys_values()
            return batch

    def _save_checkpoint(self) -> None:
        with self.meter.stage("save_checkpoint"):
            if self.group_stage is not None:  # first: verl ends by naming this checkpoint as one to resume from
                folder = self.run_folder / f"global_step_{self.global_steps}"
                folder.mkdir(parents=True, exist_ok=True)
                self.group_stage.save(folder)
            super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps and self.group_stage is not None:
            trainer = self.config.trainer
            given = trainer.resume_from_path if trainer.resume_mode == "resume_path" else None
            self.group_stage.load(Path(given or self.run_folder / f"global_step_{self.global_steps}"))

    def on_step_end(self) -> None:
        with self.meter.stage("update_weights"):
            super().on_step_end()
        self.meter.end_step()

    # ---- the algorithm

    @staticmethod
    def _mask_name(step: Step) -> str:
        """verl's field with all valid tokens."""
        return FULL_MASK if step.early or step.grouped is not None else "response_mask"

    def _fall_back(self, error: Exception, batch: KVBatchMeta, full: Tensor, metrics: dict[str, Any]) -> KVBatchMeta:
        """Make this step a dense one, whatever of its groups is written; raises the error with on_error=raise."""
        if self.config.algorithm.group_params.on_error == "raise":
            raise error
        logger.error(
            "step %d: grouping failed, the step trains on every token (on_error=dense)",
            self.global_steps,
            exc_info=error,
        )
        mask = full.to_padded_tensor(0)
        weighted = VALUE_WEIGHTS in self._value_fields
        put_fields(batch, mask_fields(LossMask(mask, mask, mask if weighted else None), mask), full)
        if not self.over_groups:
            return batch  # whose advantages are verl's already
        dense = copy.copy(self)  # the same trainer, with another config
        dense.config = OmegaConf.merge(self.config, {"algorithm": {"adv_estimator": "gae"}})
        return super(GroupPPOTrainer, dense)._compute_advantage(batch, metrics)

    def _group(
        self, stage: GroupStage, batch: KVBatchMeta, step: Step, full: Tensor, metrics: dict[str, Any]
    ) -> tuple[KVBatchMeta, Step]:
        """Choose the batch's tokens and write advantages, returns and the critic's masks back."""
        penalised = self.config.algorithm.use_kl_in_reward and self.over_groups
        fields = {"rm_scores", "old_log_probs", "ref_log_prob", "values", *stage.fields()}
        if self.over_groups or not self.config.algorithm.use_kl_in_reward:
            fields -= {"token_level_rewards"}  # which verl's own stage writes where they are not the scores
        nested = get_fields(batch, sorted(fields))
        if "sum_pi_squared" in fields:  # verl writes this one over prompt and response
            nested["sum_pi_squared"] = response_from_nested(nested.pop("sum_pi_squared"), full)
        data = DataProto(batch=nested.to_padded_tensor())
        mask = data.batch["response_mask"] = full.to_padded_tensor(0)
        data.batch["token_level_scores"] = data.batch["rm_scores"]
        if "token_level_rewards" not in fields:
            data.batch["token_level_rewards"] = data.batch["rm_scores"]
        controller = None
        if penalised:
            controller = copy.copy(self.kl_ctrl_in_reward)
            data, kl_metrics = apply_kl_penalty(data, kl_ctrl=controller, kl_penalty=self.config.algorithm.kl_penalty)
            metrics.update(kl_metrics)
        grouped = stage.run(dict(data.batch.items()), batch.keys, self.global_steps)
        losses = grouped.losses
        written = {"advantages": losses.advantages, "returns": losses.returns, FULL_MASK: mask}
        written |= mask_fields(losses.value, mask)
        if penalised:
            written["token_level_rewards"] = data.batch["token_level_rewards"]
        batch = put_fields(batch, written, full)
        policy_masks = None if losses.policy.equals(losses.value) else mask_fields(losses.policy, mask)
        return batch, replace(step, grouped=grouped, nested_mask=full, policy_masks=policy_masks, controller=controller)

    # ---- what passes and updates compute

    def _group_early(self, batch: KVBatchMeta) -> bool:
        """Write endpoints before any pass where the rule knows them; whether the passes of this step may gather."""
        stage = self.group_stage
        if stage is None or not stage.early or self.config.algorithm.use_kl_in_reward:
            return False
        nested = get_fields(batch, ["response_mask"])["response_mask"]
        full = nested.to_padded_tensor(0)
        endpoints = stage.group_early(full.bool(), batch.keys, self.global_steps).endpoints
        gathers = self.asks.gathers_at(int(endpoints.sum()) / max(1, int(full.sum())))
        if gathers:
            put_fields(batch, mask_fields(LossMask(endpoints, endpoints), full) | {FULL_MASK: full}, nested)
        return gathers

    # ---- records

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        if self.this_step.policy_masks is not None:
            # verl took these over the policy's mask, on most of which there is no return.
            for name in [name for name in metrics if name.startswith(("critic/returns/", "critic/vf_explained_var"))]:
                del metrics[name]
        metrics.update(self.this_step.metrics)
        elapsed = time.perf_counter() - self._fit_began
        row = step_row(global_steps, metrics, step_seconds=timing_raw["step"], elapsed=elapsed)
        with RunFolder(self.run_folder).steps.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _measured(self, batch: KVBatchMeta, step: Step) -> Step:
        """The step with lengths, counts of tokens, statistics, and the gap between rollout and trainer."""
        mask_name, grouped = self._mask_name(step), step.grouped
        names = [mask_name, "old_log_probs"]
        if self.use_critic and (grouped is None or not self.over_groups):
            names += ["values", "returns"]
        if self.config.actor_rollout_ref.rollout.calculate_log_probs and not self.asks.own_old:
            names.append("rollout_log_probs")
        data = get_fields(batch, names).to_padded_tensor()
        mask = data[mask_name].bool()
        lengths = mask.sum(-1).tolist()
        if self.group_stage is None or grouped is None:
            measured = dense_metrics(int(mask.sum()))
            if self.group_stage is not None:
                measured["group/fallbacks"] = 1
        else:
            measured = self.group_stage.metrics(grouped)
            policy = grouped.losses.policy.counts
            updated = policy.bool() & (grouped.losses.advantages != 0) if self.asks.skips else policy
            densities = [int(counts.sum()) / int(mask.sum()) for counts in (updated, policy)]
            measured["group/update_density"] = densities[0] if self.asks.gathers(grouped) else 1.0
            measured["group/log_prob_density"] = densities[1] if step.early else 1.0
            if step.early:
                mask = policy  # nothing is known of the others
            elif self.over_groups:
                measured |= critic_metrics(grouped.tokens.get("values"), self.group_stage.dense_returns(grouped), mask)
        if "returns" in names:
            measured |= critic_metrics(data["values"], data["returns"], mask)
        if "rollout_log_probs" in names:
            measured |= log_prob_gap(data["rollout_log_probs"], data["old_log_probs"], mask)
        return replace(step, lengths=lengths, metrics=measured)


def step_row(step: int, metrics: Mapping[str, Any], *, step_seconds: float, elapsed: float) -> dict[str, Any]:
    """One row of `steps.jsonl`: what verl logs, under verl's names, and what the tables read, under ours.

    Args:
        step: training step from 1. metrics: all metrics of the step; those that are not numbers are left out.
        step_seconds: seconds of the whole step. elapsed: seconds since training began, start-up excluded.
    """
    row: dict[str, Any] = {"step": step}
    for name, value in metrics.items():
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, bool | int | float):
            row[name] = number if math.isfinite(number) else None  # JSON has no other numbers
    row["reward/mean"] = row["critic/score/mean"]
    row["tokens/response"] = row["group/total_tokens"]
    row["tokens/total"] = row["perf/total_num_tokens"]
    row["throughput/tokens_per_second"] = row["tokens/total"] / step_seconds
    row["elapsed_seconds"] = elapsed
    return row
