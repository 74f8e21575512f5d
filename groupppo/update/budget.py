"""Memory of one GPU over a training step, counted from shapes: what a run needs before anything is started.

Policy, critic and the rollout server share the GPU, one after the other. Between them stay the states that are not
offloaded. Nothing here has been measured on a GPU; the margins below are assumptions, and large on purpose.
"""

from dataclasses import dataclass, replace

from groupppo.update.flops import Shape, Work
from groupppo.update.memory import update_bytes

# Bytes a weight takes: float32 master weights with two Adam moments, and a float32 gradient while an update runs.
_RESTING, _GRADIENT, _NARROW = 12, 4, 2
# CUDA contexts of trainer and server, what a sleeping server keeps, NCCL's buffers.
MARGIN = 4e9
# What the allocator cannot use of a GPU.
FRAGMENTS = 0.05
OFFLOADS = ("none", "between", "always")


@dataclass(frozen=True)
class RunShape:
    """What decides the memory of a run.

    Attributes:
        shape: of policy and critic. gpus: that share the states. tensor_parallel: GPUs of one rollout server.
        micro_batch: tokens in one forward pass of an update, per GPU. longest: tokens of the longest prompt with its
            longest response.
        fused: whether the policy's head keeps no logits. critic: whether there is one. reference: a frozen copy.
        checkpointing: whether layers run a second time. offload: where states are while others work: "none" leaves them
            on the GPU, "between" brings them for their own update, "always" never has more than a layer there.
        server_share: of the GPU's memory, for weights and keys and values of the rollout server. kept: bytes that an
            update may keep from an earlier pass, as `streamed` does with keys and values.
    """

    shape: Shape
    gpus: int
    tensor_parallel: int
    micro_batch: int
    longest: int
    fused: bool
    critic: bool
    reference: bool
    checkpointing: bool
    offload: str
    server_share: float
    kept: float = 0.0


def step_bytes(run: RunShape, gpu_bytes: float) -> dict[str, dict[str, float]]:
    """Bytes on the fullest GPU in each phase of a step, by cause.

    Args:
        gpu_bytes: memory of one GPU; the rollout server takes its share of it.

    Returns:
        by phase ("rollout", "update_actor", "update_critic" with a critic), bytes by cause: "states" of all networks
        on the GPU, "gathered" layers of the one at work, "update" of one micro-batch, "server", "margin".

    Raises:
        ValueError: the offload is unknown.
    """
    if run.offload not in OFFLOADS:
        raise ValueError(f"offload {run.offload!r}: write one of {', '.join(OFFLOADS)}")
    networks = 1 + int(run.critic)
    resting = _RESTING * run.shape.parameters / run.gpus
    frozen = _NARROW * 2 * run.shape.parameters / run.gpus if run.reference else 0.0
    idle = resting if run.offload == "none" else 0.0
    working = 0.0 if run.offload == "always" else resting + _GRADIENT * run.shape.parameters / run.gpus
    frozen = frozen if run.offload == "none" else 0.0
    margin = MARGIN + FRAGMENTS * gpu_bytes
    # FSDP gathers a layer while the one before is at work, and keeps the embedding and the head, in both passes.
    layers = 2 * run.shape.layer + run.shape.head * (1 if run.shape.tied else 2)
    gathered = (_NARROW + _GRADIENT) * layers
    phases = {"rollout": _phase(idle * networks + frozen, margin, server=run.server_share * gpu_bytes)}
    others = idle * (networks - 1) + frozen
    phases["update_actor"] = _phase(
        working + others, margin, gathered=gathered, update=_update(run, run.shape) + run.kept
    )
    if run.critic:
        valued = replace(run.shape, vocabulary=1, tied=False)
        phases["update_critic"] = _phase(working + others, margin, gathered=gathered, update=_update(run, valued))
    return phases


def server_bytes(run: RunShape) -> float:
    """Bytes that the rollout server needs at least on one GPU: its weights, and keys and values of one response."""
    keys_values = 2 * run.shape.kv_heads * run.shape.head_dim * run.shape.layers * run.longest
    return _NARROW * (run.shape.parameters + keys_values) / run.tensor_parallel


def host_bytes(run: RunShape) -> float:
    """Bytes of states that the machine's own memory holds for all GPUs together."""
    if run.offload == "none":
        return 0.0
    each = _RESTING + (_GRADIENT if run.offload == "always" else 0)
    return each * run.shape.parameters * (1 + int(run.critic)) + (4 * run.shape.parameters if run.reference else 0)


def _update(run: RunShape, shape: Shape) -> float:
    """Of one micro-batch: verl's packed pass takes log-probabilities of the prompt's tokens as well."""
    work = Work(run.micro_batch, run.micro_batch, run.micro_batch, run.checkpointing)
    return sum(update_bytes(shape, work, "fused" if run.fused else "dense").values())


def _phase(
    states: float, margin: float, gathered: float = 0.0, update: float = 0.0, server: float = 0.0
) -> dict[str, float]:
    return {"states": states, "gathered": gathered, "update": update, "server": server, "margin": margin}
