"""The parameters of GROUP-PPO: names and defaults of the origin where it has them, checked."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from groupppo.errors import BadInput

HOME = "algorithm.group_params"

CHOICES: dict[str, tuple[str, ...]] = {
    "rule": ("variance_split", "singleton"),
    "score": ("unit",),
    "advantage": ("segment_gae",),
    "spread": ("endpoint",),
    "loss_normalizer": ("endpoints",),
    "update": ("masked",),
    "on_error": ("raise",),
}

# key: (lowest, highest, whether the lowest itself is allowed)
RANGES: dict[str, tuple[float, float, bool]] = {
    "group_variance_threshold": (0.0, float("inf"), False),
    "group_max_size": (1, float("inf"), True),
    "group_epsilon": (0.0, float("inf"), True),
    "threshold_lr": (0.0, float("inf"), True),
    "min_threshold": (0.0, float("inf"), False),
    "max_threshold": (0.0, float("inf"), False),
    "target_density": (0.0, 1.0, False),
}


@dataclass(frozen=True)
class GroupParams:
    """How responses are grouped and trained on; the config keys are `algorithm.group_params.<field>`.

    Attributes:
        rule: where a group ends. `variance_split`: before the token whose variance ratio passes the threshold.
            `singleton`: at every token, which is dense PPO.
        score: squared norm of a token's score vector. `unit`: 1 for every token.
        advantage: `segment_gae`, GAE over endpoints as macro-steps.
        spread: `endpoint`, losses count endpoints only.
        loss_normalizer: `endpoints`, losses are divided by the number of endpoints.
        update: `masked`, full forward and backward pass, masked afterwards (what the origin does).
        on_error: `raise`.
        group_variance_threshold: tau, the ratio above which a group is split; the start value when adaptive.
        group_max_size: cap on the tokens of one group.
        group_epsilon: added to r_ppo before it is multiplied by tau.
        adaptive_threshold: move tau towards `target_density` once a step.
        threshold_lr: rate of that move on the log scale.
        min_threshold, max_threshold: bounds of tau.
        target_density: endpoints over valid tokens that the adaptive threshold aims at.
    """

    rule: str = "variance_split"
    score: str = "unit"
    advantage: str = "segment_gae"
    spread: str = "endpoint"
    loss_normalizer: str = "endpoints"
    update: str = "masked"
    on_error: str = "raise"
    group_variance_threshold: float = 1.0
    group_max_size: int = 16
    group_epsilon: float = 1e-6
    adaptive_threshold: bool = True
    threshold_lr: float = 0.01
    min_threshold: float = 0.1
    max_threshold: float = 10.0
    target_density: float = 0.125

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            value = getattr(self, key)
            if value not in known:
                close = difflib.get_close_matches(str(value), known, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise BadInput(HOME, key, value, f"{hint}write one of: {', '.join(known)}.")
        for key, (low, high, closed) in RANGES.items():
            _check_range(key, getattr(self, key), low, high, closed, whole=key == "group_max_size")
        if not isinstance(self.adaptive_threshold, bool):
            raise BadInput(HOME, "adaptive_threshold", self.adaptive_threshold, "write true or false.")
        if self.min_threshold > self.max_threshold:
            raise BadInput(HOME, "min_threshold", self.min_threshold, f"keep it at most {self.max_threshold}.")
        if not self.min_threshold <= self.group_variance_threshold <= self.max_threshold:
            bounds = f"[{self.min_threshold}, {self.max_threshold}]"
            raise BadInput(HOME, "group_variance_threshold", self.group_variance_threshold, f"keep it in {bounds}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "GroupParams":
        """Build from the mapping under `algorithm.group_params`.

        Raises:
            BadInput: a key is unknown, or a value is of the wrong type or out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise BadInput(HOME, str(key), config[key], f"unknown key; {hint}Known keys: {', '.join(known)}.")
        return cls(**{str(key): value for key, value in config.items()})


def _check_range(key: str, value: object, low: float, high: float, closed: bool, whole: bool) -> None:
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise BadInput(HOME, key, value, f"write a {'whole ' if whole else ''}number.")
    assert isinstance(value, int | float)
    # Written so that NaN, for which every comparison is false, is refused too.
    if not ((value >= low if closed else value > low) and value <= high and value < float("inf")):
        raise BadInput(HOME, key, value, f"keep it {'at least' if closed else 'above'} {low} and at most {high}.")
