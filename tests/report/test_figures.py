"""Figures show what the tables hold, say how many seeds that is, and never show less in silence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.figure import Figure
from PIL import Image

from groupppo.config import Benchmark, CellPlan
from groupppo.draw import style
from groupppo.draw.blocks import FigureRecord
from groupppo.draw.figures import read_figures, save
from groupppo.draw.style import MOST_SINGLE, figure_style, t_interval
from groupppo.errors import BadInput
from groupppo.report import figures
from groupppo.report.figures import (
    Evidence,
    accuracy,
    density,
    draw_figures,
    reward,
    stage_memory,
    stage_seconds,
    verdicts,
)
from groupppo.stats.intervals import paired_t
from groupppo.tables import SCHEMA, Tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.report.conftest import collected
from tests.synthetic import ARMS, STAGE_SECONDS, synthetic_benchmark

FIGURES = ["verdicts", "reward", "target", "accuracy", "parity", "controls", "density", "stage_seconds", "stage_memory"]
DATA_AND_FIGURE = [
    ("steps", reward.data, reward.draw),
    ("evals", accuracy.data, accuracy.draw),
    ("groups", density.data, density.draw),
    ("stages", stage_seconds.data, stage_seconds.draw),
    ("stages", stage_memory.data, stage_memory.draw),
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Tables, Benchmark]:
    return collected(tmp_path_factory.mktemp("quick"), seeds=(1, 2), steps=12)


@pytest.fixture(scope="module")
def judged(quick) -> dict:
    tables, benchmark = quick
    return decide(load_claims(benchmark.claims), tables, benchmark)


@pytest.fixture(scope="module")
def drawn(quick, judged, tmp_path_factory) -> tuple[list[FigureRecord], Path]:
    out = tmp_path_factory.mktemp("figures")
    return draw_figures(*quick, out, judged), out


def only_seed(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    return table[(table["seed"] == seed).fillna(True).astype(bool)]


def test_every_figure_is_written_as_svg_png_and_csv_with_caption_and_alternative_text(drawn):
    records, out = drawn
    assert [record.id for record in records] == FIGURES
    for record in records:
        assert record.title
        assert record.caption.endswith(".")
        assert record.alt.endswith(".")
        assert list(record.files) == ["svg", "png", "csv"]
        assert (out / record.files["svg"]).read_text(encoding="utf-8").rstrip().endswith("</svg>")
        assert (out / record.files["png"]).read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(out / record.files["csv"])) > 0
    assert read_figures(out) == records
    captions, texts = ({record.id: getattr(record, name) for record in records} for name in ("caption", "alt"))
    for name in ("reward", "accuracy", "density", "stage_seconds", "stage_memory"):
        assert "2 seeds in each arm" in captions[name]
        assert ("90 % t interval" in captions[name]) != name.startswith("stage")
    assert "Start checkpoint 0.400" in texts["accuracy"]
    assert "GROUP-PPO 0.762" in texts["accuracy"]  # mean of 0.76 and 0.76 + 0.004
    assert "8.0 %" in texts["density"]


@pytest.mark.parametrize("text", [None, "{", '[{"id": "reward"}]'])
def test_a_folder_without_a_proper_index_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "figures.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="draw the figures"):
        read_figures(tmp_path)


def test_one_seed_gives_a_figure_without_band_and_a_caption_that_says_so(quick):
    tables, benchmark = quick
    alone = Tables(**{name: only_seed(getattr(tables, name), 1) for name in SCHEMA})
    for data in (reward.data(alone.steps), density.data(alone.groups), accuracy.data(alone.evals)):
        assert data["low"].isna().all()
    assert reward.data(tables.steps)["low"].notna().any()
    with figure_style():
        reward.draw(reward.data(alone.steps), benchmark)
    caption = accuracy.caption(accuracy.data(alone.evals), benchmark)
    assert "One seed in each arm, so there is no interval over seeds." in caption


@pytest.mark.parametrize(("table", "compute", "draw"), DATA_AND_FIGURE)
def test_a_missing_reference_does_not_stop_a_figure_and_an_empty_table_is_refused(quick, table, compute, draw):
    tables, benchmark = quick
    rows = getattr(tables, table)
    with figure_style():
        draw(compute(rows[rows["arm"] != "ppo"]), benchmark)
    with pytest.raises(BadInput, match="collect"):
        compute(rows.iloc[:0])


def test_tables_without_runs_or_without_the_reward_are_refused(quick, tmp_path):
    tables, benchmark = quick
    with pytest.raises(BadInput, match=r"runs\.parquet"):
        draw_figures(replace(tables, runs=tables.runs.iloc[:0]), benchmark, tmp_path)
    with pytest.raises(BadInput, match="reward/mean"):
        reward.data(tables.steps[tables.steps["metric"] != "reward/mean"])


def test_excluded_runs_are_not_drawn_and_the_caption_counts_them(quick):
    tables, benchmark = quick
    tables = replace(tables, runs=tables.runs.assign(admissible=tables.runs["arm"] != "group_ppo"))
    evidence = Evidence(tables, benchmark, {})
    pictures = {module.FIGURE.id: module.FIGURE.picture(evidence) for module in (reward, accuracy, stage_seconds)}
    for picture in pictures.values():
        assert set(picture.data["arm"]) - {"start"} == {"ppo", "grpo"}
        assert "2 runs excluded from the evidence are not drawn." in picture.caption
    assert "start" in set(pictures["accuracy"].data["arm"])
    assert density.FIGURE.picture(evidence).startswith("none of its runs may serve as evidence.")


def test_a_figure_that_is_not_drawn_leaves_no_older_picture_behind(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "report_figures", lambda: (accuracy.FIGURE, density.FIGURE))
    tables, benchmark = quick
    dense = replace(benchmark, arms={name: benchmark.arms[name] for name in ("ppo", "grpo")})
    (tmp_path / "density.svg").write_text("an older figure", encoding="utf-8")
    drawn, left = draw_figures(tables, dense, tmp_path)
    assert (left.caption, left.files) == ("Not drawn: no arm of this benchmark forms groups.", {})
    assert not (tmp_path / "density.svg").exists()
    assert (tmp_path / drawn.files["svg"]).exists()


def test_the_interval_over_seeds_is_the_one_that_verdicts_use():
    values = np.array([[0.50], [0.62], [0.58], [0.71]])
    mean, low, high = t_interval(values)
    expected = paired_t(values[:, 0], 0.90)
    assert (mean[0], low[0], high[0]) == pytest.approx((expected.estimate, expected.low, expected.high))


@given(arrays(float, (3, 8), elements=st.floats(-10, 10)), st.integers(1, 8))
def test_a_band_holds_its_mean_and_moves_with_the_data(values, pool):
    mean, low, high = t_interval(values, pool=pool)
    assert np.all((low <= mean) & (mean <= high))
    np.testing.assert_allclose(t_interval(values + 1, pool=pool)[1], low + 1, atol=1e-6)


def test_pooling_keeps_two_crossing_seeds_from_looking_certain():
    crossing = np.array([np.linspace(-1, 1, 21), np.linspace(1, -1, 21)])
    _, low, high = t_interval(crossing)
    _, pooled_low, pooled_high = t_interval(crossing, pool=21)
    assert high[10] - low[10] == pytest.approx(0, abs=1e-9)
    assert pooled_high[10] - pooled_low[10] > 1


@given(st.integers(1, 5000))
def test_the_smoothing_window_is_odd_and_a_tenth_of_the_run(steps):
    window = reward.smoothing_window(steps)
    assert window % 2 == 1
    assert window <= max(1, steps / 10 + 1.5)


def test_the_mean_over_seconds_covers_only_what_every_seed_reached(quick):
    data = reward.data(quick[0].steps)
    seconds = data[(data["x_axis"] == "seconds") & (data["arm"] == "grpo")]
    ends = seconds[seconds["seed"].notna()].groupby("seed")["x"].max()
    assert seconds[seconds["seed"].isna()]["x"].max() == pytest.approx(ends.min())
    assert ends.max() > ends.min()


def test_stage_seconds_are_medians_over_steps_and_the_rest_fills_the_step(quick):
    data = stage_seconds.data(quick[0].stages)
    dense = data[(data["arm"] == "ppo") & (data["seed"] == 1)].set_index("stage")["seconds"]
    # Of twelve steps two are slow, and the others take 0.97, 1 or 1.03 of the nominal time.
    for stage, seconds in STAGE_SECONDS.items():
        assert dense[stage] == pytest.approx(seconds, rel=0.04)
    assert dense["rest"] == pytest.approx(0.02 * sum(STAGE_SECONDS.values()), rel=0.1)
    means = quick[0].stages.query("arm == 'ppo' and seed == 1 and stage == 'gen'")["seconds"].mean()
    assert means > 1.2 * dense["gen"]
    # An arm without a critic has none of its stages.
    assert "update_critic" not in set(data.loc[data["arm"] == "grpo", "stage"])


def test_dollar_signs_in_a_title_are_letters_not_mathematics(quick, tmp_path):
    tables, benchmark = quick
    priced = replace(benchmark.arms["ppo"], title=r"PPO $\undefined$ <b>")
    titled = replace(benchmark, arms=benchmark.arms | {"ppo": priced})
    with figure_style():
        save(stage_seconds.draw(stage_seconds.data(tables.stages), titled), tmp_path, "priced")
    assert "<b>" not in (tmp_path / "priced.svg").read_text(encoding="utf-8")


def overhang(figure: Figure) -> float:
    """Inches by which anything drawn leaves the picture."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    return max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)


