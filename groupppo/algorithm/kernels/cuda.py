# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of a kernel's arguments as their types on the GPU.
"""The recursions as Triton kernels: one response per lane, one warp per program.

Never run on a GPU. They are tested in Triton's interpreter, and the machine code compiled for sm_80 and sm_90 is
searched for operations that round differently. What keeps them equal to the reference:
- `enable_fp_fusion=False`: a * b + c stays two operations with two roundings;
- `div_rn`: the plain division of float32 is an approximation on GPUs;
- tau, epsilon and gamma travel in a tensor: Triton passes Python floats as float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from groupppo.algorithm.kernels import reference
from groupppo.algorithm.kernels.batched import powers

CRITERION, CAP, END = (tl.constexpr(code) for code in (reference.CRITERION, reference.CAP, reference.END))
RATIO_FLOOR = tl.constexpr(reference.RATIO_FLOOR)

LANES = 32
OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}


def variance_split(
    advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool, tau: float, epsilon: float, cap: int
) -> Tensor:
    """As `groupppo.algorithm.kernels.variance_split`."""
    cause = torch.zeros(mask.shape, dtype=torch.int8, device=mask.device)
    parameters = torch.tensor([tau, epsilon], dtype=torch.float64, device=mask.device)
    inputs = (advantages.contiguous(), scores.contiguous(), _bytes(mask), parameters)
    _launch(_variance_split, mask, *inputs, cause, *mask.shape, cap, orthogonal=bool(orthogonal))
    return cause


def literal(advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool) -> Tensor:
    """As `groupppo.algorithm.kernels.literal`."""
    cause = torch.zeros(mask.shape, dtype=torch.int8, device=mask.device)
    inputs = (advantages.contiguous(), scores.contiguous(), _bytes(mask))
    _launch(_literal, mask, *inputs, cause, *mask.shape, orthogonal=bool(orthogonal))
    return cause


def published(advantages: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """As `groupppo.algorithm.kernels.published`."""
    cause = torch.zeros(mask.shape, dtype=torch.int8, device=mask.device)
    _launch(_published, mask, advantages.contiguous(), scores.contiguous(), _bytes(mask), cause, *mask.shape)
    return cause


def segment_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, endpoints: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """As `groupppo.algorithm.kernels.segment_gae`."""
    length = mask.shape[1]
    advantages = torch.zeros(values.shape, dtype=values.dtype, device=values.device)
    returns = torch.zeros_like(advantages)
    tables = (values.new_tensor([gamma]), powers(gamma, length, values), powers(gamma, length, values, factor=lam))
    inputs = (rewards.contiguous(), values.contiguous(), _bytes(mask), _bytes(endpoints), *tables)
    _launch(_segment_gae, mask, *inputs, advantages, returns, *mask.shape)
    return advantages, returns


def _bytes(mask: Tensor) -> Tensor:
    return mask.contiguous().view(torch.int8)


def _launch(kernel, mask: Tensor, *arguments: Tensor | int, **constants: bool) -> None:
    """Run a kernel over the rows of the mask, on the mask's device."""
    if not mask.is_cuda and isinstance(kernel, triton.JITFunction):
        raise ValueError(
            f"backend 'triton' needs CUDA tensors, these are on {mask.device}: leave the backend to choose"
        )
    if mask.numel() == 0:
        return
    grid = (triton.cdiv(len(mask), LANES),)
    with torch.cuda.device_of(mask):
        kernel[grid](*arguments, **constants, block=LANES, **OPTIONS)


@triton.jit
def _ratios(a, p, q, orthogonal: tl.constexpr):
    if orthogonal:
        r_ppo, r_grpo = p, a * a * q
    else:
        r_ppo, r_grpo = p * p, (a * q) * (a * q)
    return r_ppo, r_grpo


@triton.jit
def _weigh(a, s, orthogonal: tl.constexpr):
    weighted = a * s
    if orthogonal:
        weighted = a * a * s
    return weighted


@triton.jit
def _variance_split(
    advantages, scores, mask, parameters, cause, rows, length, cap, orthogonal: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0) * block + tl.arange(0, block)
    start = row.to(tl.int64) * length
    tau, epsilon = tl.load(parameters), tl.load(parameters + 1)
    p, q = tl.zeros([block], tl.float64), tl.zeros([block], tl.float64)
    size, previous = tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
    for t in range(length):
        valid = tl.load(mask + start + t, mask=row < rows, other=0) != 0
        a = tl.load(advantages + start + t, mask=valid, other=0.0)
        s = tl.load(scores + start + t, mask=valid, other=0.0)
        weighted = _weigh(a, s, orthogonal)
        r_ppo, r_grpo = _ratios(a, p + weighted, q + s, orthogonal)
        split = valid & (size >= 1) & (r_grpo > tau * (r_ppo + epsilon))
        tl.store(cause + start + previous, CRITERION, mask=split)
        size = tl.where(split, 1, tl.where(valid, size + 1, size))
        p = tl.where(split, weighted, tl.where(valid, p + weighted, p))
        q = tl.where(split, s, tl.where(valid, q + s, q))
        capped = valid & (size == cap)
        tl.store(cause + start + t, CAP, mask=capped)
        size = tl.where(capped, 0, size)
        p, q = tl.where(capped, 0.0, p), tl.where(capped, 0.0, q)
        previous = tl.where(valid, t, previous)
    tl.store(cause + start + previous, END, mask=size >= 1)


