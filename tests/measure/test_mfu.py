"""MFU: its formula, its devices, and operations counted over a batch of sequences of many sizes."""

from dataclasses import replace

import pytest

from groupppo.measure.mfu import Modes, Peak, Sequences, known_to_verl, peak_of, stage_flops, utilisation
from groupppo.update.flops import Shape, Work, forward_flops, update_flops

SHAPE = Shape(hidden=64, layers=2, intermediate=192, heads=2, kv_heads=1, head_dim=32, vocabulary=261, tied=True)
BATCH = Sequences(tokens=[20, 30, 20], responses=[10, 20, 10], policy_rows=[3, 4, 3], value_rows=[2, 4, 2])
DENSE = Modes("dense", "dense", "dense", "dense")


def test_a_device_busy_with_half_of_its_peak_has_an_mfu_of_one_half():
    assert utilisation(4e12, seconds=2.0, gpus=4, peak=Peak(1e12, "made up")) == 0.5


@pytest.mark.parametrize(("name", "tera"), [
    ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.5), ("NVIDIA H100 NVL", 835.5), ("NVIDIA H200", 989.4),
    ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100 80GB PCIe", 312), ("NVIDIA A100-PCIE-40GB", 312), ("NVIDIA L4", 121),
    ("NVIDIA L40", 181.05), ("NVIDIA L40S", 362.05), ("NVIDIA A10", 125), ("NVIDIA GH200 480GB", 989.4),
])  # fmt: skip
def test_a_known_device_has_its_published_dense_peak(name, tera):
    assert peak_of(name).flops_per_second == pytest.approx(tera * 1e12)
    assert "datasheet" in peak_of(name).source


@pytest.mark.parametrize("name", [
    "NVIDIA A10G", "NVIDIA H100 80GB HBM2e", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "Tesla V100-SXM2-16GB", "CPU", "",
    "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H20",
])  # fmt: skip
def test_a_device_whose_name_only_looks_like_a_known_one_has_no_peak(name):
    assert peak_of(name) is None


def test_a_batch_costs_the_sum_of_its_sequences():
    found = stage_flops(SHAPE, BATCH, DENSE, (1, 1))
    rows = list(zip(BATCH.tokens, BATCH.responses, BATCH.policy_rows, strict=True))
    forward = sum(sum(forward_flops(SHAPE, Work(*row), "dense").values()) for row in rows)
    update = sum(sum(update_flops(SHAPE, Work(*row), "dense").values()) for row in rows)
    assert found["old_log_prob"] == found["ref"] == pytest.approx(forward)
    assert found["update_actor"] == pytest.approx(update)
    assert update > 2.9 * forward


def test_updates_count_once_for_every_epoch():
    once, often = (stage_flops(SHAPE, BATCH, DENSE, epochs) for epochs in ((1, 1), (2, 3)))
    assert often["update_actor"] == pytest.approx(2 * once["update_actor"])
    assert often["update_critic"] == pytest.approx(3 * once["update_critic"])
    assert often["values"] == once["values"]


def test_a_critic_has_a_head_of_one_value():
    found = stage_flops(SHAPE, BATCH, DENSE, (1, 1))
    head = 3 * 2 * SHAPE.hidden * sum(BATCH.tokens)
    assert found["update_actor"] - found["update_critic"] == pytest.approx(head * (SHAPE.vocabulary - 1))


def test_a_gathered_update_is_credited_with_less_than_a_masked_one_which_does_all_the_work():
    gathered = stage_flops(SHAPE, BATCH, replace(DENSE, update_actor="gathered"), (1, 1))
    masked = stage_flops(SHAPE, BATCH, replace(DENSE, update_actor="masked"), (1, 1))
    dense = stage_flops(SHAPE, BATCH, DENSE, (1, 1))
    assert masked == dense
    assert gathered["update_actor"] < dense["update_actor"]
    assert gathered["update_critic"] == dense["update_critic"]


def test_a_pass_of_unknown_operations_has_none():
    assert stage_flops(SHAPE, BATCH, replace(DENSE, update_actor=None), (1, 1))["update_actor"] is None


def test_the_devices_that_verl_knows_are_those_of_its_own_table():
    from verl.utils.flops_counter import _DEVICE_FLOPS, get_device_flops

    for name in (
        *(set(_DEVICE_FLOPS) - {"CPU"}),
        "NVIDIA H100 80GB HBM3",
        "NVIDIA L4",
        "NVIDIA A10",
        "Tesla V100-SXM2-16GB",
    ):
        assert known_to_verl("cuda", name) is (get_device_flops(device_name=name) != float("inf"))
    assert known_to_verl("cpu", None)
    assert not known_to_verl("cuda", None)
