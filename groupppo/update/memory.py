"""Memory counted from shapes: of one update for one sequence, and of one GPU over a training step.

`snakemake profile` states the error of the first. In a step policy, critic and the rollout server share the GPU, one
after the other; between them stay the states that are not offloaded. Nothing of that has been measured on a GPU; its
margins are assumptions, and large on purpose.
"""

from dataclasses import dataclass, replace

from groupppo.update.flops import MODES, Shape, Work

_WIDE = 4  # bytes of a float32
CAUSES = ("activations", "head", "head_gradient", "layer", "keys_values")


def update_bytes(
    shape: Shape,
    work: Work,
    mode: str,
    *,
    eager: bool = True,
    element: int = 2,
    chunk: int = 2**26,
    keep: int = 2**27,
) -> dict[str, float]:
    """Bytes at the fullest moment of an update, next to weights and gradients.

    The moments are the head's forward and backward pass (logits and all activations), the backward pass of one layer,
    and, where autograd holds a gradient of tied weights, that of the embedding at the very end.

    Args:
        eager: for `gathered_head`, whether the head adds its gradient to the weights' at once; `dense` and `masked`
            never do, all others always.
        element: bytes of a weight or activation. chunk: largest float32 logits that a head in chunks works on.
        keep: largest logits that it keeps for its backward pass; `fused` keeps none.

    Returns:
        bytes by CAUSES: activations that autograd saved; the head's logits, probabilities and their gradients; a second
        copy of the head's gradient; one layer's work; keys and values of tokens that do not flow.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: write one of {', '.join(MODES)}")
    in_autograd = mode in ("dense", "masked") or (mode == "gathered_head" and not eager)
    streamed = mode.startswith("streamed")
    flowing = max(work.live, work.endpoints) if streamed else work.tokens
    constants = element * 2 * shape.kv_heads * shape.head_dim * work.tokens * shape.layers if streamed else 0
    forward, backward, kept = _head(shape, work, mode, in_autograd, element, chunk, keep)
    saved = _saved(shape, work, mode, flowing, element) + kept
    # The backward pass of an MLP: gradients at three of its products, and of one weight matrix.
    layer = element * shape.intermediate * (3 * flowing + shape.hidden)
    again = _saved_in_layer(shape, flowing, element) if work.checkpointing else 0
    second = element * shape.head if in_autograd and shape.tied else 0
    moments = [
        _moment(saved, head=forward, keys_values=constants),
        _moment(saved, head=backward, keys_values=constants),
        _moment(saved - kept + again, head_gradient=second, layer=layer, keys_values=constants),
        _moment(0, head_gradient=3 * second, keys_values=constants),
    ]
    if mode == "streamed":  # the pass for keys and values
        moments.append(_moment(0, layer=3 * element * shape.intermediate * work.tokens, keys_values=constants))
    return max(moments, key=lambda moment: sum(moment.values()))


def _moment(
    activations: float, head: float = 0, head_gradient: float = 0, layer: float = 0, keys_values: float = 0
) -> dict[str, float]:
    return dict(zip(CAUSES, (activations, head, head_gradient, layer, keys_values), strict=True))


def _head(
    shape: Shape, work: Work, mode: str, in_autograd: bool, element: int, chunk: int, keep: int
) -> tuple[float, float, float]:
    """Bytes of the head's work in its forward and in its backward pass, and of logits kept in between."""
    columns = shape.vocabulary
    if in_autograd:
        with_logits, rows = (
            (work.tokens, work.response) if mode != "gathered_head" else (work.endpoints, work.endpoints)
        )
        # float32 logits and log-probabilities; then log-probabilities, the gradient at them and at the logits.
        wide = 8 if element < 4 else 4
        return columns * (element * with_logits + wide * rows), columns * 12 * rows, 0
    rows = work.response if mode == "fused" else work.endpoints
    at_once = min(rows, max(1, chunk // (4 * columns)))
    fitting = 0 if mode == "fused" else keep // (element * at_once * columns) * at_once
    # Scaled logits and probabilities in float32; the narrow logits are freed before the second, unless kept.
    return 8 * columns * at_once, 8 * columns * at_once, element * columns * min(rows, fitting)


def _saved(shape: Shape, work: Work, mode: str, flowing: int, element: int) -> float:
    """Bytes that autograd holds through the head's passes."""
    last = work.endpoints if mode in ("gathered", "streamed", "streamed_reuse") else flowing
    norm = (_WIDE + 2 * element) * shape.hidden  # its input in float32, normalised, and scaled
    normed = last * norm
    if work.checkpointing:
        return element * shape.hidden * flowing * shape.layers + normed
    whole = _saved_in_layer(shape, flowing, element) * (shape.layers - 1)
    whole += _saved_in_layer(shape, last, element)
    # Attention at rows keeps keys and values of all tokens, and, shared by layers, their places and the mask.
    unseen = element * 2 * shape.kv_heads * shape.head_dim
    attended = 0.0
    if mode == "gathered":  # the last layer's first norm also runs for all tokens
        attended = (flowing - last) * (unseen + norm) + (element * last + 8) * work.tokens
    elif mode.startswith("streamed"):  # a live token's keys and values are kept twice, alone and among all
        attended = work.tokens * unseen * shape.layers + (element * (flowing + last) + 16) * work.tokens
    return whole + attended + normed


def _saved_in_layer(shape: Shape, tokens: int, element: int) -> float:
    """Per token: inputs of norms in float32, normalised and scaled; queries, keys, values and the attention's output;
    four products of the MLP; normalisers of norms and attention."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    per_token = 2 * (_WIDE + 2 * element) * shape.hidden + element * (2 * queries + 2 * keys + 4 * shape.intermediate)
    per_token += 4 * shape.heads + 8
    if shape.query_key_norm:
        per_token += (_WIDE + element) * (queries + keys) + 4 * (shape.heads + shape.kv_heads)
    return tokens * per_token


# Bytes a weight takes: float32 master weights with two Adam moments, and a float32 gradient while an update runs.
_RESTING, _GRADIENT, _NARROW = 12, 4, 2
# CUDA contexts of trainer and server, what a sleeping server keeps, NCCL's buffers.
MARGIN = 4e9
# What the allocator cannot use of a GPU.
FRAGMENTS = 0.05
# Of the size by which a GPU is sold what a process may see: ECC takes a sixteenth of 48 GiB on an L40S, which leaves
# 47.7 of 48 * 10^9 bytes; of a T4's 16 it leaves 15.7.
NOMINAL = 0.97
OFFLOADS = ("none", "between", "always")


@dataclass(frozen=True)
class RunShape:
    """What decides the memory of a run.

    Attributes:
        shape: of policy and critic.
        gpus: that share the states.
        tensor_parallel: GPUs of one rollout server.
        micro_batch: tokens in one forward pass of an update, per GPU, padding included.
        padded: whether rows are padded; verl then takes the logits of the tokens out into a second tensor.
        longest: tokens of the longest prompt with its longest response.
        fused: whether the policy's head keeps no logits.
        critic: whether there is one.
        reference: whether there is a frozen copy of the policy.
        checkpointing: whether layers run a second time.
        offload: where states are while others work: "none" leaves them on the GPU, "between" brings them for their own
            update, "always" never has more than a layer there.
        server_share: of the GPU's memory, for weights and keys and values of the rollout server.
        kept: bytes of keys and values that `streamed` keeps on the GPU from an earlier pass until the policy's update.
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
    padded: bool = False
    kept: float = 0.0


def step_bytes(run: RunShape, gpu_bytes: float) -> dict[str, dict[str, float]]:
    """Bytes on the fullest GPU in each phase of a step, by cause.

    Args:
        gpu_bytes: memory of one GPU; the rollout server takes its share of it.

    Returns:
        by phase ("rollout", "update_actor", "update_critic" with a critic), bytes by cause: "states" of all networks
        on the GPU, "gathered" layers of the one at work, "update" of one micro-batch, "keys_values" kept for it,
        "server", "margin".

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
    shapes = {"update_actor": run.shape}
    if run.critic:
        shapes["update_critic"] = replace(run.shape, vocabulary=1, tied=False)
    for phase, shape in shapes.items():
        phases[phase] = _phase(working + others, margin, gathered, _update(run, shape), run.kept)
    return phases


def kept_bytes(shape: Shape, tokens: int) -> int:
    """Bytes of the keys and values of so many tokens in all layers, in bfloat16."""
    return 2 * _NARROW * shape.kv_heads * shape.head_dim * shape.layers * tokens


def server_bytes(run: RunShape) -> float:
    """Bytes that the rollout server needs at least on one GPU: its weights, and keys and values of one response."""
    return (_NARROW * run.shape.parameters + kept_bytes(run.shape, run.longest)) / run.tensor_parallel


def host_bytes(run: RunShape) -> float:
    """Bytes of states that the machine's own memory holds for all GPUs together."""
    if run.offload == "none":
        return 0.0
    each = _RESTING + (_GRADIENT if run.offload == "always" else 0)
    return each * run.shape.parameters * (1 + int(run.critic)) + (4 * run.shape.parameters if run.reference else 0)


def _update(run: RunShape, shape: Shape) -> float:
    """Of one micro-batch: verl's passes take log-probabilities of the prompt's tokens as well."""
    work = Work(run.micro_batch, run.micro_batch, run.micro_batch, run.checkpointing)
    second = _NARROW * shape.vocabulary * run.micro_batch if run.padded and not run.fused else 0
    return second + sum(update_bytes(shape, work, "fused" if run.fused else "dense").values())


def _phase(
    states: float,
    margin: float,
    gathered: float = 0.0,
    update: float = 0.0,
    keys_values: float = 0.0,
    server: float = 0.0,
) -> dict[str, float]:
    causes = {"states": states, "gathered": gathered, "update": update, "keys_values": keys_values}
    return causes | {"server": server, "margin": margin}
