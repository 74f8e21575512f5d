"""Whether a run fits its GPUs: refused with the numbers before it is started, and again on the machine it lands on."""

from typing import Any

from omegaconf import DictConfig

from groupppo.config import Model
from groupppo.errors import BadInput
from groupppo.update.flops import Shape
from groupppo.update.memory import NOMINAL, RunShape, host_bytes, kept_bytes, server_bytes, step_bytes
from groupppo.verl.accepts import PlaceOf

# What Ray, verl's processes, the rollout server and rewards take of a machine's memory next to offloaded states.
HOST_BASE = 16e9
HOST_PER_GPU = 12e9


def run_shape(config: DictConfig, model: Model, place_of: PlaceOf) -> RunShape:
    """What decides the memory of a composed run; BadInput where it cannot be told or is too little for a response."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    offload = _offload(actor.fsdp_config)
    if config.critic.enable and _offload(config.critic.fsdp) != offload:
        hint = f"offload the critic as the policy, which is {offload}: memory is planned for both alike."
        raise BadInput(model.source, "verl.critic.fsdp", _offload(config.critic.fsdp), hint)
    longest = config.data.max_prompt_length + config.data.max_response_length
    padded = not actor.use_dynamic_bsz
    passes = [actor.ppo_micro_batch_size_per_gpu, rollout.log_prob_micro_batch_size_per_gpu]
    limits = [actor.ppo_max_token_len_per_gpu, rollout.log_prob_max_token_len_per_gpu]
    if config.critic.enable:
        passes += [config.critic.ppo_micro_batch_size_per_gpu, config.critic.ppo_infer_micro_batch_size_per_gpu]
        limits += [config.critic.ppo_max_token_len_per_gpu, config.critic.ppo_infer_max_token_len_per_gpu]
    tokens = [responses * longest for responses in passes] if padded else limits
    if min(tokens) < longest:
        key = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
        raise BadInput(model.source, key, min(tokens), f"write at least {longest}, the longest prompt and response.")
    shape, gpus = Shape(**(model.shape or {})), config.trainer.n_gpus_per_node * config.trainer.nnodes
    return RunShape(
        shape=shape,
        gpus=gpus,
        tensor_parallel=rollout.tensor_model_parallel_size,
        micro_batch=max(tokens),
        longest=longest,
        fused=bool(config.actor_rollout_ref.model.use_fused_kernels),
        critic=bool(config.critic.enable),
        reference=bool(actor.use_kl_loss or config.algorithm.use_kl_in_reward),
        checkpointing=bool(config.actor_rollout_ref.model.enable_gradient_checkpointing),
        offload=offload,
        server_share=rollout.gpu_memory_utilization,
        padded=padded,
        kept=float(_kept(config, shape, gpus, longest, place_of)),
    )


def _kept(config: DictConfig, shape: Shape, gpus: int, longest: int, place_of: PlaceOf) -> int:
    """Bytes that a GPU keeps of the keys and values of its part of a step, at the token limits."""
    params = config.algorithm.group_params
    if params["update"] != "streamed" or params.kv != "reuse":  # `params.update` is a method of the mapping
        return 0
    responses = config.data.train_batch_size * config.actor_rollout_ref.rollout.n // gpus
    needed = kept_bytes(shape, responses * longest)
    if needed > params.kv_bytes:
        hint = (
            f"write kv: recompute, or kv_bytes: {needed}, which a step's {responses} responses on a GPU take at "
            f"{longest} tokens, with memory for it; or fewer prompts_per_step or responses_per_prompt."
        )
        raise BadInput(*place_of("algorithm.group_params.kv_bytes"), params.kv_bytes, hint)
    return needed


def require_fit(config: DictConfig, model: Model, place_of: PlaceOf) -> None:
    """Raise BadInput where a run needs more than the model's file says its machine has, with gigabytes by cause."""
    run, resources = run_shape(config, model, place_of), model.resources
    if run.gpus % run.tensor_parallel:
        key = "actor_rollout_ref.rollout.tensor_model_parallel_size"
        raise BadInput(model.source, key, run.tensor_parallel, f"write a divisor of the {run.gpus} GPUs.")
    available = _usable(model)
    phases = step_bytes(run, available)
    worst = max(phases, key=lambda phase: sum(phases[phase].values()))
    needed = sum(phases[worst].values())
    if needed > available:
        parts = ", ".join(f"{cause} {size / 1e9:.1f}" for cause, size in phases[worst].items() if size)
        hint = (
            f"{worst} needs {needed / 1e9:.1f} GB of each GPU ({parts}), and {available / 1e9:.1f} are there; name a "
            "larger GPU or more of them, offload, lower ppo_max_token_len_per_gpu or gpu_memory_utilization."
        )
        raise BadInput(model.source, "resources.gpu_memory_gb", resources["gpu_memory_gb"], hint)
    share = run.server_share * available
    if server_bytes(run) > share:
        hint = (
            f"the rollout server needs {server_bytes(run) / 1e9:.1f} GB of each GPU and gets {share / 1e9:.1f}; "
            "raise it, or tensor_model_parallel_size."
        )
        raise BadInput(model.source, "actor_rollout_ref.rollout.gpu_memory_utilization", run.server_share, hint)
    states = host_bytes(run) / config.trainer.nnodes
    host = states + HOST_BASE + HOST_PER_GPU * config.trainer.n_gpus_per_node
    if host > resources["mem_mb"] * 1e6:
        hint = f"write at least {host / 1e6:.0f} for each node, of which {states / 1e6:.0f} are offloaded states."
        raise BadInput(model.source, "resources.mem_mb", resources["mem_mb"], hint)


def require_gpus(model: Model, ranks: int) -> None:
    """Raise BadInput where this machine has fewer GPUs than the run was planned for, or one has less memory."""
    import torch

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    if len(found) < ranks:
        hint = f"run on a machine with {ranks} GPU(s); PyTorch sees {len(found)} here."
        raise BadInput(model.source, "resources.gpu", ranks, hint)
    for properties in found[:ranks]:
        if properties.total_memory < _usable(model):
            hint = (
                f"{properties.name} has {properties.total_memory / 1e9:.1f} GB, and {_usable(model) / 1e9:.1f} are "
                "counted on; ask for a larger GPU."
            )
            raise BadInput(model.source, "resources.gpu_memory_gb", model.resources["gpu_memory_gb"], hint)


def _usable(model: Model) -> float:
    """Bytes that a GPU of the nominal size in the model's file has at least."""
    return NOMINAL * model.resources["gpu_memory_gb"] * 1e9


def _offload(engine: Any) -> str:
    if engine.offload_policy:  # FSDP2's own
        return "always"
    return "between" if engine.param_offload and engine.optimizer_offload else "none"
