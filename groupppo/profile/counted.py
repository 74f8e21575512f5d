"""What is counted from shapes alone: operations, bounds, memory, whole steps, and what a claimed speed-up needs."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import pandas as pd

from groupppo.profile.config import ModelShape, Profile
from groupppo.update.flops import (
    MODES,
    Shape,
    Work,
    forward_flops,
    head_bound,
    head_share,
    needed_generation,
    needed_head_share,
    needed_speedup,
    speedup,
    step_bound,
    update_bound,
    update_flops,
)
from groupppo.update.memory import CAUSES, update_bytes

STAGES = ("old_log_prob", "ref", "update")
PARTS = ("layers", "attention", "head", "keys_values")


def endpoints_of(response: int, density: Fraction) -> int:
    """Every (1/density)-th token of a response, and the last one."""
    return -(-response // density.denominator)


def counted_table(profile: Profile) -> pd.DataFrame:
    """One row for each shape, response length, density, checkpointing and mode.

    Columns: shape, title, parameters, response, density, checkpointing, mode, tokens, endpoints; operations by part and
    `flops`; `speedup` over dense; `eta`, `head_bound`, `update_bound`; bytes by cause, `bytes`, and `memory_ratio` to
    dense; `needed_head_share`: eta at which `head_bound` would be the profile's `need`, missing where 1 is too little.
    """
    rows = []
    for model, response, density, checkpointing in _grid(profile):
        shape = model.shape
        work = _work(profile.prompt, response, density, checkpointing)
        dense = sum(update_bytes(shape, work, "dense").values())
        for mode in MODES:
            parts, causes = update_flops(shape, work, mode), update_bytes(shape, work, mode)
            rows.append(
                _keys(model, response, density, checkpointing)
                | {"parameters": shape.parameters, "mode": mode, "tokens": work.tokens, "endpoints": work.endpoints}
                | {f"flops_{part}": parts[part] for part in PARTS}
                | {"flops": sum(parts.values()), "speedup": speedup(shape, work, mode)}
                | {"eta": head_share(shape, work), "head_bound": head_bound(shape, work)}
                | {"update_bound": update_bound(shape, work)}
                | {f"bytes_{cause}": causes[cause] for cause in CAUSES}
                | {"bytes": sum(causes.values()), "memory_ratio": sum(causes.values()) / dense}
                | {"needed_head_share": needed_head_share(profile.counted.need, work.endpoints / work.tokens)}
            )
    return pd.DataFrame(rows)


def steps_table(profile: Profile) -> pd.DataFrame:
    """One row as in `counted_table` and each generation share, twice: endpoints known before the first pass, or not.

    Columns: the keys, mode, `known`, `generation`; `update_share`: the update's share of a dense step without
    generation; `rest_speedup`: of all but generation; `step_speedup`; `needed_generation`: the largest share of
    generation at which the step gets the profile's `need`; `needed_speedup`: of all but generation for that. Missing
    where nothing suffices.
    """
    rows, need = [], profile.counted.need
    for model, response, density, checkpointing in _grid(profile):
        work = _work(profile.prompt, response, density, checkpointing)
        shares = stage_shares(model.shape, work)
        for mode, known in product(MODES, (False, True)):
            speedups = stage_speedups(model.shape, work, mode, known=known)
            rest = step_bound(0.0, shares, speedups)
            for generation in profile.counted.generation:
                rows.append(
                    _keys(model, response, density, checkpointing)
                    | {"mode": mode, "known": known, "generation": generation, "update_share": shares["update"]}
                    | {"rest_speedup": rest, "step_speedup": step_bound(generation, shares, speedups)}
                    | {"needed_generation": needed_generation(need, rest)}
                    | {"needed_speedup": needed_speedup(need, generation)}
                )
    return pd.DataFrame(rows)


def stage_shares(shape: Shape, work: Work) -> dict[str, float]:
    """Shares of a dense step without generation by operations: two forward passes and one update per sequence."""
    forward = sum(forward_flops(shape, work, "dense").values())
    flops = {"old_log_prob": forward, "ref": forward, "update": sum(update_flops(shape, work, "dense").values())}
    return {stage: flops[stage] / sum(flops.values()) for stage in STAGES}


def stage_speedups(shape: Shape, work: Work, mode: str, *, known: bool) -> dict[str, float]:
    """Speed-up of each stage over dense, by operations.

    Args:
        known: whether endpoints are known before the log-probability passes, as those of `stride` are. Only then can
            these passes be gathered; but the one whose keys and values a streamed update reuses stays a full one.
    """
    forward = 1.0
    if mode == "fused" or (known and mode not in ("dense", "masked")):
        sparse = "gathered" if mode.startswith("streamed") else mode
        dense, other = (sum(forward_flops(shape, work, name).values()) for name in ("dense", sparse))
        forward = dense / other
    old = 1.0 if mode == "streamed_reuse" else forward
    return {"old_log_prob": old, "ref": forward, "update": speedup(shape, work, mode)}


def _grid(profile: Profile) -> Iterator[tuple[ModelShape, int, Fraction, bool]]:
    grid = profile.counted
    return product(profile.shapes.values(), grid.responses, grid.densities, (False, True))


def _work(prompt: int, response: int, density: Fraction, checkpointing: bool) -> Work:
    return Work(prompt + response, response, endpoints_of(response, density), checkpointing)


def _keys(model: ModelShape, response: int, density: Fraction, checkpointing: bool) -> dict[str, Any]:
    return {
        "shape": model.name,
        "title": model.title,
        "response": response,
        "density": str(density),
        "checkpointing": checkpointing,
    }
