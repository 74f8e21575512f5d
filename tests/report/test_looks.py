"""No two arms of one picture look alike, to any eye, however many there are."""

from dataclasses import replace
from itertools import combinations

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw.style import (
    ARM_COLOURS,
    CLOSED_COLOURS,
    INK,
    MOST_BANDED,
    REFERENCE_COLOUR,
    STAGE_COLOURS,
    Look,
    figure_style,
    looks_of,
)
from groupppo.report.figures import controls, density, reward, stage_memory
from groupppo.report.figures.profile import CAUSE_COLOURS
from groupppo.tables import SCHEMA, Tables
from tests.colours import VIEWS, apart, ciede2000
from tests.report.conftest import collected
from tests.synthetic import ARMS

ANY, DEFICIENT = 20.0, 10.0
"""CIEDE2000 that two colours of one picture are apart, to any eye and with a deficiency."""
MANY = 40


def looks(count: int) -> dict[str, Look]:
    """Of so many arms, the reference in their middle."""
    return looks_of({f"arm{i}": f"Arm {i}" for i in range(count)}, f"arm{count // 2}")


def told_apart(first: Look, second: Look) -> bool:
    """Whether curves, points and bars of two arms all look different."""
    near = [view for view in VIEWS if apart(first.colour, second.colour, view) < (ANY if view == "any" else DEFICIENT)]
    ways = [(first.dashes, second.dashes), (first.marker, second.marker), (first.hatch, second.hatch)]
    return not near or all(a != b for a, b in ways)


