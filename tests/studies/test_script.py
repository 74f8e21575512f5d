"""The whole study on a micro policy: what it leaves, and that it repeats."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import REPOSITORY
from groupppo.draw.figures import read_figures
from groupppo.errors import BadInput
from groupppo.studies.tables import COLUMNS, DENSE, DENSE_OTHER, FIGURES, read_table

SCRIPT = REPOSITORY / "benchmarks" / "studies" / "grouping.py"
SMALL = {"batches": 4, "prompts": 3, "responses": 2, "exact": 5, "temperature": 1.3, "gamma": 0.95, "lam": 0.9}

Study = Callable[..., Path]


@pytest.fixture(scope="module")
def study(
    policy_folder: Path, critic_folder: Path, small_task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Study:
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(**changes: object) -> Path:
        out = tmp_path_factory.mktemp("study")
        folders = {"policy": policy_folder, "critic": critic_folder, "task": small_task_folder, "out": out}
        options = folders | SMALL | changes
        main([word for name, value in options.items() for word in (f"--{name}", str(value))])
        return out

    return run


@pytest.fixture(scope="module")
def out(study: Study) -> Path:
    return study()


def test_it_leaves_every_table_every_figure_and_a_record(out: Path) -> None:
    for name in COLUMNS:
        assert len(read_table(out, name))
    for record in read_figures(out / FIGURES):
        for file in record.files.values():
            assert (out / FIGURES / file).is_file()
    record = json.loads((out / "study.json").read_text())
    assert record["command"].startswith("python benchmarks/studies/grouping.py --policy ")
    assert record["counts"]["responses"] == 4 * 3 * 2
    assert record["settings"]["batches"] == 4
    assert record["peak_bytes"] > 0
    assert set(record["seconds"]) == set(record["cpu_seconds"])
    for key in ("policy_sha256", "critic_sha256", "prompts_sha256", "script_sha256"):
        assert len(record["inputs"][key]) == 64
    assert set(record["inputs"]["arms_sha256"]) == set(record["arms_left_out"]) | {
        name for name in record["arms"] if name != DENSE and not name.endswith("_mean")
    }


def test_its_counts_agree_with_each_other(out: Path) -> None:
    counts = json.loads((out / "study.json").read_text())["counts"]
    assert (read_table(out, "density").query("rollout == 'float32'")["tokens"] == counts["tokens"]).all()
    assert (read_table(out, "agreement")["responses"] == 5).all()
    directions = read_table(out, "directions")
    sizes = directions[directions["arm"] != DENSE_OTHER].groupby("arm").size()
    assert set(sizes) == {4}
    assert {"singleton", "random", "random_mean"} <= set(sizes.index)
    singleton = directions[directions["arm"] == "singleton"]
    assert singleton["cosine"].to_numpy() == pytest.approx(1.0)
    assert directions[directions["arm"] == "stride"]["cosine"].max() < 0.999


def test_the_same_seed_repeats_every_number_and_another_does_not(study: Study, out: Path) -> None:
    again, other = study(), study(seed=2)
    for name in ("density", "agreement", "direction_summary"):
        pd.testing.assert_frame_equal(read_table(again, name), read_table(out, name))
        assert not read_table(other, name).equals(read_table(out, name))


def test_what_is_missing_is_named_with_its_mend(study: Study, policy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"save_critic: true"):
        study(critic=policy_folder)
    with pytest.raises(BadInput, match=r"folder = missing"):
        study(policy=tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"card.json|train.parquet"):
        study(task=tmp_path)
    with pytest.raises(BadInput, match=r"--batches = 90(.|\n)*200 prompts"):
        study(batches=90)
