"""The streamed update's bias in tables: by parameter group, against what it costs, and which way is the best point.

First-order progress says what a point is worth: a step of given length along a direction gains its cosine with the
gradient, so that a step which takes 1/s of the time gains cosine x s in the same time. Where updates are a share u of
a training step, s is Amdahl's 1 / (1 - u + u / speed-up). A bias does not average out over steps, so that this counts
in favour of what is cheap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from groupppo.stats.intervals import Estimate, jackknife
from groupppo.studies.directions import expected_cosine, inner_products
from groupppo.studies.names import ALL, ENDPOINTS, GATHERED, SHARE, WINDOW
from groupppo.studies.streams import Endpoints, Row, flat, streamed_gradients, update_speedup
from groupppo.update.flops import Shape
from groupppo.update.passes import LiveRows

UPDATE_SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
_CASE = ["checkpoint", "arm", "title"]
_POINT = [*_CASE, "kind", "size"]


def kind_of(way: LiveRows) -> tuple[str, float]:
    """What flows next to the endpoints, and how much of it."""
    if way.share > 0.0:
        return SHARE, way.share
    return (WINDOW, float(way.window)) if way.window else (ENDPOINTS, 0.0)


@dataclass(frozen=True)
class Curve:
    """What was measured of one arm at one checkpoint.

    Attributes:
        rows: of every batch, way and parameter group, with `kind` and `size` of the way; the exact update, `gathered`,
            is one of the ways. gradients: exact ones of every batch. inner: (1 + W, M, 1 + W, M) inner products of the
            exact gradient and those of W ways on M batches.
    """

    rows: pd.DataFrame
    gradients: list[dict[str, torch.Tensor]]
    inner: np.ndarray


def measure_curve(model: Any, endpoints: Sequence[Endpoints], ways: Sequence[LiveRows], temperature: float) -> Curve:
    """Every way of streaming on every batch, beside the exact update."""
    rows: list[Row] = []
    vectors: list[list[torch.Tensor]] = [[] for _ in (None, *ways)]
    gradients = []
    for streamed in streamed_gradients(model, endpoints, ways, temperature):
        kind, size = kind_of(streamed.way)
        named: Row = {"kind": kind, "size": size}
        rows += [named | row for row in streamed.rows()]
        if streamed.way == ways[0]:
            gradients.append(streamed.exact)
            vectors[0].append(flat(streamed.exact).float())
        vectors[1 + list(ways).index(streamed.way)].append(flat(streamed.found).float())
    shape = Shape.of(model.config)
    for number, batch in enumerate(endpoints):
        speed = update_speedup(shape, batch, batch.rows, "gathered")
        exact: Row = {"kind": GATHERED, "size": 0.0, "batch": number, "window": 0, "share": 0.0, "live": 1.0}
        speeds: Row = {"speedup": speed, "speedup_recompute": speed}
        rows.append(exact | speeds | {"group": ALL, "cosine": 1.0, "norm_ratio": 1.0})
    return Curve(pd.DataFrame(rows), gradients, inner_products(torch.stack([torch.stack(own) for own in vectors])))


def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table `stream_groups`: endpoints alone, by parameter group."""
    bare = rows[rows["kind"] == ENDPOINTS]
    return _summarised(bare, [*_CASE, "group"], ("cosine", "norm_ratio"))


def cost_table(rows: pd.DataFrame, expected: Mapping[tuple[str, str, str, float], Estimate]) -> pd.DataFrame:
    """Columns of table `stream_costs`: each way as a point (speed-up, cosine), and whether no other way beats it.

    Args:
        rows: `Curve.rows` with checkpoint, arm, title and density.
        expected: cosines of expected gradients by checkpoint, arm and way.
    """
    whole = rows[rows["group"] == ALL]
    table = _summarised(whole, _POINT, ("density", "live", "speedup", "speedup_recompute", "cosine", "norm_ratio"))
    places = zip(*(table[key] for key in ("checkpoint", "arm", "kind", "size")), strict=True)
    found = [expected.get(place, Estimate(1.0, np.nan, np.nan)) for place in places]
    table[["expected_cosine", "expected_cosine_low", "expected_cosine_high"]] = np.array(found)
    for name in ("density", "live", "speedup", "speedup_recompute"):
        table = table.drop(columns=[f"{name}_low", f"{name}_high"])
    front = pd.concat([pareto(own) for _, own in table.groupby(_CASE, sort=False)])
    return table.assign(pareto=front)


def expected_cosines(curve: Curve, ways: Sequence[LiveRows]) -> dict[tuple[str, float], Estimate]:
    """Cosine of each way's expected gradient with the exact one's, with its jackknife interval over batches."""
    return {kind_of(way): expected_cosine(curve.inner, number, 0) for number, way in enumerate(ways, start=1)}


def pareto(points: pd.DataFrame) -> pd.Series:
    """Which points no other one beats in speed-up or cosine without losing in the other."""
    speed, cosine = points["speedup"].to_numpy(), points["cosine"].to_numpy()
    no_worse = (speed[None] >= speed[:, None]) & (cosine[None] >= cosine[:, None])
    better = (speed[None] > speed[:, None]) | (cosine[None] > cosine[:, None])
    return pd.Series(~(no_worse & better).any(axis=1), index=points.index)


def progress_table(rows: pd.DataFrame, shares: Sequence[float] = UPDATE_SHARES) -> pd.DataFrame:
    """Columns of table `stream_progress`: first-order progress of each way relative to a dense update, and the best."""
    whole = rows[rows["group"] == ALL]
    tables = []
    for share in shares:
        gained = whole["cosine"] / (1.0 - share + share / whole["speedup"])
        tables.append(_summarised(whole.assign(progress=gained), _POINT, ("progress",)).assign(update_share=share))
    table = pd.concat(tables, ignore_index=True)
    largest = table.groupby([*_CASE, "update_share"])["progress"].transform("max")
    return table.assign(best=table["progress"] == largest)


def staleness_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table `stream_staleness`, from `stale_rows` with checkpoint, arm and title."""
    table = _summarised(rows, [*_CASE, "steps", "kv"], ("cosine", "norm_ratio", "log_prob_error", "moved"))
    largest = rows.groupby([*_CASE, "steps", "kv"], sort=False)["log_prob_error_max"].max()
    return table.assign(log_prob_error_max=largest.to_numpy())


def _summarised(rows: pd.DataFrame, keys: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Means over batches with their 90 % t intervals, one row for each value of the keys in their order."""
    found = []
    for key, own in rows.groupby(list(keys), sort=False):
        row = dict(zip(keys, key, strict=True))
        for name in names:
            estimate = _mean(own[name].to_numpy(float))
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        found.append(row | {"batches": len(own)})
    return pd.DataFrame(found)


def _mean(values: np.ndarray) -> Estimate:
    return jackknife(lambda kept: float(values[kept].mean()), len(values))
