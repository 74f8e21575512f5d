"""The chunked head against logits held all at once."""

import pytest
import torch

from groupppo.update.head import eager_embedding, head_log_probs


@pytest.fixture
def rows():
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(29, 8, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(0, 29, (11,)), torch.rand(11, dtype=torch.float64) + 0.5


def plain(hidden, weight, labels, temperature):
    log_pi = torch.log_softmax(hidden @ weight.t() / temperature[:, None], dim=1)
    return log_pi.gather(1, labels[:, None]).squeeze(1), -(log_pi.exp() * log_pi).sum(dim=1)


def gradients(outputs, inputs, seed=5):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(len(output), generator=generator, dtype=torch.float64) for output in outputs]
    for tensor in inputs:
        tensor.grad = None
    sum((weight * output).sum() for weight, output in zip(weights, outputs, strict=True)).backward()
    return [tensor.grad.clone() for tensor in inputs]


@pytest.mark.parametrize("keep_bytes", [0, 2 * 3 * 29 * 8, 2**20], ids=["none kept", "some kept", "all kept"])
@pytest.mark.parametrize("chunk_rows", [1, 3, 11])
def test_chunks_and_what_is_kept_change_neither_values_nor_gradients(rows, chunk_rows, keep_bytes):
    hidden, weight, *_ = rows
    expected = plain(*rows)
    found = head_log_probs(*rows, chunk_bytes=chunk_rows * 4 * 29, keep_bytes=keep_bytes)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13)
    mine, theirs = gradients(found, [hidden, weight]), gradients(expected, [hidden, weight])
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_entropies_and_their_gradients_are_float32_under_autocast():
    torch.manual_seed(0)
    hidden = torch.randn(16, 32, requires_grad=True)
    weight = (0.05 * torch.randn(50_000, 32)).requires_grad_()
    labels, one = torch.randint(0, 50_000, (16,)), torch.ones(16)

    def entropies_and_gradient():
        found = head_log_probs(hidden, weight, labels, one)[1]
        return found, *torch.autograd.grad(found.sum(), hidden)

    expected = plain(hidden.double(), weight.double(), labels, one)[1]
    exact = torch.autograd.grad(expected.sum(), hidden)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found, gradient = entropies_and_gradient()
        log_pi = torch.log_softmax(hidden @ weight.t(), dim=1)
        narrow = torch.bmm(log_pi.exp()[:, None], -log_pi[:, :, None]).flatten()
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=0)
    assert (gradient - exact).norm() < 1e-4 * exact.norm()
    assert (narrow - expected).abs().max() > 0.01  # as autocast computes the same product


def test_labels_of_the_next_row_have_other_gradients(rows):
    hidden, weight, labels, temperature = rows
    wrong = gradients(head_log_probs(hidden, weight, labels.roll(1), temperature), [hidden, weight])
    right = gradients(plain(*rows), [hidden, weight])
    assert all((one - other).norm() > 0.1 * other.norm() for one, other in zip(wrong, right, strict=True))


def test_a_weight_that_is_not_a_leaf_gets_its_gradient_through_autograd(rows):
    hidden, weight, labels, temperature = rows
    expected = gradients(plain(hidden, 2 * weight, labels, temperature), [hidden, weight])
    found = gradients(head_log_probs(hidden, 2 * weight, labels, temperature), [hidden, weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_no_rows_give_no_log_probs_and_a_zero_gradient(rows):
    hidden, weight, labels, temperature = rows
    log_probs, entropies = head_log_probs(hidden[:0], weight, labels[:0], temperature[:0])
    assert len(log_probs) == len(entropies) == 0
    log_probs.sum().backward()
    assert not weight.grad.any()


# Logits are the tensors with 29 columns, but for the transposed weight, which has 8 rows.
def test_no_more_logits_are_held_than_the_budget_allows(rows):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            for tensor in output if isinstance(output, tuple | list) else [output]:
                if isinstance(tensor, torch.Tensor) and tensor.shape[1:] == (29,) and tensor.shape[0] != 8:
                    self.seen = max(self.seen, tensor.shape[0])
            return output

    for chunk_rows in (2, 11):
        with Largest() as largest:
            outputs = head_log_probs(*rows, chunk_bytes=chunk_rows * 4 * 29, keep_bytes=0)
            sum(output.sum() for output in outputs).backward()
        assert largest.seen == chunk_rows


def test_eager_embedding_is_an_embedding():
    torch.manual_seed(0)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    ids, upstream = torch.tensor([[1, 1, 6], [0, 1, 2]]), torch.randn(2, 3, 3, dtype=torch.float64)
    expected = torch.autograd.grad((torch.nn.functional.embedding(ids, weight) * upstream).sum(), weight)[0]
    (eager_embedding(weight, ids) * upstream).sum().backward()
    torch.testing.assert_close(weight.grad, expected)
    with torch.no_grad():
        assert torch.equal(eager_embedding(weight, ids), weight[ids])


def test_a_padding_id_has_no_gradient_as_in_torch():
    torch.manual_seed(0)
    table = torch.nn.Embedding(7, 3, padding_idx=1, dtype=torch.float64)
    ids, upstream = torch.tensor([[1, 1, 6], [0, 1, 2]]), torch.randn(2, 3, 3, dtype=torch.float64)
    expected = torch.autograd.grad((table(ids) * upstream).sum(), table.weight)[0]
    (eager_embedding(table.weight, ids, 1) * upstream).sum().backward()
    torch.testing.assert_close(table.weight.grad, expected)
    assert not expected[1].any()
