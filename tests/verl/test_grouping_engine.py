"""verl's stock engines and losses under GROUP-PPO's masks: the update is that of the formulas, however it is cut.

The losses count `response_mask`; verl divides them by the sum of `loss_mask` over the mini-batch and all ranks.
"""

from dataclasses import replace

import pytest
import torch

from tests.verl import updates
from tests.verl.plain_updates import (
    ROUNDING,
    ROUNDING_OF_CHANGE,
    Engines,
    Statistic,
    distance,
    entropy,
    log_prob,
    run_engines,
    sum_pi_squared,
    value,
)
from tests.verl.updates import LEARNING_RATE, ON_CPU, READINGS_OF_ROLE, RESPONSES, Role

pytestmark = pytest.mark.verl

ROLES: tuple[Role, ...] = ("policy", "value")
EVERY_READING = [(role, reading) for role in ROLES for reading in READINGS_OF_ROLE[role]]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return run_engines(tmp_path_factory.mktemp("engines"), "cpu")


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


def test_streamed_updates_with_keys_and_values_computed_or_kept_have_the_gradient_of_constants_elsewhere(
    engines: Engines,
) -> None:
    exact, _ = engines.expected(updates.every_way("policy", "endpoint_endpoints")[0])
    for update in updates.streamed("padded"):
        expected, change = engines.expected(update)
        assert distance(engines.gradients(update), expected) < ROUNDING, update
        assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE, update
        assert distance(exact, expected) > 0.05


@pytest.mark.parametrize("engine", ON_CPU)
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
    engines: Engines, role: Role, name: str, statistic: Statistic, engine: str
) -> None:
    plain = engines.plain[role]
    plain.model.load_state_dict(plain.start)
    with torch.no_grad():
        expected = plain.statistic(engines.batch, statistic)
    found = engines.tensors[f"infer-{name}-{engine}"].double()
    assert distance(found, expected) < ROUNDING
    assert distance(found.roll(1, dims=1), expected) > 100 * ROUNDING
