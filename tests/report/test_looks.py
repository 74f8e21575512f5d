"""No two arms of one picture look alike, to any eye, up to forty of them."""

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
from tests.colours import VIEWS, apart, oklab
from tests.report.conftest import collected
from tests.synthetic import ARMS

ANY, DEFICIENT = 15.0, 6.5
"""How far two colours of one picture are apart, to any eye and with a deficiency."""
MANY = 40


def looks(count: int) -> dict[str, Look]:
    """Of so many arms, the reference in their middle."""
    return looks_of({f"arm{i}": f"Arm {i}" for i in range(count)}, f"arm{count // 2}")


def told_apart(first: Look, second: Look) -> bool:
    """Whether curves, points and bars of two arms all look different."""
    near = [view for view in VIEWS if apart(first.colour, second.colour, view) < (ANY if view == "any" else DEFICIENT)]
    ways = [(first.dashes, second.dashes), (first.marker, second.marker), (first.hatch, second.hatch)]
    return not near or all(a != b for a, b in ways)


@pytest.mark.parametrize("count", [3, 16, MANY])
def test_no_two_arms_look_alike(count: int) -> None:
    found = list(looks(count).values())
    assert [(a.label, b.label) for a, b in combinations(found, 2) if not told_apart(a, b)] == []
    for kind in ("dashes", "marker", "hatch"):
        assert len({(look.colour, getattr(look, kind)) for look in found}) == count, kind
    # No pair is told apart by its colour alone.
    assert all(a.marker != b.marker for a, b in combinations(found, 2) if a.dashes == b.dashes)


def test_looks_that_share_colour_and_dashes_are_found_alike() -> None:
    one, other = (Look("", ARM_COLOURS[0], (5, 1.6), marker, hatch) for marker, hatch in (("s", ""), ("^", "//")))
    assert not told_apart(one, other)
    assert told_apart(one, replace(other, colour=ARM_COLOURS[1]))


def test_the_reference_shares_nothing_with_any_other_arm_and_moves_no_look() -> None:
    found = looks(MANY)
    reference = found.pop(f"arm{MANY // 2}")
    for kind in ("colour", "dashes", "marker", "width"):
        assert getattr(reference, kind) not in {getattr(look, kind) for look in found.values()}
    titles = {name: name for name in "abcd"}
    assert looks_of(titles, "a") == looks_of({name: titles[name] for name in "bcad"}, "a")


@pytest.mark.parametrize(
    ("colours", "any_eye"),
    [
        ((REFERENCE_COLOUR, *ARM_COLOURS), ANY),
        ((INK, *CAUSE_COLOURS.values()), ANY),
        (tuple(CLOSED_COLOURS.values()), DEFICIENT),
        # With the mark of the whole.
        ((INK, *STAGE_COLOURS.values()), ANY),
    ],
    ids=["arms", "causes of memory", "what closes groups", "stages"],
)
def test_colours_of_one_picture_are_apart(colours: tuple[str, ...], any_eye: float) -> None:
    for view in VIEWS:
        least = min((apart(a, b, view), a, b) for a, b in combinations(colours, 2))
        assert least[0] >= (any_eye if view == "any" else DEFICIENT), (view, *least)


def test_the_measure_is_oklab_and_sees_what_a_deficiency_hides() -> None:
    assert oklab("#ff0000") == pytest.approx((0.6279554, 0.2248631, 0.1258463), abs=1e-5)
    assert apart("#e08a00", "#d55e00") < ANY < apart("#009e73", "#d55e00")
    assert apart("#009e73", "#d55e00", "deuteranopia") < ANY


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


def test_an_arm_looks_as_its_entry_in_the_legend_and_of_many_arms_each_has_its_own(
    crowd: tuple[Tables, Benchmark],
) -> None:
    tables, benchmark = crowd
    grouped = tables.groups[tables.groups["arm"].str.contains("group|copy")]
    with figure_style():
        curves = reward.draw(reward.data(tables.steps), benchmark)
        bars = stage_memory.draw(stage_memory.data(tables.stages), benchmark)
        marks = controls.draw(controls.data(tables.evals, benchmark, tables.groups), benchmark)
        areas = density.draw(density.data(grouped), benchmark)
    # Of arms that form groups there are fourteen, and three causes; the reference has no difference.
    for figure, count in ((curves, 16), (bars, 16), (marks, 15), (areas, 14 + 3)):
        found = entries(figure)
        assert len(found) == len(set(found)) == count
    lines = curves.axes[0].get_lines()
    assert len(benchmark.arms) > MOST_BANDED  # so that the means alone are drawn
    assert not curves.axes[0].collections
    look = [(to_hex(line.get_color()), str(line._dash_pattern), str(line.get_marker())) for line in lines]
    assert look == entries(curves)
    drawn = [(to_hex(own[0].get_facecolor()), str(own[0].get_hatch())) for own in bars.axes[0].containers]
    assert drawn == entries(bars)
