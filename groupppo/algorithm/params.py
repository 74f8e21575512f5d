"""The keys of a selection, checked; the rules that read them; and what moves from step to step.

Four choices are independent: which tokens (`rule`), how much each counts (`weights`), what their advantages are
(`advantage`) and what is computed (`update`). Names and defaults are the origin's where it has them. One file in
`groupppo/algorithm/rules/` is one rule, found by being there.
"""

import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from groupppo.algorithm.grouping import SCORE_NEEDS, SCORES, Score, Tokens
from groupppo.errors import BadInput, suggest

HOME = "algorithm.group_params"


@dataclass(frozen=True)
class StepValues:
    """What changes from step to step: tau, and the density that a control has to match."""

    threshold: float
    density: float | None = None

    def required_density(self) -> float:
        """The density.

        Raises:
            BadInput: nobody gave one.
        """
        if self.density is None:
            hint = "give the density of this step, a number above 0 and at most 1."
            raise BadInput("group_tokens", "density", None, hint)
        return self.density


Close = Callable[[Tokens, "GroupParams", StepValues], Tensor]
Evidence = Callable[[Tokens, "GroupParams"], tuple[Tensor, Score]]
Inclusion = Callable[[Tensor, "GroupParams", StepValues], Tensor]


@dataclass(frozen=True)
class Rule:
    """A grouping rule.

    Attributes:
        name: its name in `group_params.rule`, which is its function's.
        close: from tokens, parameters and step values to the cause of closing at every token, (B, T) int8 `Cause`.
        uses: the keys of `GroupParams` that change its groups.
        needs: the fields of `Tokens` it reads, next to those of the score where it uses one.
        evidence: advantages and scores that its variance ratio is made of; None for a rule without a ratio.
        inclusion: from the mask to the probability of each token to be chosen, (B, T); None where there is none.
    """

    name: str
    close: Close
    uses: frozenset[str]
    needs: tuple[str, ...]
    evidence: Evidence | None
    inclusion: Inclusion | None

    @property
    def known_before_update(self) -> bool:
        """Whether the endpoints depend on the mask alone, so that they are known before any forward pass."""
        return set(self.needs) <= {"seeds"} and "score" not in self.uses


_RULES: dict[str, Rule] = {}


def rule(
    *,
    uses: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    evidence: Evidence | None = None,
    inclusion: Inclusion | None = None,
) -> Callable[[Close], Close]:
    """Register a function as the rule of its name.

    Raises:
        ValueError: another module has registered a rule of that name.
    """

    def register(close: Close) -> Close:
        taken = _RULES.get(close.__name__)
        if taken is not None and taken.close.__module__ != close.__module__:
            raise ValueError(f"rule {close.__name__} of {close.__module__} is already in {taken.close.__module__}")
        _RULES[close.__name__] = Rule(close.__name__, close, frozenset(uses), needs, evidence, inclusion)
        return close

    return register


@cache
def known_rules() -> dict[str, Rule]:
    """All rules by name; imports every module of `groupppo.algorithm.rules` on first use.

    Raises:
        ValueError: a module registers no rule of its own name, by which a workflow finds what a run depends on.
    """
    package = importlib.import_module("groupppo.algorithm.rules")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
        if module.name not in _RULES:
            raise ValueError(f"{package.__name__}.{module.name} registers no rule named {module.name}")
    return dict(sorted(_RULES.items()))


# Lowest and highest value of a number, and whether the lowest itself is allowed.
Limits = tuple[float, float, bool]
_POSITIVE: Limits = (0.0, math.inf, False)
_NOT_NEGATIVE: Limits = (0.0, math.inf, True)
_SHARE: Limits = (0.0, 1.0, False)


