"""The adaptive threshold. The origin names its parameters but never gives the update law; this one is ours."""

import math
from dataclasses import dataclass

from groupppo.algorithm.params import GroupParams


@dataclass
class Threshold:
    """tau, moved once a step on the log scale towards the target density.

    ln tau <- clip(ln tau + threshold_lr * (d - target_density) / target_density, ln min, ln max): too many endpoints
    raise the threshold, so that fewer groups are split.
    """

    params: GroupParams
    value: float

    @classmethod
    def start(cls, params: GroupParams) -> "Threshold":
        return cls(params, params.group_variance_threshold)

    def update(self, density: float) -> None:
        """Take one step after a batch of the given density (endpoints over valid tokens, in (0, 1])."""
        params = self.params
        if not params.adaptive_threshold:
            return
        step = params.threshold_lr * (density - params.target_density) / params.target_density
        # Compared before the exponential, which overflows, and multiplied, so that a step of zero keeps every bit.
        if step >= math.log(params.max_threshold / self.value):
            self.value = params.max_threshold
        elif step <= math.log(params.min_threshold / self.value):
            self.value = params.min_threshold
        else:
            self.value = min(max(self.value * math.exp(step), params.min_threshold), params.max_threshold)

    def state_dict(self) -> dict[str, float]:
        return {"threshold": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["threshold"]
