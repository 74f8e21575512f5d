"""Whole studies on a micro policy: what they leave, that they repeat, and that what is missing is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from groupppo.draw.figures import read_figures
from groupppo.errors import BadInput
from groupppo.studies.__main__ import main
from groupppo.studies.shared.study import DENSE, DENSE_OTHER, ENDPOINTS, FIGURES, GATHERED, find_study

SMALL = {"batches": 4, "prompts": 3, "responses": 2, "temperature": 1.3, "gamma": 0.95, "lam": 0.9}
GROUPING, STREAMS = find_study("grouping"), find_study("streams")

Run = Callable[..., Path]


def words(options: dict[str, object]) -> list[str]:
    return [
        word
        for name, value in options.items()
        for one in (value if isinstance(value, list) else [value])
        for word in (f"--{name}", str(one))
    ]


@pytest.fixture(scope="module")
def grouping(
    policy_folder: Path, critic_folder: Path, small_task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    def run(**changes: object) -> Path:
        out = tmp_path_factory.mktemp("study")
        folders = {"policy": policy_folder, "critic": critic_folder, "task": small_task_folder, "out": out}
        main(["grouping", *words(folders | SMALL | {"exact": 5} | changes)])
        return out

    return run


@pytest.fixture(scope="module")
def streams(
    policy_folder: Path, critic_folder: Path, small_task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """With the policy of other weights, as after a training, for the second checkpoint."""
    later = tmp_path_factory.mktemp("later") / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype=torch.float32)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(later)
    AutoTokenizer.from_pretrained(policy_folder).save_pretrained(later)

    def run(**changes: object) -> Path:
        out = tmp_path_factory.mktemp("study")
        folders = {"critic": critic_folder, "task": small_task_folder, "out": out}
        named = {"checkpoints": [f"start={policy_folder}", f"trained={later}"]}
        main(["streams", *words(folders | named | SMALL | {"stale": 2} | changes)])
        return out

    return run


@pytest.fixture(scope="module")
def grouped(grouping: Run) -> Path:
    return grouping()


@pytest.fixture(scope="module")
def streamed(streams: Run) -> Path:
    return streams()


@pytest.mark.parametrize("study", [GROUPING, STREAMS], ids=lambda study: study.name)
def test_it_leaves_every_table_every_figure_and_a_record(study, grouped: Path, streamed: Path) -> None:
    out = grouped if study is GROUPING else streamed
    assert all(len(rows) for rows in study.read_tables(out).values())
    records = read_figures(out / FIGURES)
    assert records
    for record in records:
        assert all((out / FIGURES / file).is_file() for file in record.files.values())
    record = json.loads((out / "study.json").read_text())
    assert record["command"].startswith(f"python -m groupppo.studies {study.name} --")
    assert record["settings"]["batches"] == 4
    assert "task" not in record["settings"]
    assert record["peak_bytes"] > 0
    assert "figures" in record["seconds"]
    assert set(record["files"]) == {f"{name}.csv" for name in study.columns}
    kept = [value for name, value in record["inputs"].items() if name != "arms_sha256"]
    assert len(set(kept)) == len(kept)
    assert all(len(value) == 64 for value in kept)


def test_the_counts_of_the_grouping_study_agree_with_each_other(grouped: Path) -> None:
    record, tables = json.loads((grouped / "study.json").read_text()), GROUPING.read_tables(grouped)
    assert record["counts"]["responses"] == 4 * 3 * 2
    assert (tables["density"].query("rollout == 'float32'")["tokens"] == record["counts"]["tokens"]).all()
    assert (tables["agreement"]["responses"] == 5).all()
    assert set(record["inputs"]["arms_sha256"]) == set(record["arms_left_out"]) | set(record["arms"]) - {DENSE}
    summary = tables["direction_summary"].set_index("arm")
    assert (summary["batches"] == 4).all()
    assert {"singleton", "random", DENSE, DENSE_OTHER} <= set(summary.index)
    assert summary.loc["singleton", "cosine"] == pytest.approx(1.0)
    assert summary.loc["singleton", "same_as"] == DENSE
    [caption] = [one.caption for one in read_figures(grouped / "figures") if one.id == "directions"]
    assert f"{summary.loc['singleton', 'title']} has the gradients of PPO (dense)." in caption
    assert caption.count("has the gradients of PPO (dense).") == (summary["same_as"] == DENSE).sum() < len(summary)
    assert summary.loc["stride", "cosine"] < 0.999


def test_bias_is_measured_at_every_checkpoint_and_staleness_at_the_last(streamed: Path) -> None:
    tables = STREAMS.read_tables(streamed)
    costs, stale = tables["stream_costs"], tables["stream_staleness"]
    assert set(zip(costs["checkpoint"], costs["arm"], strict=True)) == {
        (checkpoint, arm) for checkpoint in ("start", "trained") for arm in ("group_ppo", "stride")
    }
    assert (costs.groupby(["checkpoint", "arm"]).size() == 11).all()
    assert set(stale["checkpoint"]) == {"trained"}
    assert (costs["batches"] == 4).all()
    assert (stale["batches"] == 2).all()
    bare, exact = (costs[costs["kind"] == kind]["cosine"] for kind in (ENDPOINTS, GATHERED))
    assert bare.max() < 1.0
    assert (exact == 1.0).all()
    by_checkpoint = [own["cosine"].tolist() for _, own in costs[costs["kind"] == ENDPOINTS].groupby("checkpoint")]
    assert by_checkpoint[0] != by_checkpoint[1]


@pytest.mark.parametrize("study", [GROUPING, STREAMS], ids=lambda study: study.name)
def test_the_same_seed_repeats_every_number_and_another_does_not(
    study, grouping: Run, streams: Run, grouped: Path, streamed: Path
) -> None:
    run, out = (grouping, grouped) if study is GROUPING else (streams, streamed)
    first, again, other = (study.read_tables(folder) for folder in (out, run(), run(seed=2)))
    for name in study.columns:
        pd.testing.assert_frame_equal(again[name], first[name])
        assert not other[name].equals(first[name])


def test_what_is_missing_is_named_with_its_hint(
    grouping: Run, streams: Run, policy_folder: Path, tmp_path: Path
) -> None:
    for run in (grouping, streams):
        with pytest.raises(BadInput, match=r"save_critic: true"):
            run(critic=policy_folder)
        with pytest.raises(BadInput, match=r"prompts = 200(.|\n)*270 are needed"):
            run(batches=90)
    with pytest.raises(BadInput, match=r"folder = missing"):
        grouping(policy=tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"card.json|train.parquet"):
        grouping(task=tmp_path)
    with pytest.raises(BadInput, match=r"folder = missing"):
        streams(checkpoints=f"start={tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        ("striide", r"write one of: (.|\n)*stride"),
        ("ppo", "no grouping rule"),
        ("group_ppo_broadcast", "all tokens"),
        ("random", "write one of"),
    ],
)
def test_an_arm_that_cannot_be_streamed_is_refused_with_the_reason(streams: Run, arm: str, reason: str) -> None:
    with pytest.raises(BadInput, match=rf"--follow = '{arm}'(.|\n)*{reason}"):
        streams(follow=arm)
