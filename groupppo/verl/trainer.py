"""The trainer `group_ppo`: verl's synchronous PPO trainer with grouping, fixed order and stage measurement.

Every arm runs through it. With a stock advantage estimator (`gae`, `grpo`) the algorithm is verl's own, untouched; with
`algorithm.adv_estimator=group_ppo` the advantage stage groups tokens, and each update gets its own masks: verl's stock
losses count the tokens of `response_mask` and divide by the number of tokens in `loss_mask` over mini-batch and ranks.
"""

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.protocol import DataProto
from verl.trainer.ppo.ray_trainer import apply_kl_penalty
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.utils.padding import response_from_nested, response_to_nested

from groupppo.grouping import GroupParams
from groupppo.loss import LossMask
from groupppo.measure.probes import AllocatorProbe, ProcessTreeProbe
from groupppo.measure.stages import Probe, StageMeter
from groupppo.metrics import dense_metrics, log_prob_gap
from groupppo.verl.agent_loop import SingleServerClient
from groupppo.verl.engine_keys import GATHERED, KEEP_BYTES, MODE, SEED, SHARE, USE_KEPT, WINDOW
from groupppo.verl.group_stage import Grouped, GroupStage
from groupppo.verl.records import append_row, step_row
from groupppo.verl.rollouts import register_replicas
from groupppo.verl.workers import ActorWorker, CriticWorker

logger = logging.getLogger(__name__)

ESTIMATOR = "group_ppo"
FULL_MASK = "full_response_mask"

# What a worker call needs of the batch. Without this verl fetches and copies every field for it, chat messages and
# dataset columns included, which for a tiny model costs as much as the forward pass.
_TOKENS = ("input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask")
_POLICY_UPDATE = (*_TOKENS, "old_log_probs", "advantages")
_VALUE_UPDATE = (*_TOKENS, "values", "returns")


