"""The parameters of GROUP-PPO: names and defaults of the origin where it has them, checked."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from groupppo.algorithm.registry import Rule, known_rules
from groupppo.algorithm.scores import NEEDS, SCORES
from groupppo.errors import BadInput, suggest

HOME = "algorithm.group_params"

CHOICES: dict[str, tuple[str, ...]] = {
    "score": tuple(SCORES),
    "advantage": ("segment_gae", "token_gae", "published"),
    "spread": ("endpoint", "group"),
    "loss_normalizer": ("endpoints", "tokens"),
    "update": ("auto", "masked", "gathered", "streamed"),
    "kv": ("recompute", "reuse"),
    "on_error": ("raise", "dense"),
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
    "density": (0.0, 1.0, False),
    "probability_cutoff": (0.0, 1.0, False),
    "kv_bytes": (1, float("inf"), True),
    "live_window": (0, float("inf"), True),
    "live_share": (0.0, 1.0, True),
}
_WHOLE = ("group_max_size", "kv_bytes", "live_window")

# Keys that act whatever the rule; the others act only where the rule uses them.
_STREAMED = ("kv", "kv_bytes", "live_window", "live_share")
COMMON = ("rule", "advantage", "spread", "loss_normalizer", "update", "on_error", *_STREAMED)


@dataclass(frozen=True)
class GroupParams:
    """How responses are grouped and trained on; the config keys are `algorithm.group_params.<field>`.

    Attributes:
        rule: where a group ends; a module of `groupppo.algorithm.rules`, where each is defined.
        score: proxy of a token's score vector. `unit`: norm 1. `logit_norm`: 1 - 2p + sum p^2, the norm of the gradient
            in the logits. `log_ratio`: rollout minus trainer log-probability, a signed scalar.
        advantage: `segment_gae`: GAE over endpoints as macro-steps (reading A). `token_gae`: dense GAE, read at the
            endpoints (reading B). `published`: reward inside the group minus value at the endpoint, not whitened.
        spread: `endpoint`: policy and value loss at endpoints only. `group`: all tokens of a group share its
            endpoint's advantage in the policy loss, value loss at endpoints (reading C).
        loss_normalizer: what divides a loss. `endpoints`: the tokens it counts, which are the endpoints, or all tokens
            for the policy loss with spread `group`. `tokens`: all valid tokens.
        update: what the updates compute. `masked`: everything, masked afterwards (what the origin does). `gathered`:
            what the endpoints depend on, with the same gradients. `auto`: `gathered` in a step whose density is below
            one half, else `masked`. `streamed`: only endpoints flow through the policy; an approximation, research. The
            critic's update is `gathered` then.
        kv: where `streamed` has the keys and values of other tokens from: `recompute` in the update, or `reuse` what
            this step's old-log-prob pass kept, which is right for the first optimizer step only. kv_bytes: largest size
            of what is kept per rank.
        live_window, live_share: what flows next to endpoints in `streamed`: so many tokens before each, a random share.
            Nothing by default: cosine with the exact gradient x speed-up of the update is largest there
            (groupppo/studies/streams.py).
        on_error: `raise`, or `dense`: a step whose grouping fails runs as dense PPO, is logged and counted, and the run
            is no evidence for a claim about GROUP-PPO.
        group_variance_threshold: tau, the ratio above which a group is split; the start value when adaptive.
        group_max_size: cap on the tokens of one group, and the stride of rule `stride`.
        group_epsilon: added to r_ppo before it is multiplied by tau.
        adaptive_threshold: move tau towards `target_density` once a step.
        threshold_lr: rate of that move on the log scale.
        min_threshold, max_threshold: bounds of tau.
        target_density: endpoints over valid tokens that the adaptive threshold aims at.
        density: endpoints over valid tokens for the rules `random` and `entropy`, the same in every step.
        density_source: instead of a number, the `steps.jsonl` of a finished run, followed step by step.
        probability_cutoff: rule `low_prob` closes at tokens less probable than this.
    """

    rule: str = "variance_split"
    score: str = "unit"
    advantage: str = "segment_gae"
    spread: str = "endpoint"
    loss_normalizer: str = "endpoints"
    update: str = "auto"
    kv: str = "reuse"
    kv_bytes: int = 4 * 2**30
    live_window: int = 0
    live_share: float = 0.0
    on_error: str = "raise"
    group_variance_threshold: float = 1.0
    group_max_size: int = 16
    group_epsilon: float = 1e-6
    adaptive_threshold: bool = True
    threshold_lr: float = 0.01
    min_threshold: float = 0.1
    max_threshold: float = 10.0
    target_density: float = 0.125
    density: float | None = None
    density_source: str | None = None
    probability_cutoff: float = 0.9

    def __post_init__(self) -> None:
        _check_choice("rule", self.rule, known_rules(), " A rule is a file of its name in groupppo/algorithm/rules/.")
        for key, known in CHOICES.items():
            _check_choice(key, getattr(self, key), known)
        for key, (low, high, closed) in RANGES.items():
            if key != "density" or self.density is not None:
                _check_range(key, getattr(self, key), low, high, closed, whole=key in _WHOLE)
        if not isinstance(self.adaptive_threshold, bool):
            raise BadInput(HOME, "adaptive_threshold", self.adaptive_threshold, "write true or false.")
        if self.min_threshold > self.max_threshold:
            raise BadInput(HOME, "min_threshold", self.min_threshold, f"keep it at most {self.max_threshold}.")
        if not self.min_threshold <= self.group_variance_threshold <= self.max_threshold:
            bounds = f"[{self.min_threshold}, {self.max_threshold}]"
            raise BadInput(HOME, "group_variance_threshold", self.group_variance_threshold, f"keep it in {bounds}.")
        self._check_live()
        self._check_density()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "GroupParams":
        """Build from the mapping under `algorithm.group_params`.

        Raises:
            BadInput: a key is unknown, has no effect with this rule, or its value is of the wrong type or out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                hint = f"unknown key; {suggest(key, known)}Known keys: {', '.join(known)}."
                raise BadInput(HOME, str(key), config[key], hint)
        return cls(**{str(key): value for key, value in config.items()})

    @property
    def definition(self) -> Rule:
        return known_rules()[self.rule]

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Tokens` that rule and score read."""
        score = NEEDS[self.score] if "score" in self.definition.uses else ()
        return frozenset((*self.definition.needs, *score))

    def _check_live(self) -> None:
        """Refuse a key that was changed but cannot change anything: what a user writes is never ignored."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in COMMON and value != field.default and field.name not in self.definition.uses:
                used = ", ".join(sorted(self.definition.uses)) or "none"
                hint = f"rule {self.rule} does not use it; leave it out. Of such keys it uses: {used}."
                raise BadInput(HOME, field.name, value, hint)
        for key in _STREAMED:
            if self.update != "streamed" and getattr(self, key) != getattr(type(self), key):
                raise BadInput(HOME, key, getattr(self, key), "without effect; leave it out or set update: streamed.")
        if self.kv == "recompute" and self.kv_bytes != type(self).kv_bytes:
            raise BadInput(HOME, "kv_bytes", self.kv_bytes, "without effect; leave it out or set kv: reuse.")
        for key in ("threshold_lr", "target_density"):
            if not self.adaptive_threshold and getattr(self, key) != getattr(type(self), key):
                raise BadInput(
                    HOME, key, getattr(self, key), "without effect; leave it out or set adaptive_threshold: true."
                )

    def _check_density(self) -> None:
        if "density" not in self.definition.uses:
            return
        if (self.density is None) == (self.density_source is None):
            hint = (
                f"rule {self.rule} needs either density, a number, or density_source, the steps.jsonl of another run."
            )
            raise BadInput(HOME, "density", self.density, hint)
        if self.density_source is not None and not isinstance(self.density_source, str):
            raise BadInput(HOME, "density_source", self.density_source, "write the path of a steps.jsonl.")


def _check_choice(key: str, value: object, known: Iterable[str], more: str = "") -> None:
    known = list(known)
    if value not in known:
        raise BadInput(HOME, key, value, f"{suggest(value, known)}write one of: {', '.join(known)}.{more}")


def _check_range(key: str, value: object, low: float, high: float, closed: bool, whole: bool) -> None:
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise BadInput(HOME, key, value, f"write a {'whole ' if whole else ''}number.")
    assert isinstance(value, int | float)
    # Written so that NaN, for which every comparison is false, is refused too.
    if not ((value >= low if closed else value > low) and value <= high and value < float("inf")):
        raise BadInput(HOME, key, value, f"keep it {'at least' if closed else 'above'} {low} and at most {high}.")
