"""The critic's loss with weights: verl's own without them, and each token's term as often as its weight with them; and
the policy's micro-batches of which tokens are left out."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.config import CriticConfig
from verl.workers.utils.losses import value_loss

from groupppo.verl.engine import _Endpoints, weighted_value_loss, with_weights

PROMPT, LENGTHS = 2, [3, 2]
pytestmark = pytest.mark.verl


def nested(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def batch(weights: list[Tensor] | None, counts: list[Tensor]) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    fields = {
        "prompts": nested([torch.ones(PROMPT, dtype=torch.long) for _ in LENGTHS]),
        "responses": nested([torch.ones(length, dtype=torch.long) for length in LENGTHS]),
        "values": nested([torch.randn(length, generator=generator) for length in LENGTHS]),
        "returns": nested([torch.randn(length, generator=generator) for length in LENGTHS]),
        "response_mask": nested(counts),
    }
    if weights is not None:
        fields["selection_weights"] = nested(weights)
    data = TensorDict(fields, batch_size=len(LENGTHS))
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=sum(LENGTHS), global_batch_size=None)
    return data


def outputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"values": nested([torch.randn(PROMPT + length, generator=generator) for length in LENGTHS])}


CONFIG = CriticConfig.__new__(CriticConfig)
object.__setattr__(CONFIG, "cliprange_value", 0.5)
object.__setattr__(CONFIG, "loss_agg_mode", "token-mean")
object.__setattr__(CONFIG, "loss_scale_factor", None)
EVERY = [torch.ones(length, dtype=torch.long) for length in LENGTHS]


def test_weights_of_one_are_verls_loss_to_the_bit_and_none_are_verls_function() -> None:
    stock, numbers = value_loss(CONFIG, outputs(), batch(None, EVERY))
    for weights in (None, [torch.ones(length) for length in LENGTHS]):
        loss, metrics = weighted_value_loss(CONFIG, outputs(), batch(weights, EVERY))
        assert torch.equal(loss, stock)
        assert metrics.keys() == numbers.keys()
        assert metrics["critic/vf_clipfrac"] == numbers["critic/vf_clipfrac"]


def test_a_weight_counts_a_token_as_often() -> None:
    counts = [torch.tensor([1, 0, 1]), torch.tensor([0, 1])]
    weights = [torch.tensor([4.0, 0.0, 1.0]), torch.tensor([0.0, 2.0])]
    loss, _ = weighted_value_loss(CONFIG, outputs(), batch(weights, counts))
    parts = []
    for row, position in ((0, 0), (0, 2), (1, 1)):
        only = [torch.zeros(length, dtype=torch.long) for length in LENGTHS]
        only[row][position] = 1
        parts.append(value_loss(CONFIG, outputs(), batch(None, only))[0])
    assert loss.item() == pytest.approx(4 * parts[0].item() + parts[1].item() + 2 * parts[2].item(), rel=1e-6)


def test_only_verls_value_loss_is_replaced() -> None:
    replaced = with_weights(partial(value_loss, config=CONFIG))
    assert (replaced.func, replaced.keywords) == (weighted_value_loss, {"config": CONFIG})
    for other in (partial(print, sep=""), print):
        assert with_weights(other) is other


@pytest.mark.parametrize(
    ("advantages", "skips", "rows", "found"),
    [
        ([[1.0, 1.0, 0.0], [0.0, 2.0]], False, [1, 3, 6, 7], [7.0, 0.0, 7.0, 7.0, 7.0]),
        ([[1.0, 1.0, 0.0], [0.0, 2.0]], True, [1, 7], [7.0, 0.0, -3.0, -4.0, 7.0]),
        ([[0.0, 1.0, 0.0], [0.0, 0.0]], True, [1], [-1.0, 0.0, -3.0, -4.0, -5.0]),  # one row for nothing
    ],
)
def test_tokens_without_an_advantage_are_not_computed_and_keep_their_old_log_probability(
    advantages: list[list[float]], skips: bool, rows: list[int], found: list[float]
) -> None:
    """The second token is none of the policy's; a token's log-probability is that of the row before it."""
    lists: dict[str, list[Any]] = {"advantages": advantages, "old_log_probs": [[-1.0, -2.0, -3.0], [-4.0, -5.0]]}
    lists |= {"response_mask": [[1, 0, 1], [1, 1]], "input_ids": [[*range(5)], [*range(4)]]}
    data = TensorDict({name: nested([*map(torch.tensor, each)]) for name, each in lists.items()}, batch_size=2)
    tu.assign_non_tensor(data, temperature=1.0, skip_zero_advantage=skips)
    engine = SimpleNamespace(module=SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa")))
    where = _Endpoints(engine, data, every=False)
    assert where.rows.tolist() == rows
    computed = torch.full((len(rows),), 7.0, requires_grad=True)
    whole = where.nested(computed).values()
    assert whole[[1, 2, 3, 6, 7]].tolist() == found
    whole.sum().backward()
    assert computed.grad is not None
    assert computed.grad.unique().tolist() == [float(7.0 in found)]
