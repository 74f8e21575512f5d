"""Measuring a setting: turns, rows for what fails, files that say where they come from; the counter and the probes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from groupppo.profile import bench as benches
from groupppo.profile.measure import CudaProbe, HostProbe, count, measure_memory, measure_seconds
from groupppo.update.variants import FAILED, MEASURED, NO_MEMORY, NOT_RUN


def results_of(content):
    return {result["variant"]: result for result in content["results"]}


@pytest.fixture(scope="module")
def contents(measured):
    """What the result files of a setting say, by what was measured."""
    return {what: json.loads((measured.folder / f"tiny.{what}.json").read_text()) for what in ("seconds", "memory")}


def test_every_round_has_every_variant_once_in_the_reverse_order_of_the_round_before(contents):
    orders = {}
    for result in contents["seconds"]["results"]:
        for one in result["rounds"]:
            orders.setdefault(one["round"], {})[one["place"]] = result["variant"]
            assert one["reading"]["seconds"] >= 0.5 * one["reading"]["cpu_seconds"] > 0
    first, second = ([names[place] for place in sorted(names)] for names in (orders[0], orders[1]))
    assert first == second[::-1]
    assert first != second
    ran = [name for name, result in results_of(contents["seconds"]).items() if result["status"] == MEASURED]
    assert sorted(first) == sorted(ran)


@pytest.mark.parametrize("what", ["seconds", "memory"])
def test_result_files_say_where_they_come_from_and_what_cannot_run_here_is_a_row_with_its_reason(
    measured, contents, what
):
    content = contents[what]
    assert content["command"] == "a test"
    assert content["machine"]["cpu_cores"] >= 1
    assert content["software"]["torch"]
    assert set(content["source"]) == {"commit", "uncommitted_sha256"}
    assert content["setting"]["model"]["shape"]["hidden"] == 64
    found = results_of(content)
    assert found["verl_triton"]["status"] == NOT_RUN
    assert "GPU" in found["verl_triton"]["reason"]
    assert (found["dense"]["status"], found["dense"]["reason"]) == (MEASURED, "")
    assert list(found) == list(measured.profile.measured["tiny"].variants)


def test_equal_gradients_have_equal_norms_and_kept_keys_are_counted_apart(contents):
    found = results_of(contents["memory"])
    masked = found["masked"]["gradient_norm"]
    assert found["gathered"]["gradient_norm"] == pytest.approx(masked, rel=0.01)
    assert found["gathered_head"]["gradient_norm"] == pytest.approx(masked, rel=0.01)
    assert found["dense"]["gradient_norm"] != pytest.approx(masked, rel=0.1)
    layers, tokens, kv, element = 3, 80, 2 * 16, 2
    assert found["streamed_reuse"]["held_bytes"] == layers * tokens * 2 * kv * element
    assert found["gathered"]["held_bytes"] == 0


@pytest.fixture
def failing(smoke, monkeypatch):
    """A setting of which one variant raises an error."""

    def make(error, variant="gathered"):
        stock = benches.loss

        def loss(chosen, *args):
            if chosen.name == variant:
                raise error
            return stock(chosen, *args)

        monkeypatch.setattr(benches, "loss", loss)
        return replace(smoke.measured["tiny"], variants=("dense", "gathered", "masked"))

    return make


@pytest.mark.parametrize(
    ("measure", "error", "status"),
    [
        (measure_seconds, RuntimeError("shapes do not match"), FAILED),
        (measure_memory, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), NO_MEMORY),
        (measure_memory, MemoryError(), NO_MEMORY),
    ],
    ids=["error", "allocator", "python"],
)
def test_a_variant_that_fails_leaves_a_row_and_the_others_go_on(failing, measure, error, status):
    found = results_of(measure(failing(error)))
    assert found["gathered"]["status"] == status
    assert found["gathered"]["reason"] == " ".join(str(error).split())
    assert found["masked"]["status"] == MEASURED


@pytest.mark.parametrize(
    ("error", "variant"), [(RuntimeError("broken"), "dense"), (ValueError("a mistake"), "gathered")]
)
def test_a_failure_of_the_reference_and_an_error_of_ours_are_no_results(failing, error, variant):
    with pytest.raises(type(error), match=str(error)):
        measure_seconds(failing(error, variant))


def test_a_variant_that_would_not_fit_is_not_started(smoke, monkeypatch):
    bench = benches.Bench(smoke.measured["tiny"])
    outcome = benches.Outcome("gathered")
    bench.prepare(outcome)
    assert outcome.status == MEASURED
    monkeypatch.setattr(benches.psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    bench.prepare(outcome)
    assert outcome.status == NO_MEMORY
    assert "not started" in outcome.reason


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


def test_products_in_place_are_counted_and_attention_is_two_products_forward_and_five_backward():
    left, right, total = torch.randn(3, 5), torch.randn(5, 7), torch.zeros(3, 7)
    with count() as found:
        total.addmm_(left, right)
    assert found.flops == 2 * 3 * 5 * 7
    query, keys, values = (torch.randn(1, heads, 6, 4, requires_grad=True) for heads in (4, 2, 2))
    with count() as found:
        output = functional.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)
        output.sum().backward()
    assert found.flops == (2 + 5) * 2 * (4 * 6 * 6 * 4)


def test_memory_freed_within_a_pass_counts_once_and_memory_from_before_does_not():
    probe, kept = HostProbe(exact=True), torch.ones(8 << 20)

    def run(megabytes):
        def inner():
            for _ in range(5):
                torch.ones(megabytes << 18).sum()

        return inner

    run(24)()
    for megabytes in (24, 48, 0):
        assert probe.rise(run(megabytes)) / 2**20 == pytest.approx(megabytes, abs=3)
    assert len(kept) == 8 << 20


class FakeCuda:
    """torch.cuda as far as a probe calls it; notes the order of calls."""

    def __init__(self, held, peak):
        self.held, self.peak, self.calls = held, peak, []

    def __getattr__(self, name):
        def call(*_, **__):
            self.calls.append(name)
            return {"memory_allocated": self.held, "max_memory_allocated": self.peak}.get(name)

        return call

    def Event(self, **_):  # noqa: N802 - torch's name
        self.calls.append("Event")
        return SimpleNamespace(record=lambda: self.calls.append("record"), elapsed_time=lambda _end: 1500.0)


def test_a_gpu_pass_is_timed_between_events_and_read_after_it_has_finished(monkeypatch):
    fake = FakeCuda(held=70, peak=100)
    monkeypatch.setattr(torch, "cuda", fake)
    probe = CudaProbe()
    assert probe.seconds(lambda: fake.calls.append("pass"))["seconds"] == 1.5
    assert fake.calls.index("record") < fake.calls.index("pass")
    assert fake.calls[-2:] == ["record", "synchronize"]
    fake.calls.clear()
    assert probe.rise(lambda: fake.calls.append("pass")) == 30
    order = [fake.calls.index(name) for name in ("reset_peak_memory_stats", "memory_allocated", "pass")]
    assert order == sorted(order)
    assert fake.calls[-2:] == ["synchronize", "max_memory_allocated"]


@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_the_kernels_of_a_gpu_are_counted_by_query_heads_where_these_share_keys(kernel):
    query, keys = (torch.empty(1, heads, tokens, 64, device="meta") for heads, tokens in ((14, 32), (2, 256)))
    ask = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_attention")
    more = () if kernel == "flash" else (None, False)
    with count() as found:
        ask(query, keys, keys, *more)
    assert found.operations == {f"aten._scaled_dot_product_{kernel}_attention": 2 * 2 * 14 * 32 * 256 * 64}
    with count() as shared:
        ask(query[:, :2], keys, keys, *more)
    assert found.flops == 7 * shared.flops > 0
