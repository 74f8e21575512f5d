"""The counter: storages once, parameters never, and no trace left behind."""

import pytest
import torch
from torch.nn import functional

from groupppo.profile.counter import count


def test_a_storage_is_counted_once_and_parameters_not_at_all():
    weight = torch.nn.Parameter(torch.randn(8, 8))
    rows = torch.randn(4, 8, requires_grad=False)
    with count() as found:
        hidden = rows @ weight.t()
        (hidden.sigmoid() * hidden.sigmoid().detach()).sum().backward()
    # Saved: the rows (4 x 8), a sigmoid for its own backward pass, and the other factor.
    assert found.saved_bytes == 3 * 4 * 8 * 4
    assert found.flops == 2 * (2 * 4 * 8 * 8)


def test_what_was_freed_during_the_pass_does_not_add_up():
    weight = torch.nn.Parameter(torch.randn(16))

    def one():
        (weight * torch.randn(16)).sum().backward()

    with count() as once:
        one()
    with count() as thrice:
        for _ in range(3):
            one()
    assert thrice.saved_bytes == once.saved_bytes > 0


def test_products_in_place_are_counted():
    left, right, total = torch.randn(3, 5), torch.randn(5, 7), torch.zeros(3, 7)
    with count() as found:
        total.addmm_(left, right)
    assert found.flops == 2 * 3 * 5 * 7


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_two_products_forward_and_five_backward(device):
    query, keys, values = (torch.randn(1, heads, 6, 4, device=device, requires_grad=True) for heads in (4, 2, 2))
    with count(on_meta=device == "meta") as found:
        output = functional.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)
        output.sum().backward()
    assert found.flops == (2 + 5) * 2 * (4 * 6 * 6 * 4)


def test_attention_is_torch_s_own_again_after_a_failure():
    before = functional.scaled_dot_product_attention
    seen = []

    def fail():
        with count(on_meta=True):
            seen.append(functional.scaled_dot_product_attention)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert seen[0] is not before
    assert functional.scaled_dot_product_attention is before


def test_masks_select_on_the_meta_device_as_many_rows_as_they_have_true():
    table, mask = torch.randn(6, 3, device="meta", requires_grad=True), torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    with count(on_meta=True):
        chosen = table[mask]
        assert chosen.shape == (3, 3)
        chosen.sum().backward()
    assert table.grad.shape == (6, 3)
