"""What an update costs, from the measurements published in results/reference/profile: tables of the page on bounds."""

from collections.abc import Iterator
from functools import cache
from itertools import product

import pandas as pd

from groupppo.config import REPOSITORY
from groupppo.profile.config import load_profile
from groupppo.profile.tables import ProfileTables, tables_of
from groupppo.update.flops import Work, update_bound

SHOWN = {
    "r1024": ("masked", "dense_fused", "gathered", "streamed_recompute", "streamed_reuse"),
    "r512": ("masked", "dense_fused", "gathered", "streamed_recompute", "streamed_reuse"),
    "r512_ckpt": ("masked", "dense_fused", "verl_fused", "gathered"),
}
DENSITY = "1/16"
LENGTHS, SHARERS = ((128, 512), (128, 1024), (1024, 128)), 8
"""Tokens of prompt and response, and the responses to a prompt, of the table of savings."""


@cache
def _tables() -> ProfileTables:
    measured = REPOSITORY / "results" / "reference" / "profile" / "measured"
    return tables_of(load_profile(REPOSITORY / "benchmarks" / "profile.yaml"), measured)


def update_costs() -> Iterator[tuple[str, ...]]:
    """Setting, variant, and its ratios to the dense update of the same process."""
    variants = _tables().variants.set_index(["setting", "variant"])
    for setting, names in SHOWN.items():
        for name in names:
            row = variants.loc[(setting, name)]
            yield (
                f"{row['response']}{', checkpointing' if row['checkpointing'] else ''}",
                row["title"],
                f"{row['flops_speedup']:.2f}x",
                "" if pd.isna(row["bound"]) else f"{row['bound']:.2f}x",
                f"{row['seconds_speedup']:.2f}x [{row['seconds_speedup_low']:.2f}, {row['seconds_speedup_high']:.2f}]",
                f"{row['memory_ratio']:.2g}x",
                f"{row['memory_ratio_to_fused']:.2g}x",
            )


def bounds() -> Iterator[tuple[str, ...]]:
    """Model, and the largest speed-up of an exact update at the shortest and the longest response."""
    counted = _tables().counted.query("density == @DENSITY and mode == 'dense'")
    ends = sorted(set(counted["response"]))
    for _, rows in counted.groupby("shape", sort=False):
        cells = rows.set_index(["response", "checkpointing"])["update_bound"]
        found = [cells[end, recomputed] for end in (ends[0], ends[-1]) for recomputed in (False, True)]
        yield rows["title"].iloc[0], *(f"{bound:.2f}x" for bound in found)


def bounds_head() -> tuple[str, ...]:
    """The header of `bounds`."""
    ends = sorted(set(_tables().counted["response"]))
    cells = [f"response {end}{how}" for end in (ends[0], ends[-1]) for how in ("", ", checkpointing")]
    return ("model", *cells)


def savings() -> Iterator[tuple[str, ...]]:
    """Model, lengths, and the largest speed-up of an exact update of all tokens and of every 16th."""
    shapes = load_profile(REPOSITORY / "benchmarks" / "profile.yaml").shapes
    for model in (shapes["qwen2_5_0_5b"], shapes["qwen2_5_7b"]):
        for prompt, response in LENGTHS:
            tokens, found = prompt + response, []
            for rows, sharers in product((response, response // 16), (0, SHARERS)):
                work = Work(tokens, response, rows, kept=tokens - 1, sharers=sharers)
                found.append(f"{update_bound(model.shape, work):.2f}x")
            yield model.title, f"{prompt} + {response}", *found


def savings_head() -> tuple[str, ...]:
    """The header of `savings`."""
    once = f"prompt once for {SHARERS} responses"
    return ("model", "prompt + response", "all tokens", f"all, {once}", "every 16th", f"every 16th, {once}")
