"""No step of the stage makes a tensor larger than the batch: no (B, T, T), no one-hot of groups."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groupppo.algorithm import GroupParams, group_tokens, kernels
from groupppo.algorithm.loss import group_batch
from groupppo.algorithm.metrics import group_metrics, log_prob_gap
from tests.algorithm.strategies import EVERY_READING, fixed_batch

ROWS, LENGTH = 3, 50


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation inside returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


# The compiled loops work in place; "torch" is what runs where neither they nor Triton do.
@pytest.mark.parametrize("backend", ["numba", "torch"])
@EVERY_READING
def test_nothing_larger_than_the_batch_is_made(
    params: GroupParams, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "choose_backend", lambda *_: backend)
    tokens = fixed_batch(rows=ROWS, length=LENGTH)
    with LargestTensor() as largest:
        groups = group_tokens(tokens, params)
        for advantage in ("segment_gae", "token_gae", "published"):
            for spread in ("endpoint", "group"):
                chosen = replace(params, advantage=advantage, spread=spread)
                group_batch(replace(tokens, advantages=None), groups, chosen, 0.9, 0.8)
        group_metrics(groups, tokens, params, 1.0)
        log_prob_gap(tokens.get("rollout_log_probs"), tokens.get("log_probs"), tokens.mask)
    assert largest.elements == ROWS * LENGTH


def test_a_comparison_of_every_token_with_every_other_would_be_seen() -> None:
    index = torch.zeros(ROWS, LENGTH)
    with LargestTensor() as largest:
        (index[:, :, None] == index[:, None, :]).sum(dim=2)
    assert largest.elements == ROWS * LENGTH * LENGTH