@dataclass(frozen=True)
class Key:
    """What a key of `GroupParams` may be.

    Attributes:
        description: what it does.
        choices: its values, for a key that is a choice.
        switch: whether it is true or false.
        whole: whether it is an integer.
        limits: of a number; None for a key that is no number.
        only_with: values of other keys without which it has no effect.
    """

    description: str
    choices: tuple[str, ...] = ()
    switch: bool = False
    whole: bool = False
    limits: Limits | None = None
    only_with: tuple[tuple[str, str | bool], ...] = ()

    def check(self, name: str, value: object) -> None:
        """Raises BadInput: the value is of the wrong type, no choice, or out of range."""
        if self.choices and value not in self.choices:
            _refuse_choice(name, value, self.choices)
        if self.switch and not isinstance(value, bool):
            raise BadInput(HOME, name, value, "write true or false.")
        if self.limits is None:
            return
        low, high, closed = self.limits
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            raise BadInput(HOME, name, value, f"write a {'whole ' if self.whole else ''}number.")
        assert isinstance(value, int | float)
        # Written so that NaN, for which every comparison is false, is refused too.
        if not ((value >= low if closed else value > low) and value <= high and value < math.inf):
            raise BadInput(HOME, name, value, f"keep it {'at least' if closed else 'above'} {low} and at most {high}.")


def _key(default: Any, description: str, *choices: str, **limits: Any) -> Any:
    key = Key(description, choices, isinstance(default, bool), isinstance(default, int), **limits)
    return field(default=default, metadata={"key": key})


_STREAMED, _GATHERED = (("update", "streamed"),), (("update", "gathered"),)
_ADAPTIVE = (("adaptive_threshold", True),)


