"""Model FLOP/s utilisation (MFU): operations that a stage's result needs, over those its GPUs could do in its time.

    MFU = operations / (seconds x GPUs x peak)        (Chowdhery et al. 2022, PaLM, appendix B)

Operations are those of groupppo/update/flops.py for the mode that really runs, without what gradient checkpointing
computes again: a masked update does all the work of a dense one and is credited with it, a gathered one only with what
it does. Peak is the published dense bfloat16 rate of the device. A stage that is not a pass over the batch (generation,
advantages, weight transfer) has no MFU.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True)
class Peak:
    """Dense bfloat16 FLOP/s of a device, and where that is published."""

    flops_per_second: float
    source: str


def peak_of(device: str) -> Peak | None:
    """The peak of a device by the driver's name for it; None for one that is not in the table, a MIG instance too."""
    name = re.sub(r"^(NVIDIA|Tesla) ", "", device.strip())
    return next((Peak(rate, source) for pattern, rate, source in _PEAKS if re.fullmatch(pattern, name)), None)


def stage_flops(
    shape: Shape,
    policy: Iterable[Work],
    value: Iterable[Work],
    modes: Mapping[str, str | None],
    epochs: tuple[int, int],
) -> dict[str, float | None]:
    """Operations of a step's passes over the whole batch, by stage.

    Args:
        shape: of the policy; the critic has a head of one value in the place of its vocabulary.
        policy, value: the batch's sequences as the policy's and as the value loss sees them.
        modes: how each stage is computed, by `update.flops.MODES`; None for one whose operations are not known.
        epochs: of policy and critic updates.
    """
    critic = replace(shape, vocabulary=1, tied=True)
    # Sequences of one size are counted once: a batch has far fewer sizes than sequences.
    policy_works, value_works = Counter(policy), Counter(value)
    found: dict[str, float | None] = dict.fromkeys(modes)
    for stage, mode in modes.items():
        if mode is None:
            continue
        of_shape, works = (critic, value_works) if stage in ("values", "update_critic") else (shape, policy_works)
        flops = update_flops if stage.startswith("update") else forward_flops
        once = sum(number * sum(flops(of_shape, work, mode).values()) for work, number in works.items())
        times = {"update_actor": epochs[0], "update_critic": epochs[1]}.get(stage, 1)
        found[stage] = float(times * once)
    return found