@register_trainer("group_ppo")
class GroupPPOTrainer(PPOTrainerSync):
    # The base class compares `trainer_mode` with "sync" in many places and assigns the registered name to it.
    trainer_mode = property(lambda self: "sync", lambda self, name: None)
    kl_ctrl_in_reward: Any  # verl's; there where the reward has a KL penalty

    def __init__(self, config: Any):
        register_replicas()
        super().__init__(config)
        self.group_stage: GroupStage | None = None
        if config.algorithm.adv_estimator == ESTIMATOR:
            params = GroupParams.from_config(dict(config.algorithm.group_params))
            gamma, lam = float(config.algorithm.gamma), float(config.algorithm.lam)
            self.group_stage = GroupStage(params, gamma, lam, seed=config.data.seed)
        self.run_folder = Path(config.trainer.default_local_dir)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self.meter = StageMeter(self.run_folder / "stages.jsonl", self._probe(config.trainer.device))
        self._fit_began = 0.0
        self._policy_fields = [*_POLICY_UPDATE]
        if self.use_reference_policy:
            self._policy_fields.append("ref_log_prob")
        if config.algorithm.rollout_correction.rollout_is is not None:
            self._policy_fields.append("rollout_is_weights")
        self._grouped: Grouped | None = None  # of this step; None where it trains on every token
        self._write_policy_masks: Callable[[], object] = _nothing
        self._early = False  # whether this step's passes before the update compute endpoints only
        self._step_metrics: dict[str, float] = {}

    def _probe(self, device: str) -> Probe:
        if device == "cpu":
            return ProcessTreeProbe(settle=lambda: self.actor_rollout_wg.reset_peak_memory())
        return AllocatorProbe(
            reset=lambda: self.actor_rollout_wg.reset_peak_memory(),
            read=lambda: self.actor_rollout_wg.read_peak_memory(),
        )

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
        (self.run_folder / "started.json").write_text(json.dumps({"startup_seconds": startup}))
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
            self._early = self._group_early(batch)
            with _asking(batch, self._log_prob_keys()):
                return _only(batch, _TOKENS, super()._compute_old_log_prob, metrics)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.meter.stage("ref"), _asking(batch, GATHERED if self._early else {}):
            return _only(batch, _TOKENS, super()._compute_ref_log_prob, metrics)

    def _compute_values(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.meter.stage("values"), _asking(batch, GATHERED if self._early else {}):
            return _only(batch, _TOKENS, super()._compute_values, metrics)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        self._grouped, self._write_policy_masks = None, _nothing
        with self.meter.stage("adv"):
            if self.group_stage is None:
                batch = super()._compute_advantage(batch, metrics)
            else:
                batch = self._compute_group_advantage(self.group_stage, batch, metrics)
        self._step_metrics = self._measure_tokens(batch)
        tokens, endpoints = (int(self._step_metrics[f"group/total_{name}"]) for name in ("tokens", "endpoints"))
        self.meter.count(tokens=tokens, endpoints=endpoints)
        return batch

    def _update_critic(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.meter.stage("update_critic"), _asking(batch, GATHERED if self._gathers else {}):
            return _only(batch, _VALUE_UPDATE, super()._update_critic, metrics)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.meter.stage("update_actor"), _asking(batch, self._policy_update_keys()):
            self._write_policy_masks()
            batch = _only(batch, self._policy_fields, super()._update_actor, metrics)
            if self._keeps:
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

    def _compute_group_advantage(self, stage: GroupStage, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        try:
            return self._group(stage, batch, metrics)
        except Exception:
            if stage.params.on_error == "raise":
                raise
            logger.exception("step %d: grouping failed, the step runs as dense PPO (on_error=dense)", self.global_steps)
            stock = self.config.algorithm.adv_estimator
            self.config.algorithm.adv_estimator = "gae"
            try:
                return super()._compute_advantage(batch, metrics)
            finally:
                self.config.algorithm.adv_estimator = stock

    def _group(self, stage: GroupStage, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Group the batch's tokens and write advantages and returns back."""
        mask_name = FULL_MASK if self._early else "response_mask"
        fields = {mask_name, "rm_scores", "old_log_probs", "ref_log_prob", "values", *stage.fields()}
        fields -= {"token_level_rewards"}
        nested = _get(batch, sorted(fields))
        nested_mask = nested[mask_name]
        if "sum_pi_squared" in fields:  # verl writes this one over prompt and response
            nested["sum_pi_squared"] = response_from_nested(nested.pop("sum_pi_squared"), nested_mask)
        data = DataProto(batch=nested.to_padded_tensor())
        full = data.batch["response_mask"] = data.batch[mask_name]
        data.batch["token_level_scores"] = data.batch["rm_scores"]
        data.batch["token_level_rewards"] = data.batch["rm_scores"]
        if self.config.algorithm.use_kl_in_reward:
            # A copy: a step that falls back to dense PPO moves the controller there.
            controller = copy.copy(self.kl_ctrl_in_reward)
            data, kl_metrics = apply_kl_penalty(data, kl_ctrl=controller, kl_penalty=self.config.algorithm.kl_penalty)
            metrics.update(kl_metrics)
        grouped = stage.run(dict(data.batch.items()), batch.keys, self.global_steps)
        if self.config.algorithm.use_kl_in_reward:
            self.kl_ctrl_in_reward = controller
        losses = grouped.losses
        written = {"advantages": losses.advantages, "returns": losses.returns, FULL_MASK: full}
        written |= _masks(losses.value, full)
        if self.config.algorithm.use_kl_in_reward:
            written["token_level_rewards"] = data.batch["token_level_rewards"]
        batch = _put(batch, written, nested_mask)
        # The critic is updated first; the policy's masks are written between the updates where they differ.
        self._grouped = grouped
        if not losses.policy.equals(losses.value):
            self._write_policy_masks = lambda: _put(batch, _masks(losses.policy, full), nested_mask)
        return batch

    # ---- what passes and updates compute

    def _group_early(self, batch: KVBatchMeta) -> bool:
        """Write endpoints before any pass where the rule knows them; whether the passes of this step may gather."""
        stage = self.group_stage
        if stage is None or not stage.early or self.config.algorithm.use_kl_in_reward:
            return False
        nested = _get(batch, ["response_mask"])["response_mask"]
        full = nested.to_padded_tensor(0)
        mask = full.bool()
        groups = stage.group_early(mask, batch.keys, self.global_steps)
        if not stage.gathers(int(groups.endpoints.sum()) / max(1, int(mask.sum()))):
            return False
        endpoints = LossMask(groups.endpoints, groups.endpoints)
        _put(batch, _masks(endpoints, full) | {FULL_MASK: full}, nested)
        return True

    def _log_prob_keys(self) -> dict[str, Any]:
        if self.group_stage is None:
            return {}
        keys: dict[str, Any] = dict(GATHERED) if self._early else {}
        if "sum_pi_squared" in self.group_stage.params.needs:
            keys["calculate_sum_pi_squared"] = True
        if self._keeps:
            keys[KEEP_BYTES] = self.group_stage.params.kv_bytes
        return keys

    def _policy_update_keys(self) -> dict[str, Any]:
        if not self._gathers or self.group_stage is None or self.group_stage.params.update != "streamed":
            return GATHERED if self._gathers else {}
        params = self.group_stage.params
        streamed = {MODE: "streamed", WINDOW: params.live_window, SHARE: params.live_share, SEED: self.global_steps}
        return streamed | {USE_KEPT: params.kv == "reuse"}

    @property
    def _keeps(self) -> bool:
        params = self.group_stage.params if self.group_stage is not None else None
        return params is not None and params.update == "streamed" and params.kv == "reuse"

    @property
    def _gathers(self) -> bool:
        """Whether this step's updates leave out what no endpoint depends on."""
        if self.group_stage is None or self._grouped is None:
            return False
        endpoints, tokens = int(self._grouped.groups.endpoints.sum()), int(self._grouped.tokens.mask.sum())
        return self.group_stage.gathers(endpoints / tokens)

    # ---- records

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        metrics.update(self._step_metrics)
        if self._write_policy_masks is not _nothing:
            # verl took these over the policy's mask, on most of which there is no return.
            for name in [name for name in metrics if name.startswith(("critic/returns/", "critic/vf_explained_var"))]:
                del metrics[name]
        elapsed = time.perf_counter() - self._fit_began
        row = step_row(global_steps, metrics, step_seconds=timing_raw["step"], elapsed=elapsed)
        append_row(self.run_folder / "steps.jsonl", row)

    def _measure_tokens(self, batch: KVBatchMeta) -> dict[str, float]:
        """Counts of this step's tokens, statistics of their groups, and the gap between rollout and trainer."""
        mask_name = "response_mask" if self._grouped is None else FULL_MASK
        names = [mask_name, "old_log_probs"]
        if self.config.actor_rollout_ref.rollout.calculate_log_probs:
            names.append("rollout_log_probs")
        data = _get(batch, names).to_padded_tensor()
        mask = data[mask_name].bool()
        if self.group_stage is None:
            measured = dense_metrics(int(mask.sum()))
        elif self._grouped is None:
            measured = dense_metrics(int(mask.sum())) | {"group/fallbacks": 1}
        else:
            measured = self.group_stage.metrics(self._grouped)
            policy = self._grouped.losses.policy.counts
            computed = int(policy.sum()) / int(mask.sum())
            measured["group/update_density"] = computed if self._gathers else 1.0
            measured["group/log_prob_density"] = computed if self._early else 1.0
            if self._early:
                mask = policy  # nothing is known of the others
        if len(names) == 3:
            measured |= log_prob_gap(data["rollout_log_probs"], data["old_log_probs"], mask)
        return measured


def _get(batch: KVBatchMeta, fields: Sequence[str]) -> TensorDict:
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(fields))


def _put(batch: KVBatchMeta, fields: dict[str, torch.Tensor], nested_mask: torch.Tensor) -> KVBatchMeta:
    """Write padded (B, T) tensors back as verl's nested ones, cut to the lengths of `nested_mask`."""
    nested = {name: response_to_nested(tensor, nested_mask) for name, tensor in fields.items()}
    written = TensorDict(nested, batch_size=len(batch))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=written)


def _masks(mask: LossMask, like: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"response_mask": mask.counts.to(like.dtype), "loss_mask": mask.divides.to(like.dtype)}


@contextmanager
def _asking(batch: KVBatchMeta, keys: dict[str, Any]) -> Iterator[None]:
    """Send keys along with the worker calls made inside."""
    batch.extra_info.update(keys)
    try:
        yield
    finally:
        for key in keys:
            batch.extra_info.pop(key, None)


def _nothing() -> None: ...


def _only(
    batch: KVBatchMeta, fields: Sequence[str], call: Callable[..., KVBatchMeta], metrics: dict[str, Any]
) -> KVBatchMeta:
    """Run a worker call with the batch narrowed to `fields`, and hand the whole batch back."""
    narrowed = KVBatchMeta(
        partition_id=batch.partition_id,
        keys=batch.keys,
        tags=batch.tags,
        fields=list(fields),
        extra_info=batch.extra_info,
    )
    call(narrowed, metrics)
    return batch