@pytest.mark.parametrize("count", [2, 9])
def test_legends_and_labels_of_many_arms_stay_inside_the_picture(quick, monkeypatch, count):
    tables, benchmark = quick
    base = benchmark.arms["grpo"]
    arms = {f"arm{i}": replace(base, name=f"arm{i}", title=f"GROUP-PPO, random endpoints {i}") for i in range(count)}
    many = replace(benchmark, arms=benchmark.arms | arms)

    def with_arms(table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([table, *(table[table["arm"] == "grpo"].assign(arm=arm) for arm in arms)])

    with figure_style():
        assert overhang(accuracy.draw(accuracy.data(with_arms(tables.evals)), many)) < 0.05
        data = reward.data(with_arms(tables.steps))
        assert overhang(reward.draw(data, many)) < 0.05
        monkeypatch.setattr(style, "LETTER", 0.001)
        assert overhang(reward.draw(data, many)) > 0.05


def test_the_overview_shows_each_claim_judged_by_an_interval_against_its_region(quick, judged, drawn):
    records, out = drawn
    shown = pd.read_csv(out / "verdicts.csv")
    decided = [
        v["id"] for v in judged["verdicts"] if v["verdict"] in ("supported", "refuted", "inconclusive") and v["low"]
    ]
    assert list(shown["id"]) == decided
    regions = {claim.id: claim.region for claim in load_claims(quick[1].claims).claims}
    assert list(shown["region_low"]) == pytest.approx([regions[name].low for name in decided])
    assert f"({len(judged['verdicts']) - len(decided)})" in records[0].caption


def test_a_long_label_keeps_its_distance_from_the_edge(tmp_path):
    with figure_style():
        figure = Figure(figsize=(style.WIDTH, 2), layout="constrained")
        style.label_rows(figure.subplots(), ["GROUP-PPO, lambda 0.95"])
        save(figure, tmp_path, "label")
    ink = np.asarray(Image.open(tmp_path / "label.png").convert("L")) < 200
    assert ink.any(axis=0).argmax() > 4


@pytest.mark.parametrize("end", ["low", "high"])
def test_an_estimate_without_an_end_of_its_interval_is_on_the_axis(quick, judged, end):
    one = verdicts.data(judged, load_claims(quick[1].claims)).iloc[:1].assign(unit="x")
    one = one.assign(estimate=40.0, low=1.2, high=50.0, region_low=1.0, region_high=1.5).assign(**{end: None})
    with figure_style():
        [panel] = verdicts.draw(one, quick[1]).axes
    assert panel.get_xlim()[0] < 40 < panel.get_xlim()[1]


def test_a_task_with_few_arms_has_panels_and_bars_as_high_as_one_with_many(tmp_path):
    many = dict.fromkeys(("random", "stride", "entropy", "group_ppo_broadcast"), ARMS["group_ppo"])
    few = CellPlan("chain", "tiny", ("ppo", "group_ppo"), (1, 2))
    tables, benchmark = collected(tmp_path, arms=ARMS | many, tasks=("sorting", "chain"), cells=[few], steps=2)
    with figure_style():
        closed = density.draw(density.data(tables.groups), benchmark)
        bars = stage_memory.draw(stage_memory.data(tables.stages), benchmark)
    heights = []
    for figure in (closed, bars):
        figure.draw_without_rendering()
    for block in closed.subfigs:
        heights.append([panel.get_window_extent().height for panel in block.axes[1:]])
    assert max(map(max, heights)) < 1.4 * min(map(min, heights))
    thick = [panel.patches[0].get_window_extent().height for panel in bars.axes[::2]]
    assert max(thick) < 1.4 * min(thick)


def test_a_curve_of_many_seeds_is_their_mean_and_one_of_few_has_each(quick):
    steps = quick[0].steps.query("arm == 'grpo' and step <= 2 and seed == 1")
    for seeds, single in ((MOST_SINGLE, True), (MOST_SINGLE + 1, False)):
        data = reward.data(pd.concat([steps.assign(seed=seed) for seed in range(seeds)]))
        assert data["seed"].notna().any() == single
        assert set(data.loc[data["seed"].isna(), "seeds"]) == {seeds}


def test_the_overview_refuses_other_claims_and_without_an_interval_says_that_there_is_none(quick, judged):
    claims = load_claims(quick[1].claims)
    assert len(verdicts.data(judged, claims)) > 0
    with pytest.raises(BadInput, match="claims_sha256"):
        verdicts.data(judged | {"claims_sha256": "0" * 64}, claims)
    none = judged | {"verdicts": [v | {"low": None, "high": None} for v in judged["verdicts"]]}
    assert verdicts.FIGURE.picture(Evidence(*quick, none)) == "no claim was judged by an interval."


def test_axes_start_at_zero_carry_units_and_each_task_and_model_has_its_own(quick):
    tables, benchmark = quick
    shares = density.data(tables.groups)
    assert shares[["cap", "criterion", "end"]].sum(axis=1).to_numpy() == pytest.approx(1)
    two = synthetic_benchmark(tasks=("sorting", "chain"))
    steps = pd.concat([tables.steps, tables.steps.assign(task="chain")])
    with figure_style():
        seconds = stage_seconds.draw(stage_seconds.data(tables.stages), benchmark)
        memory = stage_memory.draw(stage_memory.data(tables.stages), benchmark)
        above, below, *_ = density.draw(shares, benchmark).axes
        assert len(reward.draw(reward.data(steps), two).axes) == 6
        assert len(reward.draw(reward.data(tables.steps), benchmark).axes) == 3
    assert {panel.get_xlim()[0] for panel in [*seconds.axes, *memory.axes]} == {0}
    assert "seconds" in seconds.axes[0].get_xlabel()
    assert [panel.get_xlabel() for panel in memory.axes] == ["peak, GB", "rise above stage entry, MB"]
    assert (above.get_ylim()[0], below.get_ylim()) == (0, (0, 1))


def test_the_same_tables_give_the_same_bytes_whichever_process_draws_them_and_others_do_not(quick, drawn, tmp_path):
    tables, benchmark = quick
    known, out = drawn
    with pytest.MonkeyPatch.context() as patch:
        some = tuple(figure for figure in figures.report_figures() if figure.id in ("accuracy", "stage_seconds"))
        patch.setattr(figures, "report_figures", lambda: some)
        again = draw_figures(tables, benchmark, tmp_path, processes=2)
        assert again == [record for record in known if record.id in ("accuracy", "stage_seconds")]
        slow = replace(tables, stages=tables.stages.assign(seconds=2 * tables.stages["seconds"]))
        [_, other] = draw_figures(slow, benchmark, tmp_path / "slow")
        with pytest.raises(BadInput, match=r"stages\.parquet"):  # in another process
            draw_figures(replace(tables, stages=tables.stages.iloc[:0]), benchmark, tmp_path / "none", processes=2)
    for file in (file for record in again for file in record.files.values()):
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes()
    for file in other.files.values():
        assert (tmp_path / "slow" / file).read_bytes() != (out / file).read_bytes()
