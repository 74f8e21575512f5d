"""From result files to tidy tables: ratios within rounds, their intervals, bounds, and whether targets are met."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from groupppo.config.forms import TargetEntry
from groupppo.errors import BadInput
from groupppo.profile import BYTES, Setting, work_of
from groupppo.profile.config import Profile
from groupppo.records.plain_json import read_object
from groupppo.records.where import Found
from groupppo.stats.intervals import Interval, paired_ratio
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
from groupppo.update.variants import FUSED, MASKED, MEASURED, REFERENCE, Variant, find

LEVEL = 0.90
FOUND = "found.json"
"""Beside the tables of a benchmark's results: where the measurements were found (`Found.columns`)."""


@dataclass(frozen=True)
class ProfileTables:
    """Tidy tables of a profile.

    Attributes:
        variants: one row per setting and variant, also those that could not run. rounds: one row per timed pass.
        counted, steps: see `counted_table` and `steps_table`. targets: one row per target with its value.
    """

    variants: pd.DataFrame
    rounds: pd.DataFrame
    counted: pd.DataFrame
    steps: pd.DataFrame
    targets: pd.DataFrame


def tables_of(profile: Profile, measured: Path, found: Found | None = None) -> ProfileTables:
    """Tables from the result files `<setting>.seconds.json` and `<setting>.memory.json` in a folder.

    Args:
        found: where the result files were found, if they are not of the results that the tables are for.

    Raises:
        BadInput: a result file is missing, is not JSON, or belongs to another profile.
    """
    rows, rounds = [], []
    for setting in profile.measured.values():
        seconds, memory = (_read(measured / f"{setting.name}.{what}.json", setting) for what in ("seconds", "memory"))
        machines = {str(each["machine"].get("gpu") or each["machine"]["cpu"]) for each in (seconds, memory)}
        first, last = sorted(each["finished_at"][:10] for each in (seconds, memory))
        place = found.columns() if found else {"measured_in": "", "published": False}
        place |= {"machine": " and ".join(sorted(machines))}
        place |= {"measured": first if first == last else f"{first} to {last}"}
        rows += [_row(setting, name, seconds, memory) | place for name in setting.variants]
        rounds += [
            {"setting": setting.name, "variant": result["variant"]}
            | {key: one[key] for key in ("round", "place", "load")}
            | one["reading"]
            for result in seconds["results"].values()
            for one in result["rounds"]
        ]
    variants = pd.DataFrame(rows)
    targets = pd.DataFrame([_target(target, variants) for target in profile.targets])
    return ProfileTables(variants, pd.DataFrame(rounds), counted_table(profile), steps_table(profile), targets)


def write_tables(profile: Profile, measured: Path, out: Path, found: Found | None = None) -> ProfileTables:
    """Write every table of `tables_of` as `<name>.csv` and `<name>.parquet`."""
    tables = tables_of(profile, measured, found)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in vars(tables).items():
        table.to_csv(out / f"{name}.csv", index=False)
        table.to_parquet(out / f"{name}.parquet", index=False)
    return tables


def read_tables(folder: Path) -> ProfileTables:
    """The tables that `write_tables` left in a folder.

    Raises:
        BadInput: one is missing.
    """
    frames = {}
    for name in ProfileTables.__dataclass_fields__:
        file = folder / f"{name}.parquet"
        if not file.is_file():
            raise BadInput(file, "file", None, "write the profile's tables first.")
        frames[name] = pd.read_parquet(file)
    return ProfileTables(**frames)


def _read(file: Path, setting: Setting) -> dict[str, Any]:
    """A result file, its results by variant."""
    content = read_object(file, "measure this setting first.")
    results = {result["variant"]: result for result in content["results"]}
    if list(results) != list(setting.variants):
        hint = f"measure again; the profile asks for {', '.join(setting.variants)}."
        raise BadInput(file, "results", list(results), hint)
    return content | {"results": results}


