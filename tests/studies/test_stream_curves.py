"""Points of cost and bias: their means, their front, what they are worth, and where endpoints alone stop being best."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupppo.algorithm import Tokens
from groupppo.stats.intervals import jackknife
from groupppo.studies.arms import GroupArm, group_updates
from groupppo.studies.break_even import break_even
from groupppo.studies.names import ALL, ENDPOINTS, GATHERED, SHARE, WINDOW
from groupppo.studies.rollouts import Rollouts
from groupppo.studies.stream_curves import (
    cost_table,
    expected_cosines,
    group_table,
    kind_of,
    measure_curve,
    pareto,
    progress_table,
    staleness_table,
)
from groupppo.studies.streams import PARAMETER_GROUPS, Endpoints, update_speedup
from groupppo.studies.tables import write_table
from groupppo.update.flops import Shape, Work, update_flops
from groupppo.update.layout import Layout
from groupppo.update.passes import LiveRows
from tests.studies.conftest import GAMMA, LAM, TEMPERATURE

PLACE = {"checkpoint": "start", "arm": "stride", "title": "Stride"}
WAYS = [LiveRows(), LiveRows(window=2), LiveRows(share=0.5)]

point = st.tuples(st.floats(1.0, 32.0), st.floats(-1.0, 1.0))
layouts = st.lists(st.integers(6, 30), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def endpoints(rollouts: Rollouts, tokens: Tokens) -> list[Endpoints]:
    arms = [GroupArm(f"every{n}", "Stride", {"rule": "stride", "group_max_size": n}, None) for n in (5, 4, 3)]
    updates = group_updates(arms, tokens, GAMMA, LAM)
    return [Endpoints.of(rollouts, updates[arm.name]) for arm in arms]


@pytest.fixture(scope="module")
def curve(policy: Any, endpoints: list[Endpoints]) -> Any:
    return measure_curve(policy, endpoints, WAYS, TEMPERATURE)


@pytest.fixture(scope="module")
def measured(curve: Any) -> pd.DataFrame:
    return curve.rows.assign(**PLACE, density=0.25)


def points(pairs: list[tuple[float, float]]) -> pd.DataFrame:
    kinds = [ENDPOINTS, *[WINDOW] * (len(pairs) - 1)]
    return pd.DataFrame(pairs, columns=["speedup", "cosine"]).assign(kind=kinds)


def test_a_way_is_named_by_what_flows() -> None:
    assert [kind_of(way) for way in WAYS] == [(ENDPOINTS, 0.0), (WINDOW, 2.0), (SHARE, 0.5)]


def test_every_way_is_a_point_and_the_exact_update_is_one_of_them(measured: pd.DataFrame, curve: Any) -> None:
    expected = {("start", "stride", *way): found for way, found in expected_cosines(curve, WAYS).items()}
    table = cost_table(measured, expected).set_index("kind")
    assert list(table.index) == [ENDPOINTS, WINDOW, SHARE, GATHERED]
    assert table.loc[GATHERED, ["cosine", "norm_ratio", "expected_cosine"]].tolist() == [1.0, 1.0, 1.0]
    assert table.loc[ENDPOINTS, "cosine"] < table.loc[WINDOW, "cosine"] < 1.0
    assert table.loc[ENDPOINTS, "speedup"] > table.loc[WINDOW, "speedup"] > table.loc[GATHERED, "speedup"] > 1.0
    assert table.loc[ENDPOINTS, "speedup"] > table.loc[ENDPOINTS, "speedup_recompute"]
    whole = measured[(measured["group"] == ALL) & (measured["kind"] == WINDOW)]["cosine"].to_numpy()
    by_hand = jackknife(lambda kept: float(whole[kept].mean()), len(whole))
    assert table.loc[WINDOW, ["cosine", "cosine_low", "cosine_high"]].tolist() == pytest.approx(list(by_hand))
    assert (table["batches"] == 3).all()


def test_every_table_has_the_columns_that_are_documented(measured: pd.DataFrame, curve: Any, tmp_path) -> None:
    stale = pd.DataFrame([{"batch": b, "steps": 1, "kv": "reuse", "cosine": 0.1 * b, "norm_ratio": 1.0,
                           "log_prob_error": 0.1, "log_prob_error_max": float(b), "moved": 0.2}
                          for b in range(3)]).assign(**PLACE)  # fmt: skip
    tables = {
        "stream_groups": group_table(measured),
        "stream_costs": cost_table(measured, {}),
        "stream_progress": progress_table(measured),
        "stream_staleness": staleness_table(stale),
    }
    for name, table in tables.items():
        write_table(tmp_path, name, table)
    assert tables["stream_groups"]["group"].tolist() == [ALL, *PARAMETER_GROUPS]
    assert tables["stream_staleness"][["cosine", "log_prob_error_max"]].iloc[0].tolist() == pytest.approx([0.1, 2.0])
    with pytest.raises(ValueError, match="documented"):
        write_table(tmp_path, "stream_groups", tables["stream_groups"].drop(columns="group"))


@given(st.lists(point, min_size=1, max_size=8))
def test_a_point_is_on_the_front_exactly_if_no_other_beats_it(pairs: list[tuple[float, float]]) -> None:
    front = pareto(points(pairs)).tolist()
    assert any(front)
    for (speed, cosine), on in zip(pairs, front, strict=True):
        beaten = any(s >= speed and c >= cosine and (s, c) != (speed, cosine) for s, c in pairs)
        assert on != beaten


def test_progress_is_cosine_times_the_speed_up_of_a_step(measured: pd.DataFrame) -> None:
    table = progress_table(measured, shares=(1.0, 0.5)).set_index(["update_share", "kind"])
    whole = measured[(measured["group"] == ALL) & (measured["kind"] == SHARE)]
    assert table.loc[(1.0, SHARE), "progress"] == pytest.approx((whole["cosine"] * whole["speedup"]).mean())
    by_step = whole["cosine"] * 2 * whole["speedup"] / (whole["speedup"] + 1)
    assert table.loc[(0.5, SHARE), "progress"] == pytest.approx(by_step.mean())
    assert table.loc[(0.5, SHARE), "progress"] != pytest.approx(table.loc[(1.0, SHARE), "progress"])
    for share in (1.0, 0.5):
        own = table.loc[share]
        assert own["best"].sum() == 1
        assert own["progress"].idxmax() == own["best"].idxmax()


@given(st.tuples(st.floats(4.0, 32.0), st.floats(0.2, 0.9)), st.lists(point, min_size=1, max_size=5), st.floats(0, 1))
def test_above_the_break_even_share_endpoints_alone_are_best_and_below_it_they_are_not(
    bare: tuple[float, float], others: list[tuple[float, float]], share: float
) -> None:
    pairs = [bare, *[(1.0 + s % (bare[0] - 1.0), c) for s, c in others]]
    edge = break_even(points(pairs))
    worth = [c / (1.0 - share + share / s) for s, c in pairs]
    if np.isnan(edge):
        assert max(s * c for s, c in pairs) >= bare[0] * bare[1] * (1 - 1e-9)
    elif share > edge + 1e-9:
        assert worth[0] >= max(worth) * (1 - 1e-6)
    elif share < edge - 1e-9:
        assert worth[0] <= max(worth[1:]) * (1 + 1e-6)


def test_the_break_even_share_by_hand_and_none_where_another_way_is_best_in_itself() -> None:
    """Cosine 1/2 at 4x against the exact gradient at 1x: 1 / 2 / (1 - u + u / 4) = 1 at u = 2 / 3."""
    assert break_even(points([(4.0, 0.5), (1.0, 1.0)])) == pytest.approx(2 / 3)
    assert break_even(points([(4.0, 0.5), (1.0, 0.4)])) == 0.0
    assert np.isnan(break_even(points([(4.0, 0.5), (3.0, 0.9)])))


def test_the_speed_up_counts_each_sequence_by_its_own_length(policy: Any) -> None:
    """Attention is quadratic: two sequences of 5 and 25 tokens are dearer than two of 15."""
    shape, rows = Shape.of(policy.config), torch.tensor([4, 29])
    uneven = Endpoints(Layout(torch.arange(30), torch.tensor([5, 25]), packed=False), rows, torch.ones(2))
    even = Endpoints(Layout(torch.arange(30), torch.tensor([15, 15]), packed=False), rows, torch.ones(2))

    def cost(mode: str) -> float:
        works = [Work(tokens=n, response=n, endpoints=1, live=1, kept=n) for n in (5, 25)]
        return sum(sum(update_flops(shape, work, mode).values()) for work in works)

    for mode in ("streamed", "streamed_reuse", "gathered"):
        assert update_speedup(shape, uneven, rows, mode) == pytest.approx(cost("dense") / cost(mode))
    other = update_speedup(shape, even, torch.tensor([14, 29]), "streamed_reuse")
    assert update_speedup(shape, uneven, rows, "streamed_reuse") != pytest.approx(other, rel=1e-6)


@given(layouts, st.integers(0, 8), st.integers(0, 10**6))
def test_a_window_that_stops_at_the_endpoint_before_leaves_the_same_tokens(
    lengths: list[int], window: int, seed: int
) -> None:
    """So "the endpoint's own group, up to n tokens" is no way of its own: what lies further back flows already."""
    layout = Layout(torch.zeros(sum(lengths), dtype=torch.long), torch.tensor(lengths), packed=False)
    chosen = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed)) < 0.3
    chosen[-1] = True
    rows = chosen.nonzero().flatten()
    own = set()
    for row in rows.tolist():
        first = row - int(layout.position[row])
        before = max([other for other in rows.tolist() if first <= other < row], default=first - 1)
        own |= set(range(max(row - window, before + 1), row + 1))
    assert set(LiveRows(window=window).places(layout, rows).tolist()) == own


def test_a_window_as_long_as_the_longest_group_is_every_token_and_a_shorter_one_is_not() -> None:
    layout, rows = Layout(torch.zeros(10, dtype=torch.long), torch.tensor([10]), packed=False), torch.tensor([3, 9])
    assert LiveRows(window=5).places(layout, rows).tolist() == list(range(10))
    assert LiveRows(window=2).places(layout, rows).tolist() == [1, 2, 3, 7, 8, 9]