@triton.jit
def _literal(advantages, scores, mask, cause, rows, length, orthogonal: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0) * block + tl.arange(0, block)
    start = row.to(tl.int64) * length
    p, q = tl.zeros([block], tl.float64), tl.zeros([block], tl.float64)
    size, previous = tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
    for t in range(length):
        valid = tl.load(mask + start + t, mask=row < rows, other=0) != 0
        a = tl.load(advantages + start + t, mask=valid, other=0.0)
        s = tl.load(scores + start + t, mask=valid, other=0.0)
        size = tl.where(valid, size + 1, size)
        p, q = tl.where(valid, p + _weigh(a, s, orthogonal), p), tl.where(valid, q + s, q)
        r_ppo, r_grpo = _ratios(a, p, q, orthogonal)
        closes = valid & (size.to(tl.float64) * r_ppo >= r_grpo)
        tl.store(cause + start + t, CRITERION, mask=closes)
        size = tl.where(closes, 0, size)
        p, q = tl.where(closes, 0.0, p), tl.where(closes, 0.0, q)
        previous = tl.where(valid, t, previous)
    tl.store(cause + start + previous, END, mask=size >= 1)


@triton.jit
def _published(advantages, scores, mask, cause, rows, length, block: tl.constexpr):
    row = tl.program_id(0) * block + tl.arange(0, block)
    start = row.to(tl.int64) * length
    count, step = tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
    for t in range(length):
        count += (tl.load(mask + start + t, mask=row < rows, other=0) != 0).to(tl.int32)
    inverse = (1.0 / tl.maximum(count, 1).to(tl.float64)).to(tl.float32)
    cg, c = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
    for t in range(length):
        valid = tl.load(mask + start + t, mask=row < rows, other=0) != 0
        a = tl.load(advantages + start + t, mask=valid, other=0.0)
        g = tl.load(scores + start + t, mask=valid, other=0.0)
        step = tl.where(valid, step + 1, step)
        cg, c = cg + a * g, c + g
        r_ppo, r_grpo = inverse * (cg * cg), (inverse * (c * c)) * (a * a)
        above = valid & (r_ppo > RATIO_FLOOR)
        closes = above & (step.to(tl.float32) >= tl.div_rn(r_grpo, tl.where(above, r_ppo, 1.0)))
        tl.store(cause + start + t, CRITERION, mask=closes)
        tl.store(cause + start + t, END, mask=valid & ~closes & (step == count))
        going_on = valid & ~closes
        cg, c = tl.where(going_on, cg, 0.0), tl.where(going_on, c, 0.0)


@triton.jit
def _segment_gae(
    rewards,
    values,
    mask,
    endpoints,
    gamma,
    discount,
    discount_lam,
    advantages,
    returns,
    rows,
    length,
    block: tl.constexpr,
):
    row = tl.program_id(0) * block + tl.arange(0, block)
    start = row.to(tl.int64) * length
    scalar = tl.load(gamma)
    reward = tl.zeros([block], values.dtype.element_ty)
    next_value, next_advantage = reward, reward
    steps = tl.zeros([block], tl.int32)
    for back in range(length):
        t = length - 1 - back
        valid = tl.load(mask + start + t, mask=row < rows, other=0) != 0
        end = tl.load(endpoints + start + t, mask=row < rows, other=0) != 0
        reward = tl.where(valid, tl.load(rewards + start + t, mask=valid, other=0.0) + scalar * reward, reward)
        steps = tl.where(valid, steps + 1, steps)
        value = tl.load(values + start + t, mask=end, other=0.0)
        delta = reward + tl.load(discount + steps) * next_value - value
        advantage = delta + tl.load(discount_lam + steps) * next_advantage
        tl.store(advantages + start + t, advantage, mask=end)
        tl.store(returns + start + t, advantage + value, mask=end)
        next_value, next_advantage = tl.where(end, value, next_value), tl.where(end, advantage, next_advantage)
        reward, steps = tl.where(end, 0.0, reward), tl.where(end, 0, steps)
