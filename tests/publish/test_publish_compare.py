"""Two sides of the same cells: what got worse is flagged, what cannot be compared is named."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from groupppo.errors import BadInput
from groupppo.publish.compare import Gap, compare, is_cost
from groupppo.publish.compare_page import write_comparison
from groupppo.publish.contents import read_sums, sums_text
from groupppo.records.hashing import sha256_file
from tests.publish.conftest import change_column
from tests.synthetic import rewrite_json

RUN = "runs/sorting/tiny/ppo/seed1"
ATTACK = "<script>alert(1)</script>|x"


def kinds(comparison) -> list[tuple[str, str]]:
    return [(found.kind, found.place) for found in comparison.regressions]


def gaps(comparison, gap: Gap) -> list[str]:
    return [each.what for each in comparison.gaps(gap)]


def slower(folder, factor: float, seed: int = 2) -> None:
    def change(row: dict) -> float:
        return row["seconds"] * (factor if (row["arm"], row["seed"]) == ("grpo", seed) else 1)

    change_column(folder, "stages", "seconds", change)


def shift(folder, by: dict[int, float]) -> None:
    def change(row: dict) -> float:
        return row["value"] + (by[row["seed"]] if row["arm"] == "grpo" else 0)

    change_column(folder, "evals", "value", change)


def test_results_compared_with_their_own_bundle_differ_in_nothing(finished, bundle):
    same = compare(finished, bundle)
    assert same.exit_code == 0
    assert same.settings == same.regressions == same.not_compared == ()
    assert len(same.cells) == 9
    assert all(arm.estimate == pytest.approx(1 if is_cost(arm.quantity) else 0) for arm in same.arms)


@pytest.mark.parametrize(("factor", "flagged"), [(1.16, True), (1.14, False), (0.5, False)])
def test_a_cell_16_percent_slower_is_flagged_and_one_14_percent_slower_is_not(finished, copy, factor, flagged):
    slower(copy, factor)
    found = compare(finished, copy)
    assert kinds(found) == ([("speed", "sorting/tiny/grpo/seed2")] if flagged else [])
    assert found.exit_code == int(flagged)


@pytest.mark.parametrize(("factor", "flagged"), [(1.011, True), (1.009, False)])
def test_a_cell_with_over_1_percent_more_memory_is_flagged(finished, copy, factor, flagged):
    change_column(copy, "stages", "peak_bytes", lambda row: round(row["peak_bytes"] * factor))
    found = kinds(compare(finished, copy))
    assert len(found) == (9 if flagged else 0)
    assert {kind for kind, _ in found} <= {"memory"}


@pytest.mark.parametrize(
    ("by", "flagged"),
    [
        ({1: -0.011, 2: -0.010, 3: -0.012}, True),  # little, but in every seed
        ({1: -0.03, 2: 0.02, 3: -0.02}, False),  # noise
        ({1: -0.30, 2: 0.05, 3: 0.02}, True),  # beyond the margin of 0.05
        ({1: 0.01, 2: 0.01, 3: 0.02}, False),
    ],
)
def test_accuracy_is_flagged_below_zero_or_beyond_the_margin(finished, copy, by, flagged):
    shift(copy, by)
    assert kinds(compare(finished, copy)) == ([("accuracy", "sorting/tiny/grpo")] if flagged else [])


def test_intervals_are_paired_by_seed(finished, copy):
    shift(copy, {1: -0.01, 2: -0.02, 3: -0.03})
    arm = next(a for a in compare(finished, copy).arms if (a.arm, a.quantity) == ("sorting/tiny/grpo", "accuracy"))
    # t quantile 2.92 at 2 degrees of freedom, spread 0.01, 3 seeds.
    assert (arm.estimate, arm.seeds) == (pytest.approx(-0.02), 3)
    assert arm.high - arm.estimate == pytest.approx(2.91999 * 0.01 / 3**0.5, rel=1e-4)


def test_another_machine_is_named_and_its_seconds_are_not_compared(finished, copy):
    slower(copy, 2.0)
    file = copy / "runs/sorting/tiny/grpo/seed2/provenance.json"
    rewrite_json(file, machine=json.loads(file.read_text())["machine"] | {"cpu": "another"})
    found = compare(finished, copy)
    assert (kinds(found), found.exit_code) == ([], 2)
    assert gaps(found, Gap.WITHHELD) == ["sorting/tiny/grpo/seed2"]
    assert [(item.key, item.a, item.b) for item in found.settings] == [("machine.cpu", "one", "another")]


def another_rate(side: Path) -> None:
    file = side / RUN / "config.yaml"
    other = {"actor.lr": 0.5, "trainer.default_local_dir": "/other/results/quick/runs/seed1"}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | other))


def start_hashed_with_seconds(side: Path) -> None:
    file = side / RUN / "provenance.json"
    rewrite_json(file, inputs=json.loads(file.read_text())["inputs"] | {"start_model_sha256": "with seconds"})


START = "evals/sorting/tiny/start/result.json"
SETTINGS: dict[str, tuple[Callable[[Path], object], list[tuple[str, str, int]]]] = {
    "a key, but for the place of the run": (another_rate, [("config actor.lr", "0.5", 1)]),
    "a config that is gone, once and not a thousand times": (
        lambda side: (side / RUN / "config.yaml").unlink(),
        [("config", "not set", 1)],
    ),
    "the start, as older runs hashed it": (start_hashed_with_seconds, []),
    "the start": (
        lambda side: rewrite_json(side / START, checkpoint_sha256="other weights"),
        [("start (SHA-256)", "other weights", 9)],
    ),
    "the data": (
        lambda side: rewrite_json(side / RUN.replace("runs", "evals") / "result.json", data_sha256="others"),
        [("evaluation data_sha256", "others", 1)],
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_differs_is_named_with_its_cells(finished, copy, name):
    change, expected = SETTINGS[name]
    change(copy)
    assert [(item.key, item.b, len(item.cells)) for item in compare(finished, copy).settings] == expected


def test_cells_of_one_side_and_runs_that_are_no_longer_evidence_are_named(finished, copy):
    change_column(copy, "runs", "seed", lambda row: 7 if (row["arm"], row["seed"]) == ("ppo", 3) else row["seed"])
    change_column(copy, "runs", "admissible", lambda row: (row["arm"], row["seed"]) != ("grpo", 1))
    found = compare(finished, copy)
    assert (gaps(found, Gap.ONLY_A), gaps(found, Gap.ONLY_B)) == (
        ["sorting/tiny/ppo/seed3"],
        ["sorting/tiny/ppo/seed7"],
    )
    assert kinds(found) == [("run", "sorting/tiny/grpo/seed1")]
    assert gaps(found, Gap.EXCLUDED) == ["sorting/tiny/grpo/seed1 in b"]
    assert not found.comparable


@pytest.mark.parametrize(
    ("table", "column", "lost"),
    [("evals", "metric", "accuracy"), ("evals", "value", "accuracy"), ("stages", "stage", "update_actor")],
)
def test_a_value_that_one_side_lost_is_named_and_not_passed_over(finished, copy, tmp_path, table, column, lost):
    def change(row: dict) -> object:
        if column == "value":
            return math.nan if row["arm"] == "grpo" else row["value"]
        return "renamed" if (row["arm"], row[column]) == ("grpo", lost) else row[column]

    change_column(copy, table, column, change)
    found = compare(finished, copy)
    told = f"{'seconds of ' if table == 'stages' else ''}{lost} of sorting/tiny/grpo/seed1 and 2 more cells"
    assert (told, "only in a") in [(each.what, each.why) for each in found.gaps(Gap.LOST)]
    assert (found.comparable, found.exit_code) == (False, 2)
    write_comparison(found, tmp_path / "c.html", tmp_path / "c.md")
    assert told in (tmp_path / "c.html").read_text()


def test_results_in_which_nothing_was_measured_are_compared_and_nothing_is_found(copy):
    for name in ("evals", "stages", "groups"):
        file = copy / "tables" / f"{name}.parquet"
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    found = compare(copy, copy)
    assert (len(found.cells), found.arms, found.regressions) == (9, (), ())


def test_claims_that_differ_are_named_for_margin_and_metric_are_those_of_a(finished, unpacked):
    assert compare(finished, unpacked).settings == ()
    file = unpacked / "config" / "claims" / "group_ppo.yaml"
    file.write_text(file.read_text() + "\n# later\n")
    (unpacked / "SHA256SUMS").write_bytes(
        sums_text(read_sums(unpacked) | {"config/claims/group_ppo.yaml": sha256_file(file)})
    )
    found = compare(finished, unpacked).settings
    assert [(item.key, item.b) for item in found] == [("claims (SHA-256)", sha256_file(file))]


def test_a_damaged_side_is_not_compared(finished, unpacked):
    (unpacked / "report.html").write_text("changed")
    with pytest.raises(BadInput, match=r"report\.html"):
        compare(finished, unpacked)


def test_the_pages_say_what_was_found_and_no_text_of_a_file_runs_in_them(finished, copy, tmp_path):
    slower(copy, 1.5)
    file = copy / "runs/sorting/tiny/ppo/seed1/provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"torch": ATTACK}))
    write_comparison(compare(finished, copy), tmp_path / "c" / "compare.html", tmp_path / "c" / "compare.md")
    html, markdown = ((tmp_path / "c" / f"compare.{kind}").read_text() for kind in ("html", "md"))
    assert "1 regression. 9 cells compared." in html
    assert "1 regression. 9 cells compared." in markdown
    assert html.count("<script") == 1  # that sorts tables
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert ATTACK not in markdown
    assert not re.search(r"(src|href)=\"(?!#|data:)", html)
    assert "default-src &#39;none&#39;" in html
    assert all(line.count("|") - line.count(r"\|") == 5 for line in markdown.splitlines() if "torch" in line)