def _row(setting: Setting, name: str, seconds: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    variant = find(name)
    timed, weighed = seconds["results"][name], memory["results"][name]
    failed = next((result for result in (timed, weighed) if result["status"] != MEASURED), None)
    shape, work = setting.model.shape, Work(**weighed["work"])
    # A plain dense pass computes the logits of the prompt too.
    logits = work.response if variant.on == "response" else work.endpoints
    logits = work.tokens if variant.mode in ("dense", "masked") else logits
    bounds = {"head": head_bound, "update": update_bound}
    row: dict[str, Any] = {
        "setting": setting.name,
        "shape": setting.model.name,
        "model": setting.model.title,
        "response": setting.response,
        "density": setting.density,
        "checkpointing": setting.checkpointing,
        "dtype": setting.dtype,
        "device": setting.device,
        "threads": setting.threads,
        "variant": name,
        "title": variant.title,
        "exact": variant.exact,
        "status": MEASURED if failed is None else failed["status"],
        "reason": "" if failed is None else failed["reason"],
        "endpoints": work.endpoints,
        "live": work.live,
        "logits_ratio": logits / work.tokens,
        "bound": bounds[variant.bound](shape, work) if variant.bound else None,
    }
    if failed is None:
        row |= _measured(setting, name, seconds["results"], memory["results"])
        row |= _modelled(setting, variant, work, weighed)
    if failed is None and row["bound"]:
        row |= {f"{kind}_of_bound": row[f"{kind}_speedup"] / row["bound"] for kind in ("flops", "seconds")}
    return row


def _modelled(setting: Setting, variant: Variant, work: Work, weighed: dict[str, Any]) -> dict[str, float]:
    """The formulas' operations and bytes, and how far they are from what was found."""
    flops = sum(update_flops(setting.model.shape, work, variant.mode).values())
    row = {"flops_formula": flops, "flops_error": flops / weighed["flops"] - 1}
    if variant.package:
        return row
    causes = update_bytes(setting.model.shape, work, variant.mode, eager=variant.eager, element=BYTES[setting.dtype])
    total = sum(causes.values())
    row |= {f"model_{cause}": causes[cause] for cause in CAUSES}
    return row | {"model_bytes": total, "model_error": total / weighed["rise_bytes"] - 1}


def _measured(
    setting: Setting, name: str, seconds: dict[str, dict[str, Any]], memory: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    timed, weighed = seconds[name], memory[name]
    clock = "cpu_seconds" if setting.device == "cpu" else "seconds"
    rise = {variant: result["rise_bytes"] for variant, result in memory.items() if result["status"] == MEASURED}
    row: dict[str, Any] = {
        "rounds": len(timed["rounds"]),
        "seconds": float(np.median([one["reading"][clock] for one in timed["rounds"]])),
        "flops": weighed["flops"],
        "flops_speedup": memory[REFERENCE]["flops"] / weighed["flops"],
        "rise_bytes": weighed["rise_bytes"],
        "memory_ratio": weighed["rise_bytes"] / rise[REFERENCE],
        "largest_load": max(one["load"] for one in timed["rounds"]),
        **{key: weighed[key] for key in ("saved_bytes", "held_bytes", "gradient_norm")},
    }
    if FUSED in rise:
        row["memory_ratio_to_fused"] = weighed["rise_bytes"] / rise[FUSED]
    for over, key in ((REFERENCE, "seconds_speedup"), (MASKED, "seconds_speedup_to_masked"), (FUSED, "to_fused")):
        if over in seconds and seconds[over]["status"] == MEASURED:
            interval = _paired(seconds[over], timed, clock)
            row |= {key: interval.estimate, f"{key}_low": interval.low, f"{key}_high": interval.high}
    return row | {"wall_speedup": _paired(seconds[REFERENCE], timed, "seconds").estimate}


def _paired(base: dict[str, Any], timed: dict[str, Any], clock: str) -> Interval:
    """Geometric mean over rounds of base seconds over the variant's, each pair from one round."""
    slow, fast = ({one["round"]: one["reading"][clock] for one in result["rounds"]} for result in (base, timed))
    return paired_ratio([slow[number] / fast[number] for number in sorted(slow.keys() & fast.keys())], LEVEL)


def _target(target: TargetEntry, variants: pd.DataFrame) -> dict[str, Any]:
    chosen = variants[(variants["setting"] == target.setting) & (variants["variant"] == target.variant)].iloc[0]
    value = _known(chosen, target.quantity)
    # Its interval is that of the seconds it is a share of.
    interval, scale = target.quantity, 1.0
    if interval == "seconds_of_bound":
        interval, scale = "seconds_speedup", chosen["bound"]
    low, high = (
        None if end is None else end / scale for end in (_known(chosen, f"{interval}_{end}") for end in ("low", "high"))
    )
    # Rounding of two sums of operations must not decide.
    most = np.inf if target.at_most is None else target.at_most * (1 + 1e-4)
    return {
        "setting": target.setting,
        "variant": target.variant,
        "quantity": target.quantity,
        "at_least": target.at_least,
        "at_most": target.at_most,
        "value": value,
        "low": low,
        "high": high,
        "met": None if value is None else bool((target.at_least or -np.inf) <= value <= most),
    }


def _known(row: pd.Series, column: str) -> float | None:
    return None if pd.isna(row.get(column)) else float(row[column])


PARTS = ("layers", "attention", "head", "keys_values")


def counted_table(profile: Profile) -> pd.DataFrame:
    """One row for each shape, response length, density, checkpointing and mode, all from shapes alone.

    Columns beside the keys: operations and bytes by part or cause and as a whole; `speedup` and `memory_ratio`, both
    over dense; `eta`, the head's share; `needed_head_share`: eta at which `head_bound` would be the profile's `need`,
    missing where 1 is too little.
    """
    rows = []
    for keys, shape, work in _cells(profile):
        dense = sum(update_bytes(shape, work, "dense").values())
        for mode in MODES:
            parts, causes = update_flops(shape, work, mode), update_bytes(shape, work, mode)
            row = {"parameters": shape.parameters, "mode": mode, "tokens": work.tokens, "endpoints": work.endpoints}
            row |= {f"flops_{part}": parts[part] for part in PARTS}
            row |= {"flops": sum(parts.values()), "speedup": speedup(shape, work, mode)}
            row |= {"eta": head_share(shape, work), "head_bound": head_bound(shape, work)}
            row |= {"update_bound": update_bound(shape, work)}
            row |= {f"bytes_{cause}": causes[cause] for cause in CAUSES}
            row |= {"bytes": sum(causes.values()), "memory_ratio": sum(causes.values()) / dense}
            row["needed_head_share"] = needed_head_share(profile.counted.need, work.endpoints / work.tokens)
            rows.append(keys | row)
    return pd.DataFrame(rows)


def steps_table(profile: Profile) -> pd.DataFrame:
    """One row as in `counted_table` and each generation share, twice: endpoints known before the first pass, or not.

    Columns beside the keys: `update_share`: the update's share of a dense step without generation; `rest_speedup`: of
    all but generation; `step_speedup`; `needed_generation`: the largest share of generation at which the step gets the
    profile's `need`; `needed_speedup`: of all but generation for that. Missing where nothing suffices.
    """
    rows, need = [], profile.counted.need
    for keys, shape, work in _cells(profile):
        shares = stage_shares(shape, work)
        for mode, known in product(MODES, (False, True)):
            speedups = stage_speedups(shape, work, mode, known=known)
            rest = step_bound(0.0, shares, speedups)
            for generation in profile.counted.generation:
                row = {"mode": mode, "known": known, "generation": generation, "update_share": shares["update"]}
                row |= {"rest_speedup": rest, "step_speedup": step_bound(generation, shares, speedups)}
                row |= {"needed_generation": needed_generation(need, rest)}
                row |= {"needed_speedup": needed_speedup(need, generation)}
                rows.append(keys | row)
    return pd.DataFrame(rows)


def stage_shares(shape: Shape, work: Work) -> dict[str, float]:
    """Shares of a dense step without generation by operations: two forward passes and one update per sequence."""
    forward, update = (sum(flops(shape, work, "dense").values()) for flops in (forward_flops, update_flops))
    whole = 2 * forward + update
    return {"old_log_prob": forward / whole, "ref": forward / whole, "update": update / whole}


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


def _cells(profile: Profile) -> Iterator[tuple[dict[str, Any], Shape, Work]]:
    """Every shape with every response length, density and checkpointing: the cell's keys, and what formulas take."""
    grid = profile.counted
    for model, response, density, again in product(
        profile.shapes.values(), grid.responses, grid.densities, (False, True)
    ):
        keys = {"shape": model.name, "title": model.title, "response": response, "density": density}
        yield keys | {"checkpointing": again}, model.shape, work_of(profile.prompt, response, density, again)
