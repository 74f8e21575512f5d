"""One reward, one prompt, one decoding: what evaluation does too, verl's keys do not change for training alone."""

from dataclasses import replace
from typing import Any

import pytest
from omegaconf import OmegaConf

from groupppo.errors import BadInput
from groupppo.verl.compose import Cell, compose
from tests.verl.conftest import MakeCell

ROLLOUT = "actor_rollout_ref.rollout"
PARTED: list[tuple[str, Any]] = [
    ("reward.custom_reward_function.path", "pkg://groupppo.tasks.math_reward"),
    ("reward", {"custom_reward_function": {"name": "another"}}),
    ("reward[custom_reward_function].name", "another"),
    ("reward.reward_manager.name", "dapo"),
    ("reward.reward_model.enable", True),
    (f"{ROLLOUT}.temperature", 0.7),
    (f"{ROLLOUT}.top_p", 0.9),
    (ROLLOUT, {"top_k": 50}),
    (f"{ROLLOUT}.val_kwargs.temperature", 0.5),
    (f"{ROLLOUT}.response_length", 9),
    ("data.max_response_length", 9),
    ("actor_rollout_ref.model.custom_chat_template", "{{ messages }}"),
    (f"{ROLLOUT}.multi_turn.enable", True),
]


def with_keys(cell: Cell, where: str, keys: dict[str, Any]) -> Cell:
    """The cell with `keys` in its arm's file, its model's file or the matrix."""
    holder = {"arm": cell.arm, "model": cell.model, "train": cell.train}[where]
    return replace(cell, **{where: replace(holder, verl=holder.verl | keys)})


@pytest.mark.parametrize(("key", "value"), PARTED)
def test_a_key_that_would_change_training_and_not_evaluation_is_refused(
    make_cell: MakeCell, key: str, value: object
) -> None:
    cell = make_cell("ppo")
    with pytest.raises(BadInput) as error:
        compose(with_keys(cell, "arm", {"critic.cliprange_value": 0.3, key: value}))
    assert error.value.file == str(cell.arm.source)
    # Of a mapping it names the key in it; of a key in brackets the place, for the two do not begin alike.
    assert error.value.key.startswith(key if "[" not in key else "reward.custom_reward_function")
    assert "evaluation" in error.value.hint


@pytest.mark.parametrize(("where", "file"), [("model", "benchmarks/models"), ("train", "benchmark")])
def test_it_is_refused_in_the_model_and_in_the_matrix_too(make_cell: MakeCell, where: str, file: str) -> None:
    with pytest.raises(BadInput, match="task file's reward") as error:
        compose(with_keys(make_cell("ppo"), where, {"reward.custom_reward_function.path": "mine.py"}))
    assert file in error.value.file


def test_the_hint_for_a_temperature_is_the_matrix_which_reaches_both(make_cell: MakeCell) -> None:
    with pytest.raises(BadInput, match=r"train\.temperature"):
        compose(with_keys(make_cell("ppo"), "arm", {f"{ROLLOUT}.temperature": 0.7}))
    assert compose(make_cell("ppo", temperature=0.7)).actor_rollout_ref.rollout.temperature == 0.7


def test_what_changes_nothing_is_taken(make_cell: MakeCell) -> None:
    keys = {"reward.num_workers": 3, "reward.custom_reward_function.name": "compute_score"}
    config = compose(with_keys(make_cell("ppo"), "arm", keys))
    assert {key: OmegaConf.select(config, key) for key in keys} == keys


def test_the_reward_of_training_is_the_one_that_evaluation_looks_up(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from groupppo.config.allowed import VARIABLE
    from groupppo.tasks.reward import MODULES, scorer

    cell = make_cell("ppo")
    monkeypatch.setenv(VARIABLE, "reward_file")
    own = {"reward_file": "mine.py", "reward_text": "def score(response, answer):\n    return 1\n"}
    for name, module in MODULES.items():
        task = replace(cell.task, reward=name, **(own if name == "python" else {}))
        config = compose(replace(cell, task=task))
        assert config.reward.custom_reward_function.path == f"pkg://{module}"
        assert scorer(task).__module__ == module
    given = config.reward.custom_reward_function.reward_kwargs
    assert given == {"card": str(cell.task_folder / "card.json"), "sha256": task.reward_params["reward_sha256"]}