@dataclass(frozen=True)
class GroupParams:
    """Which tokens are trained on, and how; the config keys are `algorithm.group_params.<field>`, each a `Key`."""

    rule: str = _key(
        "variance_split",
        "Where a group ends, the token that is trained on; a file of this name in groupppo/algorithm/rules/. An "
        "estimator of verl's trains on every token without it.",
    )
    weights: str = _key(
        "none",
        "How much a chosen token counts. `none`: once. `horvitz_thompson`: one over its probability to be chosen, over "
        "all valid tokens, which leaves the dense loss and its gradient without bias.",
        *("none", "horvitz_thompson"),
    )
    score: str = _key(
        "unit",
        "Proxy of a token's score vector. `unit`: norm 1. `logit_norm`: 1 - 2p + sum p^2, the norm of the gradient in "
        "the logits. `log_ratio`: rollout minus trainer log-probability, a signed scalar.",
        *SCORES,
    )
    advantage: str = _key(
        "segment_gae",
        "`segment_gae`: GAE over endpoints as macro-steps (reading A). `token_gae`: dense GAE, read at the endpoints "
        "(reading B). `published`: reward inside the group minus value at the endpoint, not whitened. `stock`: of the "
        "estimator of verl's that algorithm.adv_estimator names, with which it is the default.",
        *("segment_gae", "token_gae", "published", "stock"),
    )
    spread: str = _key(
        "endpoint",
        "`endpoint`: policy and value loss at endpoints only. `group`: all tokens of a group share its endpoint's "
        "advantage in the policy loss, value loss at endpoints (reading C).",
        *("endpoint", "group"),
    )
    loss_normalizer: str = _key(
        "endpoints",
        "What divides a loss. `endpoints`: the tokens it counts, which are the endpoints, or all tokens for the policy "
        "loss with spread `group`. `tokens`: all valid tokens.",
        *("endpoints", "tokens"),
    )
    update: str = _key(
        "auto",
        "What the updates compute. `masked`: everything, masked afterwards, as the origin does. `gathered`: what the "
        "endpoints depend on, with the same gradients. `auto`: `gathered` in a step whose density is below one half, "
        "else `masked`. `streamed`: only endpoints flow through the policy; an approximation, research. The critic's "
        "update is `gathered` then.",
        *("auto", "masked", "gathered", "streamed"),
    )
    kv: str = _key(
        "reuse",
        "Where `streamed` has the keys and values of other tokens from: `recompute` in the update, or `reuse` what the "
        "step's old-log-prob pass kept, which is right for the first optimizer step only.",
        *("recompute", "reuse"),
        only_with=_STREAMED,
    )
    kv_bytes: int = _key(
        4 * 2**30,
        "Largest size of the keys and values that `streamed` keeps per rank.",
        limits=(1, math.inf, True),
        only_with=(*_STREAMED, ("kv", "reuse")),
    )
    live_window: int = _key(
        0,
        "So many tokens before each endpoint flow too in `streamed`. Nothing by default: cosine with the exact "
        "gradient x speed-up of the update is largest there (groupppo/studies/streams.py).",
        limits=(0, math.inf, True),
        only_with=_STREAMED,
    )
    live_share: float = _key(
        0.0, "Random share of tokens that flow too in `streamed`.", limits=(0.0, 1.0, True), only_with=_STREAMED
    )
    skip_zero_advantage: bool = _key(
        False,
        "The policy update leaves out tokens whose advantage is 0: with GRPO the responses to a prompt that all solve, "
        "or none. The gradients are the same; a term for KL or entropy would need the tokens.",
        only_with=_GATHERED,
    )
    shared_prompts: bool = _key(
        False,
        "Passes and updates compute a prompt once for all its responses in a micro-batch, with the same gradients.",
        only_with=_GATHERED,
    )
    old_log_probs: str = _key(
        "pass",
        "`pass`: of a pass before the update. `update`: the update's own, which are the same where a batch gets one "
        "optimizer step; the pass is left out, and with it the metrics of entropy and of the gap to the rollouts.",
        *("pass", "update"),
    )
    on_error: str = _key(
        "raise",
        "`raise`, or `dense`: a step whose grouping fails trains on every token, with `group_ppo` as dense PPO, is "
        "logged and counted, and the run is no evidence for a claim about GROUP-PPO.",
        *("raise", "dense"),
    )
    close: str = _key(
        "before",
        "Where a group ends when the variance ratio passes: `before` that token, or `at` it.",
        *("before", "at"),
    )
    rule_advantage: str = _key(
        "gae",
        "The advantages that `variance_split` compares. `gae`: dense GAE; with `advantage: stock` verl's own. "
        "`residual`: r_t - V_t, as the origin.",
        *("gae", "residual"),
    )
    group_variance_threshold: float = _key(
        1.0, "Tau, the ratio above which a group is split; the start value when adaptive.", limits=_POSITIVE
    )
    group_max_size: int = _key(
        16, "Cap on the tokens of one group, and the stride of rule `stride`.", limits=(1, math.inf, True)
    )
    group_epsilon: float = _key(1e-6, "Added to r_ppo before it is multiplied by tau.", limits=_NOT_NEGATIVE)
    adaptive_threshold: bool = _key(True, "Move tau towards `target_density` once a step.")
    threshold_lr: float = _key(0.01, "Rate of tau on the log scale.", limits=_NOT_NEGATIVE, only_with=_ADAPTIVE)
    min_threshold: float = _key(0.1, "Lower bound of tau.", limits=_POSITIVE)
    max_threshold: float = _key(10.0, "Upper bound of tau.", limits=_POSITIVE)
    target_density: float = _key(
        0.125, "Endpoints over valid tokens that tau is moved towards.", limits=_SHARE, only_with=_ADAPTIVE
    )
    density: float | None = _key(
        None,
        "Chosen tokens over valid tokens, the same in every step; for `bernoulli` each token's probability.",
        limits=_SHARE,
    )
    density_source: str | None = _key(None, "Instead of a number, the `steps.jsonl` of a run to follow step by step.")
    probability_cutoff: float = _key(0.9, "Rule `low_prob` closes at tokens less probable than this.", limits=_SHARE)
    entropy_over: str = _key(
        "batch", "Of what `density` is a share for `entropy`: the `batch`, or each `response`.", *("batch", "response")
    )
    side: str = _key("top", "Which advantages `abs_advantage` takes: the largest or the smallest.", *("top", "bottom"))
    prefix_min: int = _key(1, "Shortest prefix that `prefix_cut` keeps, in tokens.", limits=(1, math.inf, True))
    gap_low: float = _key(
        0.5,
        "Rule `gap` keeps no token whose probability by the trainer is below this many times the rollout's; ",
        limits=_POSITIVE,
    )
    gap_high: float = _key(5.0, "or above this many times.", limits=_POSITIVE)

    def __post_init__(self) -> None:
        if self.rule not in tuple(known_rules()):
            _refuse_choice("rule", self.rule, known_rules(), " A rule is a file in groupppo/algorithm/rules/.")
        for name, key in KEYS.items():
            if name != "density" or self.density is not None:
                key.check(name, getattr(self, name))
        if self.min_threshold > self.max_threshold:
            raise BadInput(HOME, "min_threshold", self.min_threshold, f"keep it at most {self.max_threshold}.")
        if not self.min_threshold <= self.group_variance_threshold <= self.max_threshold:
            bounds = f"[{self.min_threshold}, {self.max_threshold}]"
            raise BadInput(HOME, "group_variance_threshold", self.group_variance_threshold, f"keep it in {bounds}.")
        if self.gap_low > self.gap_high:
            raise BadInput(HOME, "gap_low", self.gap_low, f"keep it at most {self.gap_high}.")
        self._check_live()
        self._check_density()
        self._check_axes()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stock: bool = False) -> "GroupParams":
        """Read the keys under `algorithm.group_params`.

        Args:
            config: keys and values; None for `rule` or `advantage` is as if the key was not there.
            stock: whether `algorithm.adv_estimator` names an estimator of verl's.

        Raises:
            BadInput: a key is unknown, has no effect with this rule, its value is of the wrong type or out of range, or
                a combination makes no sense.
        """
        advantage = config.get("advantage")
        if advantage is None:
            advantage = "stock" if stock else "segment_gae"
        if stock != (advantage == "stock") and advantage in KEYS["advantage"].choices:
            hint = (
                "write stock, or algorithm.adv_estimator: group_ppo."
                if stock
                else ("name verl's estimator in algorithm.adv_estimator, whose advantages are then taken.")
            )
            raise BadInput(HOME, "advantage", advantage, hint)
        for name in config:
            if name not in KEYS:
                hint = f"unknown key; {suggest(name, KEYS)}Known keys: {', '.join(KEYS)}."
                raise BadInput(HOME, str(name), config[name], hint)
        given = {str(name): value for name, value in config.items() if not (name == "rule" and value is None)}
        return cls(**given | {"advantage": advantage})

    @property
    def definition(self) -> Rule:
        return known_rules()[self.rule]

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Tokens` that rule and score read."""
        score = SCORE_NEEDS[self.score] if "score" in self.definition.uses else ()
        needs = {*self.definition.needs, *score}
        if self.rule_advantage == "residual":
            needs = needs - {"advantages"} | {"rewards", "values"}
        return frozenset(needs)

    @property
    def ends(self) -> bool:
        """Whether the last token of a response must be an endpoint, as it is for an estimator over groups."""
        return self.advantage != "stock"

    def _check_live(self) -> None:
        """Refuse a key that was changed but cannot change anything: what a user writes is never ignored."""
        for name, key in KEYS.items():
            value = getattr(self, name)
            if value == getattr(GroupParams, name):
                continue
            if name not in COMMON and name not in self.definition.uses:
                used = ", ".join(sorted(self.definition.uses)) or "none"
                hint = f"rule {self.rule} does not use it; leave it out. Of such keys it uses: {used}."
                raise BadInput(HOME, name, value, hint)
            for other, wanted in key.only_with:
                if getattr(self, other) != wanted:
                    text = str(wanted).lower()
                    raise BadInput(HOME, name, value, f"without effect; leave it out or set {other}: {text}.")

    def _check_density(self) -> None:
        if "density" not in self.definition.uses:
            return
        if (self.density is None) == (self.density_source is None):
            hint = f"rule {self.rule} needs either density, a number, or density_source, the steps.jsonl of a run."
            raise BadInput(HOME, "density", self.density, hint)
        if self.density_source is not None and not isinstance(self.density_source, str):
            raise BadInput(HOME, "density_source", self.density_source, "write the path of a steps.jsonl.")

    def _check_axes(self) -> None:
        """Refuse combinations that make no sense, with the reason."""
        if self.spread == "group" and not self.ends:
            hint = "write endpoint: advantages of verl's estimator are each token's own, and there is nothing to share."
            raise BadInput(HOME, "spread", self.spread, hint)
        if self.weights == "none":
            return
        if self.definition.inclusion is None:
            known = ", ".join(name for name, each in known_rules().items() if each.inclusion is not None)
            hint = f"rule {self.rule} has no probabilities of inclusion; write none, or one of the rules {known}."
            raise BadInput(HOME, "weights", self.weights, hint)
        if self.ends:
            hint = (
                f"write none: with advantage {self.advantage} a token's advantage depends on which others are chosen, "
                "and no weight takes that away. It is for an estimator of verl's (advantage: stock)."
            )
            raise BadInput(HOME, "weights", self.weights, hint)
        if self.loss_normalizer != "tokens":
            hint = "write tokens with weights: horvitz_thompson, whose sum stands for all valid tokens."
            raise BadInput(HOME, "loss_normalizer", self.loss_normalizer, hint)


KEYS: dict[str, Key] = {each.name: each.metadata["key"] for each in fields(GroupParams)}

# Keys that act whatever the rule; the others act only where the rule uses them.
COMMON: tuple[str, ...] = ("rule", "weights", "advantage", "spread", "loss_normalizer", "update", "on_error")
COMMON += ("old_log_probs", *(name for name, key in KEYS.items() if key.only_with[:1] in (_STREAMED, _GATHERED)))


def default_of(name: str, *, stock: bool) -> Any:
    """What a key is where nobody sets it; `stock` as of `GroupParams.from_config`."""
    return "stock" if stock and name == "advantage" else getattr(GroupParams, name)


def key_docs() -> dict[str, str]:
    """What each key does and, for a choice, what it may be."""
    choices = {name: key.choices for name, key in KEYS.items() if key.choices} | {"rule": tuple(known_rules())}
    listed = {name: f" One of: {', '.join(values)}." for name, values in choices.items()}
    return {name: key.description + listed.get(name, "") for name, key in KEYS.items()}


def _refuse_choice(name: str, value: object, known: Iterable[str], more: str = "") -> None:
    raise BadInput(HOME, name, value, f"{suggest(value, known)}write one of: {', '.join(known)}.{more}")


def next_threshold(tau: float, density: float, params: GroupParams) -> float:
    """tau after a batch of the given density: a step on the log scale towards `target_density`.

    ln tau <- clip(ln tau + threshold_lr * (d - target_density) / target_density, ln min, ln max): too many endpoints
    raise it, so that fewer groups are split. The origin names these parameters but gives no law; this one is ours.

    Args:
        tau: of the batch.
        density: endpoints over valid tokens, in (0, 1].
        params: of the run; without `adaptive_threshold` tau stays.
    """
    if not params.adaptive_threshold:
        return tau
    step = params.threshold_lr * (density - params.target_density) / params.target_density
    # Compared before the exponential, which overflows, and multiplied, so that a step of zero keeps every bit.
    if step >= math.log(params.max_threshold / tau):
        return params.max_threshold
    if step <= math.log(params.min_threshold / tau):
        return params.min_threshold
    return min(max(tau * math.exp(step), params.min_threshold), params.max_threshold)


@dataclass(frozen=True)
class DensitySchedule:
    """Chosen tokens over valid ones of each step of a finished run, in [0, 1]: what a control arm has to match.

    Attributes:
        source: the run's `steps.jsonl`.
        steps: density by step number.
    """

    source: Path
    steps: dict[int, float]

    @classmethod
    def load(cls, source: str | Path) -> "DensitySchedule":
        """Read `group/density` of every step.

        Raises:
            BadInput: the file does not exist, or a row is not JSON, has no such numbers or a density not in [0, 1].
        """
        source = Path(source)
        if not source.is_file():
            raise BadInput(source, "density_source", None, "run the arm that this density is taken from first.")
        steps: dict[int, float] = {}
        # Bytes that are no text become characters that are no JSON: an error that names their line.
        for number, line in enumerate(source.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            try:
                row = json.loads(line)
                step, density = int(row["step"]), float(row["group/density"])
                if not 0.0 <= density <= 1.0:
                    raise ValueError(f"density {density} is not from 0 to 1")
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                hint = f"write a JSON object with numbers `step` and `group/density` ({type(error).__name__}: {error})."
                raise BadInput(source, f"line {number}", line[:80], hint) from error
            steps[step] = density
        return cls(source, steps)

    def at(self, step: int) -> float:
        """Density of a step.

        Raises:
            BadInput: the run has no such step.
        """
        if step not in self.steps:
            hint = "take the density from a finished run with at least as many steps, or write a number."
            raise BadInput(self.source, f"step {step} group/density", None, hint)
        return self.steps[step]
