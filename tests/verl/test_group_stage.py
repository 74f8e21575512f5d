"""The advantage stage on verl's batch fields, steps and checkpoints; what it computes is in tests/algorithm."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import GroupParams
from groupppo.errors import BadInput
from groupppo.verl.group_stage import Grouped, GroupStage, response_seed

GAMMA, LAM = 0.97, 0.9
DENSITY_RULES = ("entropy", "random")
MASKS = ("1111111111", "1", "0000", "1100111011", "0001111", "11111111111111111111")
KEYS = tuple(f"step000001-prompt{row // 2:05d}_{row % 2}_0" for row in range(len(MASKS)))


def hand_made(masks: Sequence[str] = MASKS, *, seed: int = 0, width: int = 20) -> dict[str, Tensor]:
    """Two responses to a prompt, padded to (B, width); fields that verl leaves at nonsense outside the mask too."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[int(valid) for valid in text.ljust(width, "0")] for text in masks])
    random = {
        name: torch.randn(mask.shape, generator=generator)
        for name in ("token_level_rewards", "values", "entropy", "gap")
    }
    log_probs = torch.rand(mask.shape, generator=generator).log()
    return {
        "response_mask": mask,
        "token_level_rewards": random["token_level_rewards"],
        "values": random["values"],
        "entropy": random["entropy"].abs(),
        "old_log_probs": log_probs,
        "rollout_log_probs": log_probs + 0.1 * random["gap"],
        "sum_pi_squared": torch.rand(mask.shape, generator=generator),
    }


def stage(seed: int = 1, **params: Any) -> GroupStage:
    rule = params.get("rule", "variance_split")
    defaults: dict[str, Any] = {"density": 0.4} if rule in DENSITY_RULES and "density_source" not in params else {}
    if rule in ("variance_split", "stride"):
        defaults["group_max_size"] = 4
    return GroupStage(GroupParams(**defaults | params), GAMMA, LAM, seed)


def run(batch: dict[str, Tensor], keys: Sequence[str] = KEYS, step: int = 1, **params: Any) -> Grouped:
    return stage(**params).run(batch, keys, step)


# ---- batches and inputs that cannot be used


def test_a_batch_without_a_valid_token_is_an_error_that_says_so() -> None:
    batch = hand_made(("000", "0"))
    with pytest.raises(ValueError, match="step 7: none of the batch's 2 responses has a valid token"):
        run(batch, KEYS[:2], step=7)


NEEDED = [
    ({}, "values"),
    ({}, "token_level_rewards"),
    ({"advantage": "token_gae", "rule": "stride"}, "values"),
    ({"advantage": "published", "rule": "stride"}, "token_level_rewards"),
    ({"score": "logit_norm"}, "sum_pi_squared"),
    ({"score": "logit_norm"}, "old_log_probs"),
    ({"score": "log_ratio"}, "rollout_log_probs"),
    ({"rule": "published"}, "rollout_log_probs"),
    ({"rule": "entropy"}, "entropy"),
    ({"rule": "low_prob"}, "old_log_probs"),
]


@pytest.mark.parametrize(("params", "field"), NEEDED, ids=lambda part: part if isinstance(part, str) else None)
def test_a_missing_field_is_an_error_that_names_it(params: dict[str, str], field: str) -> None:
    batch = hand_made()
    assert run(batch, **params)
    del batch[field]
    with pytest.raises(BadInput) as error:
        run(batch, **params)
    assert error.value.key == field
    assert error.value.value is None
    assert error.value.hint


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({}, []),
        ({"rule": "random"}, []),
        ({"rule": "entropy"}, ["entropy"]),
        ({"rule": "low_prob"}, ["old_log_probs"]),
        ({"score": "logit_norm"}, ["old_log_probs", "sum_pi_squared"]),
        ({"score": "log_ratio"}, ["old_log_probs", "rollout_log_probs"]),
    ],
)
def test_a_stage_asks_verl_for_what_it_reads_and_for_nothing_else(params: dict[str, str], fields: list[str]) -> None:
    asked = stage(**params).fields()
    assert asked == fields
    batch = hand_made()
    kept = {"response_mask", "token_level_rewards", "values", *asked}
    narrow = run({name: field for name, field in batch.items() if name in kept}, **params)
    assert torch.equal(narrow.losses.advantages, run(batch, **params).losses.advantages)


# ---- draws


@settings(max_examples=50)
@given(order=st.permutations(range(len(MASKS))), seed=st.integers(0, 10**6))
def test_the_same_key_draws_the_same_whatever_the_order_of_the_batch(order: list[int], seed: int) -> None:
    batch = hand_made(seed=seed)
    shuffled = {name: field[order] for name, field in batch.items()}
    before = run(batch, rule="random").groups.endpoints
    after = run(shuffled, [KEYS[row] for row in order], rule="random").groups.endpoints
    assert torch.equal(after, before[order])


