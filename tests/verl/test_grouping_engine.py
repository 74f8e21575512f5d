"""verl's stock engines and losses under GROUP-PPO's masks: the update is that of the formulas, however it is cut.

The losses count `response_mask`; verl divides them by the sum of `loss_mask` over the mini-batch and all ranks.
"""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForTokenClassification

from groupppo.config import REPOSITORY
from groupppo.models.tiny import tiny_qwen2
from tests.verl import updates
from tests.verl.plain_updates import Plain, Statistic, entropy, hand_made_batch, log_prob, sum_pi_squared, value
from tests.verl.updates import LEARNING_RATE, READINGS_OF_ROLE, RESPONSES, Batch, Role, Update

pytestmark = pytest.mark.verl

ROLES: tuple[Role, ...] = ("policy", "value")
EVERY_READING = [(role, reading) for role in ROLES for reading in READINGS_OF_ROLE[role]]
ROUNDING, BFLOAT16 = 1e-5, 3e-2
# A step is small beside the parameters, which keep 24 bits of it and of themselves together.
ROUNDING_OF_CHANGE = 3e-5


@dataclass(frozen=True)
class Engines:
    """What verl's engines made of the batch, and the plain models to compare with."""

    batch: Batch
    plain: dict[Role, Plain]
    tensors: dict[str, Tensor]

    def gradients(self, update: Update) -> Tensor:
        """(steps, parameters)"""
        return self.tensors[f"gradients-{update.name}"].double()

    def change(self, update: Update) -> Tensor:
        return self.tensors[f"change-{update.name}"].double()

    def expected(self, update: Update) -> tuple[Tensor, Tensor]:
        gradients, change = self.plain[update.role].train(self.batch, update)
        return torch.stack(gradients), change


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    folder = tmp_path_factory.mktemp("engines")
    _write_models(folder)
    return _run(folder)


