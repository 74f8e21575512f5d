"""Model FLOP/s utilisation (MFU): operations that a stage's result needs, over those its GPUs could do in its time.

    MFU = operations / (seconds x GPUs x peak)        (Chowdhery et al. 2022, PaLM, appendix B)

Operations are those of groupppo/update/flops.py for the mode that really runs, without what gradient checkpointing
computes again: a masked update does all the work of a dense one and is credited with it, a gathered one only with what
it does. Peak is the published dense bfloat16 rate of the device. A stage that is not a pass over the batch (generation,
advantages, weight transfer) has no MFU.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from groupppo.update.flops import Shape, Work, forward_flops, update_flops

# FLOP/s in bfloat16 with float32 sums, dense: half of what a datasheet gives "with sparsity". Names are the driver's.
_PEAKS = (
    (r"B200", 2.25e15, "NVIDIA DGX B200 datasheet: 72 PFLOPS FP8 sparse for eight, a quarter of it dense bfloat16"),
    (r"GH200 .*", 989.4e12, "NVIDIA GH200 datasheet: 1,979 TFLOPS sparse"),
    (r"H200", 989.4e12, "NVIDIA H200 datasheet, SXM: 1,979 TFLOPS sparse"),
    (r"H200 NVL", 835.5e12, "NVIDIA H200 datasheet, NVL: 1,671 TFLOPS sparse"),
    (r"H100 80GB HBM3", 989.4e12, "NVIDIA H100 datasheet, SXM: 1,979 TFLOPS sparse"),
    (r"H100 PCIe", 756.5e12, "NVIDIA H100 datasheet, PCIe: 1,513 TFLOPS sparse"),
    (r"H100 NVL", 835.5e12, "NVIDIA H100 datasheet, NVL: 1,671 TFLOPS sparse"),
    (r"A100(-(SXM4|PCIE)-(40|80)GB| 80GB PCIe)", 312e12, "NVIDIA A100 datasheet: 312 TFLOPS"),
    (r"L40S", 362.05e12, "NVIDIA L40S datasheet: 362.05 TFLOPS"),
    (r"L40", 181.05e12, "NVIDIA L40 datasheet: 181.05 TFLOPS"),
    (r"L4", 121e12, "NVIDIA L4 datasheet: 242 TFLOPS sparse"),
    (r"A40", 149.7e12, "NVIDIA A40 datasheet: 149.7 TFLOPS"),
    (r"A30", 165e12, "NVIDIA A30 datasheet: 165 TFLOPS"),
    (r"A10", 125e12, "NVIDIA A10 datasheet: 125 TFLOPS"),
)


_VERLS = (
    *("B200", "MI300X", "MI350X", "MI355X", "H100", "H800", "H200", "A100", "A800", "L40", "A40", "L20", "H20", "910B"),
    *("A2G3", "Ascend950DT", "Ascend910", "RTX 3070 Ti"),
)
"""Parts of the names by which verl 0.9.1 knows a device: verl/utils/flops_counter.py:_DEVICE_FLOPS."""


@dataclass(frozen=True)
class Peak:
    """Dense bfloat16 FLOP/s of a device, and where that is published."""

    flops_per_second: float
    source: str


def peak_of(device: str) -> Peak | None:
    """The peak of a device by the driver's name for it; None for one that is not in the table, a MIG instance too."""
    name = re.sub(r"^(NVIDIA|Tesla) ", "", device.strip())
    return next((Peak(rate, source) for pattern, rate, source in _PEAKS if re.fullmatch(pattern, name)), None)


def known_to_verl(device: str, gpu: str | None) -> bool:
    """Whether verl has a peak for what a run was on; where it has none, it logs an MFU of 0 in every step.

    Args:
        device: "cpu" or "cuda". gpu: the driver's name, None where the run does not say.
    """
    return device == "cpu" or any(part in (gpu or "") for part in _VERLS)


def utilisation(flops: float, seconds: float, gpus: int, peak: Peak) -> float:
    """MFU of a stage, a share of 1; above 1 only where time or operations were counted wrongly."""
    return flops / (seconds * gpus * peak.flops_per_second)


@dataclass(frozen=True)
class Sequences:
    """Sizes of a batch's sequences, each of length B.

    Args:
        tokens: of prompt and response. responses: of the response. policy_rows, value_rows: response tokens that count
            in the policy's and in the value loss.
    """

    tokens: Sequence[int]
    responses: Sequence[int]
    policy_rows: Sequence[int]
    value_rows: Sequence[int]


@dataclass(frozen=True)
class Modes:
    """How each pass is computed, by `update.flops.MODES`; None for one whose operations are not known."""

    log_probs: str | None
    values: str | None
    update_critic: str | None
    update_actor: str | None


def stage_flops(shape: Shape, sequences: Sequences, modes: Modes, epochs: tuple[int, int]) -> dict[str, float | None]:
    """Operations of a step's passes over the whole batch, by stage.

    Args:
        shape: of the policy; the critic has a head of one value in the place of its vocabulary.
        epochs: of policy and critic updates.
    """
    critic = replace(shape, vocabulary=1, tied=True)
    policy_works = _works(sequences, sequences.policy_rows)
    value_works = _works(sequences, sequences.value_rows)
    log_probs = _total(shape, policy_works, modes.log_probs, forward=True)
    return {
        "old_log_prob": log_probs,
        "ref": log_probs,
        "values": _total(critic, value_works, modes.values, forward=True),
        "update_critic": _total(critic, value_works, modes.update_critic, times=epochs[1]),
        "update_actor": _total(shape, policy_works, modes.update_actor, times=epochs[0]),
    }


def _works(sequences: Sequences, rows: Sequence[int]) -> Counter[Work]:
    """Sequences of one size are counted once: a batch has far fewer sizes than sequences."""
    return Counter(map(Work, sequences.tokens, sequences.responses, rows))


def _total(
    shape: Shape, works: Counter[Work], mode: str | None, *, forward: bool = False, times: int = 1
) -> float | None:
    if mode is None:
        return None
    count = forward_flops if forward else update_flops
    return float(times * sum(number * sum(count(shape, work, mode).values()) for work, number in works.items()))
