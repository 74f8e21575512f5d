"""The whole study of the streamed update on a micro policy: what it leaves, and that it repeats."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from groupppo.config import REPOSITORY
from groupppo.draw.figures import read_figures
from groupppo.errors import BadInput
from groupppo.studies.names import ENDPOINTS, GATHERED
from groupppo.studies.stream_tables import STREAM_COLUMNS
from groupppo.studies.tables import FIGURES, read_table

SCRIPT = REPOSITORY / "benchmarks" / "studies" / "streams.py"
SMALL = {"batches": 4, "prompts": 3, "responses": 2, "stale": 2, "temperature": 1.3, "gamma": 0.95, "lam": 0.9}

Study = Callable[..., Path]


@pytest.fixture(scope="module")
def later_folder(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy with other weights, as after a training."""
    folder = tmp_path_factory.mktemp("later") / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype=torch.float32)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def study(
    policy_folder: Path,
    later_folder: Path,
    critic_folder: Path,
    small_task_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Study:
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(checkpoints: list[str] | None = None, **changes: object) -> Path:
        out = tmp_path_factory.mktemp("study")
        options = {"critic": critic_folder, "task": small_task_folder, "out": out} | SMALL | changes
        named = checkpoints or [f"start={policy_folder}", f"trained={later_folder}"]
        words = [word for name in named for word in ("--checkpoint", name)]
        main([*words, *(word for name, value in options.items() for word in (f"--{name}", str(value)))])
        return out

    return run


@pytest.fixture(scope="module")
def out(study: Study) -> Path:
    return study()


def test_it_leaves_every_table_every_figure_and_a_record(out: Path) -> None:
    for name in STREAM_COLUMNS:
        assert len(read_table(out, name))
    for record in read_figures(out / FIGURES):
        for file in record.files.values():
            assert (out / FIGURES / file).is_file()
    record = json.loads((out / "study.json").read_text())
    assert record["command"].startswith("python benchmarks/studies/streams.py --checkpoint start=")
    assert {name: counts["responses"] for name, counts in record["counts"].items()} == {"start": 24, "trained": 24}
    assert record["settings"]["follow"] == ["group_ppo", "stride"]
    inputs = record["inputs"]
    assert len({inputs[f"{name}_sha256"] for name in ("start", "trained", "critic", "prompts", "script")}) == 5


def test_bias_is_measured_at_every_checkpoint_and_staleness_at_the_last(out: Path) -> None:
    costs, stale = read_table(out, "stream_costs"), read_table(out, "stream_staleness")
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


def test_the_same_seed_repeats_every_number_and_another_does_not(study: Study, out: Path) -> None:
    again, other = study(), study(seed=2)
    for name in STREAM_COLUMNS:
        pd.testing.assert_frame_equal(read_table(again, name), read_table(out, name))
        assert not read_table(other, name).equals(read_table(out, name))


def test_what_is_missing_or_cannot_be_streamed_is_named_with_its_mend(
    study: Study, policy_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"save_critic: true"):
        study(critic=policy_folder)
    with pytest.raises(BadInput, match=r"folder = missing"):
        study(checkpoints=[f"start={tmp_path / 'nowhere'}"])
    with pytest.raises(BadInput, match=r"--batches = 90(.|\n)*200 prompts"):
        study(batches=90)
    with pytest.raises(BadInput, match=r"--follow = 'striide'(.|\n)*write one of: (.|\n)*stride"):
        study(follow="striide")
    with pytest.raises(BadInput, match=r"--follow = 'ppo'(.|\n)*no grouping rule"):
        study(follow="ppo")
    with pytest.raises(BadInput, match=r"--follow = 'group_ppo_broadcast'(.|\n)*all tokens"):
        study(follow="group_ppo_broadcast")
    with pytest.raises(BadInput, match=r"--follow = 'random'(.|\n)*write one of"):
        study(follow="random")