def test_another_key_another_seed_and_another_step_draw_otherwise() -> None:
    batch = hand_made(("1" * 20,) * len(MASKS))
    before = run(batch, rule="random").groups.endpoints
    later = [key.replace("step000001", "step000002") for key in KEYS]
    assert torch.equal(run(batch, rule="random").groups.endpoints, before)
    assert not torch.equal(run(batch, later, rule="random").groups.endpoints, before)
    assert not torch.equal(run(batch, rule="random", seed=2).groups.endpoints, before)
    assert len({response_seed(seed, key) for seed in range(20) for key in KEYS}) == 20 * len(KEYS)


# ---- the threshold


def batches() -> list[dict[str, Tensor]]:
    return [hand_made(seed=seed) for seed in range(6)]


def step_of(moving: GroupStage, batch: dict[str, Tensor], number: int) -> Grouped:
    grouped = moving.run(batch, KEYS, number)
    before = moving.threshold
    assert before == grouped.threshold, "the threshold stands still until the step is accepted"
    moving.accept(grouped)
    return grouped


def test_the_threshold_moves_towards_the_target_and_only_where_the_rule_has_one() -> None:
    above, below = stage(target_density=0.05), stage(target_density=0.9)
    for number, batch in enumerate(batches(), start=1):
        for moving in (above, below):
            grouped = step_of(moving, batch, number)
            assert grouped.threshold == pytest.approx(1.0) if number == 1 else grouped.threshold != 1.0
    assert above.threshold > 1.0 > below.threshold
    for still in (stage(adaptive_threshold=False), stage(rule="stride")):
        step_of(still, hand_made(), 1)
        assert still.threshold == 1.0


def test_a_restored_stage_goes_on_to_the_bit_and_one_that_starts_anew_does_not(tmp_path: Path) -> None:
    quick = {"threshold_lr": 0.5, "target_density": 0.05}
    through, first, fresh = stage(**quick), stage(**quick), stage(**quick)
    expected = [step_of(through, batch, step) for step, batch in enumerate(batches(), start=1)]
    for step, batch in enumerate(batches()[:3], start=1):
        step_of(first, batch, step)
    first.save(tmp_path)
    restored = stage(**quick)
    restored.load(tmp_path)
    assert restored.threshold == first.threshold != 1.0
    differs = False
    for step, batch in list(enumerate(batches(), start=1))[3:]:
        again, anew = step_of(restored, batch, step), step_of(fresh, batch, step)
        assert again.threshold == expected[step - 1].threshold
        assert torch.equal(again.groups.endpoints, expected[step - 1].groups.endpoints)
        assert torch.equal(again.losses.advantages, expected[step - 1].losses.advantages)
        differs |= not torch.equal(anew.groups.endpoints, again.groups.endpoints)
    assert differs


def test_a_checkpoint_of_another_estimator_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        stage().load(tmp_path)
    assert error.value.file == str(tmp_path / "group_ppo.json")


# ---- the density of another run


def steps_file(folder: Path, densities: dict[int, float]) -> str:
    file = folder / "steps.jsonl"
    rows = [json.dumps({"step": step, "group/density": density}) for step, density in densities.items()]
    file.write_text("\n".join(rows) + "\n")
    return str(file)


@pytest.mark.parametrize("rule", DENSITY_RULES)
def test_every_step_follows_the_density_of_that_step(rule: str, tmp_path: Path) -> None:
    densities = {1: 0.3, 2: 0.75, 3: 1.0}
    control = stage(rule=rule, density_source=steps_file(tmp_path, densities))
    batch = hand_made()
    tokens = int(batch["response_mask"].sum())
    for step, density in densities.items():
        assert int(control.run(batch, KEYS, step).groups.endpoints.sum()) == round(density * tokens)
    assert int(stage(rule=rule, density=0.3).run(batch, KEYS, 2).groups.endpoints.sum()) == round(0.3 * tokens)


def test_a_step_that_the_other_run_does_not_have_is_an_error_that_names_file_and_step(tmp_path: Path) -> None:
    source = steps_file(tmp_path, {1: 0.3, 3: 0.3})
    control = stage(rule="random", density_source=source)
    assert control.run(hand_made(), KEYS, 1)
    with pytest.raises(BadInput) as error:
        control.run(hand_made(), KEYS, 2)
    assert error.value.file == source
    assert "step 2" in error.value.key
    assert control.run(hand_made(), KEYS, 3)


def test_the_density_is_read_when_the_stage_is_made_and_not_when_it_runs(tmp_path: Path) -> None:
    params = GroupParams(rule="random", density_source=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(BadInput, match=r"nowhere\.jsonl"):
        GroupStage(params, GAMMA, LAM, 1)
    assert GroupStage(replace(params, density=0.5, density_source=None), GAMMA, LAM, 1).schedule is None
