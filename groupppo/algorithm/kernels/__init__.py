"""The sequential recursions over tokens, each written several times so that all versions agree to the bit.

| backend | written as | for |
|---|---|---|
| `numba` | compiled loops over rows and tokens | CPU tensors |
| `triton` | GPU kernels, one row per lane | CUDA tensors, where Triton is importable |
| `torch` | a loop over tokens with (B,) vectors | every other device |
| `reference` | plain Python, one response at a time | reading and testing |

The device of the mask chooses; the argument `backend` overrules it. Numba and Triton are imported by the first call
that needs them, so that importing this package costs nothing. Causes are the values of `groupppo.algorithm.Cause`.
"""

import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

__all__ = ["BACKENDS", "choose_backend", "literal", "published", "segment_gae", "variance_split"]

BACKENDS = {"numba": "compiled", "torch": "batched", "triton": "cuda", "reference": "reference"}


def variance_split(
    advantages: Tensor,
    scores: Tensor,
    mask: Tensor,
    *,
    orthogonal: bool,
    tau: float,
    epsilon: float,
    cap: int,
    backend: str | None = None,
) -> Tensor:
    """Close a group before the token whose variance ratio passes tau, at the cap, and at the last valid token.

    For a group that started at s: orthogonal scores w give r_ppo(t) = sum_{k=s..t} A_k^2 w_k and
    r_grpo(t) = A_t^2 sum_{k=s..t} w_k; signed scores g give r_ppo(t) = (sum_{k=s..t} A_k g_k)^2 and
    r_grpo(t) = (A_t sum_{k=s..t} g_k)^2. A group of one token or more closes before t when
    r_grpo(t) > tau * (r_ppo(t) + epsilon). Else it closes at t when it has `cap` tokens.

    Args:
        advantages: (B, T) float64. scores: (B, T) float64, squared score norms w, or signed scalars g.
        mask: (B, T) bool, or integers that are true where nonzero. Tokens outside it are skipped, never read.
        orthogonal: whether `scores` are squared norms.
        tau, epsilon: threshold, and what is added to r_ppo. cap: tokens of the largest group allowed.
        backend: one of `BACKENDS`, or None to choose by device.

    Returns:
        (B, T) int8 cause of closing at each token.

    Raises:
        TypeError: a tensor is not float64. ValueError: shapes differ, or the backend is unknown or cannot run here.
    """
    mask = _checked(mask, torch.float64, advantages=advantages, scores=scores)
    module = _load(mask.device, backend)
    cause: Tensor = module.variance_split(
        advantages, scores, mask, orthogonal=orthogonal, tau=tau, epsilon=epsilon, cap=cap
    )
    return cause


def literal(
    advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool, backend: str | None = None
) -> Tensor:
    """Close a group of n tokens at t when n * r_ppo(t) >= r_grpo(t): the printed algorithm, ratios as above.

    At n = 1 both sides are the same number, so every token closes a group of its own, as long as numbers are finite.

    Args, returns and errors: as `variance_split`.
    """
    mask = _checked(mask, torch.float64, advantages=advantages, scores=scores)
    cause: Tensor = _load(mask.device, backend).literal(advantages, scores, mask, orthogonal=orthogonal)
    return cause


def published(advantages: Tensor, scores: Tensor, mask: Tensor, *, backend: str | None = None) -> Tensor:
    """The public code of GROUP-PPO, in float32 and in its order of operations.

    With N valid tokens, running sums cg of A_k g_k and c of g_k: r_ppo = (1/N) cg^2, r_grpo = (1/N) c^2 A_t^2. A group
    closes at t when r_ppo > 1e-8 and the number of valid tokens of the response up to t is at least r_grpo / r_ppo; the
    last valid token closes anyway. The sums restart after a closing token and, because the public code stores them
    at absolute positions, after a hole in the mask.

    Args:
        advantages: (B, T) float32. scores: (B, T) float32, signed scalars g. mask, backend: as `variance_split`.

    Returns:
        (B, T) int8 cause of closing at each token.

    Raises:
        TypeError: a tensor is not float32. ValueError: shapes differ, or the backend is unknown or cannot run here.
    """
    mask = _checked(mask, torch.float32, advantages=advantages, scores=scores)
    cause: Tensor = _load(mask.device, backend).published(advantages, scores, mask)
    return cause


def segment_gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    endpoints: Tensor,
    gamma: float,
    lam: float,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """GAE with group endpoints as macro-steps; needs values at endpoints only.

    With endpoints e_1 < ... < e_K and steps counted in valid tokens:
    delta_k = sum_{n=e_k..e_{k+1}-1} gamma^(n-e_k) r_n + gamma^(e_{k+1}-e_k) V_{e_{k+1}} - V_{e_k}, where the last one
    ends the response; A_k = delta_k + gamma^(e_{k+1}-e_k) lambda A_{k+1}; return_k = A_k + V_{e_k}.
    Rewards before the first endpoint belong to no macro-step. With every token an endpoint this is, operation by
    operation, verl's `compute_gae_advantage_return` before whitening (Schulman et al., 2016).

    Args:
        rewards, values: (B, T) float. Narrower or mixed dtypes, such as the bfloat16 values of a critic under autocast,
            are widened to the wider of the two and at least float32, which rounds nothing.
        mask, endpoints: (B, T) bool, endpoints inside the mask.
        gamma, lam: discount and lambda, in [0, 1].
        backend: one of `BACKENDS`, or None to choose by device.

    Returns:
        advantages and returns, (B, T) of that dtype, zero outside the endpoints.

    Raises:
        TypeError: rewards or values are not floats.
        ValueError: shapes differ, or the backend is unknown or cannot run here.
    """
    for name, tensor in (("rewards", rewards), ("values", values)):
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} is {tensor.dtype}, needed is a float")
    dtype = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    rewards, values = rewards.to(dtype), values.to(dtype)
    mask = _checked(mask, dtype, rewards=rewards, values=values)
    endpoints = _checked(endpoints, dtype, values=values)
    module = _load(mask.device, backend)
    advantages, returns = module.segment_gae(rewards, values, mask, endpoints, gamma, lam)
    return advantages, returns


def choose_backend(device: torch.device, backend: str | None = None) -> str:
    """The backend that will run on `device`, a name of `BACKENDS`.

    Raises:
        ValueError: `backend` is unknown, or is compiled for the CPU and the tensors are elsewhere.
    """
    if backend is None:
        if device.type == "cpu":
            return "numba"
        importable = importlib.util.find_spec("triton") is not None
        return "triton" if device.type == "cuda" and importable else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if backend == "numba" and device.type != "cpu":
        raise ValueError(f"backend 'numba' needs CPU tensors, these are on {device}: move them, or leave it to choose")
    return backend


def _load(device: torch.device, backend: str | None) -> ModuleType:
    return importlib.import_module(f"groupppo.algorithm.kernels.{BACKENDS[choose_backend(device, backend)]}")


def _checked(mask: Tensor, dtype: torch.dtype, **tensors: Tensor) -> Tensor:
    """The mask as bool, after all tensors were found to match it; a mixed dtype would round in another place."""
    if mask.dim() != 2:
        raise ValueError(f"a mask has two dimensions (responses, tokens), found shape {tuple(mask.shape)}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the mask {tuple(mask.shape)}")
        if tensor.device != mask.device:
            raise ValueError(f"{name} is on {tensor.device}, the mask on {mask.device}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name} is {tensor.dtype}, needed is {dtype}")
    return mask.bool()