def _run(folder: Path) -> Engines:
    policy, critic = Plain("policy", folder / "policy"), Plain("value", folder / "critic")
    hand_made_batch(policy, critic).save(folder / "batch.safetensors")
    command = [sys.executable, "-W", "ignore", "-m", "tests.verl.engine_updates", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    tensors: dict[str, Tensor] = {}
    for ranks in (1, 2):
        tensors |= load_file(folder / f"results{ranks}.safetensors")
    return Engines(Batch.load(folder / "batch.safetensors"), {"policy": policy, "value": critic}, tensors)


def _write_models(folder: Path) -> None:
    """A policy whose tokens differ in probability, and a critic whose head is not zero."""
    size = {"hidden_size": 32, "layers": 2, "attention_heads": 2, "key_value_heads": 1, "intermediate_size": 64}
    for name in ("policy", "critic"):
        tiny_qwen2(folder / name, **size, max_position_embeddings=64, seed=0)
    policy = Plain("policy", folder / "policy").model.float()
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(10.0)
    policy.save_pretrained(folder / "policy")
    critic = AutoModelForTokenClassification.from_pretrained(folder / "critic", num_labels=1)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        critic.score.weight.normal_(std=0.3)
        critic.score.bias.normal_(std=0.3)
    critic.save_pretrained(folder / "critic")


def distance(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to what is expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


@pytest.mark.parametrize(("role", "reading"), EVERY_READING)
def test_the_gradient_is_that_of_the_formulas_whatever_the_micro_batches_the_packing_and_the_ranks(
    engines: Engines, role: Role, reading: str
) -> None:
    ways = updates.every_way(role, reading)
    expected, change = engines.expected(ways[0])
    assert {update.ranks for update in ways} == {1, 2}
    for update in ways:
        assert engines.gradients(update).shape == expected.shape, update
        assert distance(engines.gradients(update), expected) < ROUNDING, update
        assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE, update
        assert distance(change, -LEARNING_RATE[role] * expected[0]) < ROUNDING


@pytest.mark.parametrize("role", ROLES)
def test_a_gpus_config_without_flash_attention_has_the_same_gradient_to_bfloat16(engines: Engines, role: Role) -> None:
    *ways, mistake = updates.without_flash_attention(role)
    expected, _ = engines.expected(ways[0])
    found = [distance(engines.gradients(update), expected) for update in ways]
    assert all(1e-5 < error < BFLOAT16 for error in found), found
    assert distance(engines.gradients(mistake), expected) > 10 * BFLOAT16


@pytest.mark.parametrize("role", ROLES)
def test_the_readings_differ_so_that_agreement_with_one_of_them_says_something(engines: Engines, role: Role) -> None:
    found = [engines.gradients(updates.every_way(role, reading)[0])[0] for reading in READINGS_OF_ROLE[role]]
    for number, gradient in enumerate(found):
        for other in found[:number]:
            assert distance(gradient, other) > 0.1


@pytest.mark.parametrize("role", ROLES)
def test_mistakes_in_what_divides_the_loss_or_where_it_counts_would_be_seen(engines: Engines, role: Role) -> None:
    expected, _ = engines.expected(updates.every_way(role, "endpoint_endpoints")[0])
    found = [engines.gradients(update) for update in updates.mistakes(role)]
    assert min(distance(one, expected) for one in found) > 0.05
    assert distance(found[0], found[1]) > 0.05  # it would depend on the size of micro-batches


@pytest.mark.parametrize("role", ROLES)
def test_epochs_and_mini_batches_take_the_steps_of_the_formulas(engines: Engines, role: Role) -> None:
    ways = updates.several_steps(role)
    gradients, change = engines.expected(ways[0])
    assert len(gradients) == 2 * 2
    for update in ways:
        assert engines.gradients(update).shape == gradients.shape, update
        for found, expected in zip(engines.gradients(update), gradients, strict=True):
            assert distance(found, expected) < ROUNDING, update
        assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE, update
    assert distance(gradients[2], gradients[0]) > 100 * ROUNDING  # the second epoch starts where the first one ended


@pytest.mark.parametrize("role", ROLES)
def test_a_mini_batch_without_a_valid_token_has_no_gradient_and_the_others_have_theirs(
    engines: Engines, role: Role
) -> None:
    update = updates.one_response_at_a_time(role)
    gradients, change = engines.expected(update)
    empty = [row for row, mask in enumerate(RESPONSES) if "1" not in mask]
    assert len(empty) == 2
    for row, (found, expected) in enumerate(zip(engines.gradients(update), gradients, strict=True)):
        assert distance(found, expected) < ROUNDING
        assert row not in empty or not found.any()
    assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE


@pytest.mark.parametrize(("role", "reading"), EVERY_READING)
def test_passes_that_compute_endpoints_only_have_the_same_gradient_on_one_rank_and_on_two(
    engines: Engines, role: Role, reading: str
) -> None:
    expected, change = engines.expected(updates.every_way(role, reading)[0])
    for update in updates.gathered(role, reading):
        assert distance(engines.gradients(update), expected) < ROUNDING, update
        assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE, update


@pytest.mark.parametrize("role", ROLES)
def test_passes_that_compute_endpoints_only_agree_in_every_other_way_of_training(engines: Engines, role: Role) -> None:
    *ways, mistake = updates.gathered_elsewhere(role)
    for update in ways:
        expected, change = engines.expected(replace(update, computes=""))
        for found, wanted in zip(engines.gradients(update), expected, strict=True):
            assert distance(found, wanted) < ROUNDING, update
        assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE, update
    expected, _ = engines.expected(replace(mistake, computes="", shift=0))
    assert distance(engines.gradients(mistake), expected) > 0.5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("role", "name", "statistic"),
    [
        ("policy", "log_probs", log_prob),
        ("policy", "entropy", entropy),
        ("policy", "sum_pi_squared", sum_pi_squared),
        ("value", "values", value),
    ],
)
def test_what_the_rules_read_of_a_token_is_what_the_plain_model_says_of_it(
    engines: Engines, role: Role, name: str, statistic: Statistic, packed: bool
) -> None:
    plain = engines.plain[role]
    plain.model.load_state_dict(plain.start)
    with torch.no_grad():
        expected = plain.statistic(engines.batch, statistic)
    found = engines.tensors[f"infer-{name}-{packed}"].double()
    assert distance(found, expected) < ROUNDING
    assert distance(found.roll(1, dims=1), expected) > 100 * ROUNDING
