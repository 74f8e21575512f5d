"""The command line and the inputs: what is wrong is named with its hint."""

import json
from pathlib import Path

import pytest

from groupppo.errors import BadInput
from groupppo.studies.models import load_critic, load_policy
from groupppo.studies.options import max_response_tokens, parse, parse_streams

FOLDERS = ["--policy", "p", "--critic", "c", "--task", "t", "--out", "o"]


def test_defaults_are_a_training_step_of_the_default_benchmark() -> None:
    options = parse([*FOLDERS], "")
    assert (options.prompts, options.responses, options.batches) == (16, 8, 24)
    assert (options.temperature, options.gamma, options.lam) == (1.0, 1.0, 1.0)
    assert "policy" not in options.sizes
    assert options.sizes["exact"] == 48
    assert parse([*FOLDERS, "--lam", "0"], "").lam == 0.0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batches", "3"),
        ("--prompts", "0"),
        ("--exact", "1"),
        ("--exact", "1000"),
        ("--temperature", "0"),
        ("--temperature", "nan"),
        ("--gamma", "0"),
        ("--gamma", "1.5"),
        ("--lam", "-0.1"),
        ("--lam", "nan"),
        ("--seed", "-1"),
        ("--arms", "nowhere"),
    ],
)
def test_a_value_out_of_range_is_named(option: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"grouping.py: {option} = (.|\n)*hint: "):
        parse([*FOLDERS, option, value], "")


STREAMS = ["--checkpoint", "start=a", "--checkpoint", "trained=b", *FOLDERS[2:]]


def test_checkpoints_keep_their_names_and_their_order() -> None:
    options = parse_streams(STREAMS, "")
    assert list(options.models.items()) == [("start", Path("a")), ("trained", Path("b")), ("critic", Path("c"))]
    assert (options.prompts, options.responses, options.actor_lr) == (16, 8, 1e-4)
    assert options.sizes["follow"] == ("group_ppo", "stride")
    assert "checkpoints" not in options.sizes
    other = parse_streams([*STREAMS, "--follow", "stride", "stride", "--checkpoint", "last=x=y"], "")
    assert other.follow == ("stride",)
    assert other.checkpoints["last"] == Path("x=y")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batches", "3"),
        ("--stale", "1"),
        ("--stale", "9"),
        ("--actor_lr", "0"),
        ("--actor_lr", "nan"),
        ("--temperature", "nan"),
        ("--checkpoint", "nowhere"),
        ("--checkpoint", "=folder"),
        ("--checkpoint", "name="),
        ("--checkpoint", "start=again"),
    ],
)
def test_a_value_out_of_range_is_named_by_the_study_of_streams_too(option: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"streams.py: {option} = (.|\n)*hint: "):
        parse_streams([*STREAMS, option, value], "")


def test_the_longest_response_comes_from_the_tasks_card(small_task_folder: Path, tmp_path: Path) -> None:
    assert max_response_tokens(small_task_folder) == 16
    with pytest.raises(BadInput, match=r"card.json: file = missing"):
        max_response_tokens(tmp_path)
    for text in ("{", json.dumps({"spec": {}}), json.dumps([])):
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(BadInput, match=r"card.json: spec.max_response_tokens"):
            max_response_tokens(tmp_path)


def test_a_folder_that_is_no_critic_is_refused_because_its_value_head_would_be_random(
    policy_folder: Path, critic_folder: Path, tmp_path: Path
) -> None:
    import torch

    assert load_critic(critic_folder).config.num_labels == 1
    with pytest.raises(BadInput, match=r"architectures(.|\n)*save_critic: true"):
        load_critic(policy_folder)
    with pytest.raises(BadInput, match=r"folder = missing(.|\n)*save_critic: true"):
        load_critic(tmp_path)
    with pytest.raises(BadInput):
        load_policy(tmp_path, torch.float32)