def as_before(count: int) -> dict[str, Look]:
    """What gave arm i and arm i + 7 one colour and one dash: both shifted by one for each turn, of four dashes."""
    colours = ("#0072b2", "#e08a00", "#009e73", "#c8479a", "#56b4e9", "#d55e00", "#7a5c3e")
    dashes = ((), (5, 1.6), (1.6, 1.3), (6, 1.6, 1.6, 1.6))
    marks = "os^DvPX"
    return {
        f"arm{i}": Look("", colours[i % 7], dashes[(i + i // 7) % 4], marks[(i + i // 7) % 7]) for i in range(count)
    }


@pytest.mark.parametrize("count", [3, 16, MANY, 200])
def test_no_two_arms_look_alike(count: int) -> None:
    found = list(looks(count).values())
    alike = [(a.label, b.label) for a, b in combinations(found, 2) if not told_apart(a, b)]
    assert alike == []
    for kind in ("dashes", "marker", "hatch"):
        assert len({(look.colour, getattr(look, kind)) for look in found}) == count, kind


def test_the_looks_before_were_alike() -> None:
    before = as_before(MANY)
    assert not told_apart(before["arm0"], before["arm7"])
    assert before["arm0"].dashes == before["arm7"].dashes


def test_curves_of_equal_dashes_differ_in_marker_too() -> None:
    """So that no pair is told apart by its colour alone."""
    pairs = [(a, b) for a, b in combinations(looks(MANY).values(), 2) if a.dashes == b.dashes]
    assert pairs
    assert all(a.marker != b.marker for a, b in pairs)


def test_the_reference_shares_nothing_with_any_other_arm() -> None:
    found = looks(MANY)
    reference = found.pop(f"arm{MANY // 2}")
    for kind in ("colour", "dashes", "marker", "width"):
        assert getattr(reference, kind) not in {getattr(look, kind) for look in found.values()}


def test_an_arm_keeps_its_look_wherever_the_reference_stands() -> None:
    titles = {name: name for name in "abcd"}
    moved = {name: titles[name] for name in "bcad"}
    assert looks_of(titles, "a") == looks_of(moved, "a")


@pytest.mark.parametrize(
    ("colours", "any_eye", "deficient"),
    [
        ((REFERENCE_COLOUR, *ARM_COLOURS), ANY, DEFICIENT),
        ((INK, *CAUSE_COLOURS.values()), ANY, DEFICIENT),
        (tuple(CLOSED_COLOURS.values()), DEFICIENT, DEFICIENT),
        # With the mark of the whole.
        ((INK, *STAGE_COLOURS.values()), ANY, DEFICIENT),
    ],
    ids=["arms", "causes of memory", "what closes groups", "stages"],
)
def test_colours_of_one_picture_are_apart(colours: tuple[str, ...], any_eye: float, deficient: float) -> None:
    for view in VIEWS:
        least = min((apart(a, b, view), a, b) for a, b in combinations(colours, 2))
        assert least[0] >= (any_eye if view == "any" else deficient), (view, *least)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
        ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_measure_gives_the_values_that_were_published_with_it(
    first: tuple[float, float, float], second: tuple[float, float, float], expected: float
) -> None:
    assert ciede2000(first, second) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, Benchmark]:
    """Results of sixteen arms: three of their own, and copies of one of them."""
    made, benchmark = collected(tmp_path_factory.mktemp("crowd"), arms=ARMS, seeds=(1, 2), steps=6)
    copied = benchmark.arms["group_ppo"]
    copies = {f"copy{i}": replace(copied, name=f"copy{i}", title=f"Copy {i}") for i in range(13)}
    tables = {}
    for name in SCHEMA:
        plain = getattr(made, name).astype({"arm": str})
        own = plain[plain["arm"] == "group_ppo"]
        tables[name] = pd.concat([plain, *(own.assign(arm=copy) for copy in copies)], ignore_index=True)
    return Tables(**tables), replace(benchmark, arms=benchmark.arms | copies)


def entries(figure: Figure) -> list[tuple[str, ...]]:
    """What tells the entries of a figure's legend apart, the names left out."""
    legend = next(part.legends[0] for part in (figure, *figure.subfigs) if part.legends)
    lines = [(to_hex(line.get_color()), str(line._dash_pattern), str(line.get_marker())) for line in legend.get_lines()]
    return lines + [(to_hex(bar.get_facecolor()), str(bar.get_hatch())) for bar in legend.get_patches()]


def test_sixteen_arms_of_a_drawn_figure_have_sixteen_entries_in_its_legend(crowd: tuple[Tables, Benchmark]) -> None:
    tables, benchmark = crowd
    grouped = tables.groups[tables.groups["arm"].str.contains("group|copy")]
    with figure_style():
        figures = {
            16: (
                reward.draw(reward.data(tables.steps), benchmark),
                stage_memory.draw(stage_memory.data(tables.stages), benchmark),
            ),
            15: (controls.draw(controls.data(tables.evals, benchmark, tables.groups), benchmark),),
            # Arms that form groups, and three causes.
            17: (density.draw(density.data(grouped), benchmark),),
        }
    for count, drawn in figures.items():
        for figure in drawn:
            found = entries(figure)
            assert len(found) == len(set(found)) == count


def test_a_curve_looks_as_its_entry_in_the_legend(crowd: tuple[Tables, Benchmark]) -> None:
    tables, benchmark = crowd
    with figure_style():
        figure = reward.draw(reward.data(tables.steps), benchmark)
    panel = figure.axes[0]
    # Of so many arms the means alone are drawn.
    assert len(benchmark.arms) > MOST_BANDED
    assert len(panel.get_lines()) == len(benchmark.arms)
    assert not panel.collections
    curves = [(to_hex(line.get_color()), str(line._dash_pattern), str(line.get_marker())) for line in panel.get_lines()]
    assert curves == entries(figure)


def test_bars_of_an_arm_have_its_hatch(crowd: tuple[Tables, Benchmark]) -> None:
    tables, benchmark = crowd
    with figure_style():
        figure = stage_memory.draw(stage_memory.data(tables.stages), benchmark)
    bars = [(to_hex(own[0].get_facecolor()), str(own[0].get_hatch())) for own in figure.axes[0].containers]
    assert bars == entries(figure)
