"""The registry of grouping rules: one file in `groupppo/algorithm/rules/` is one rule, found by being there."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from groupppo.algorithm.scores import Score
from groupppo.algorithm.tokens import Tokens

if TYPE_CHECKING:
    from groupppo.algorithm.params import GroupParams


@dataclass(frozen=True)
class StepValues:
    """What changes from step to step: tau, and the density that a control has to match."""

    threshold: float
    density: float | None = None


Close = Callable[[Tokens, "GroupParams", StepValues], Tensor]
Evidence = Callable[[Tokens, "GroupParams"], tuple[Tensor, Score]]


@dataclass(frozen=True)
class Rule:
    """A grouping rule.

    Attributes:
        name: its name in `group_params.rule`, which is its function's.
        close: from tokens, parameters and step values to the cause of closing at every token, (B, T) int8 `Cause`.
        uses: the keys of `GroupParams` that change its groups.
        needs: the fields of `Tokens` it reads, next to those of the score where it uses one.
        evidence: advantages and scores that its variance ratio is made of; None for a rule without a ratio.
    """

    name: str
    close: Close
    uses: frozenset[str]
    needs: tuple[str, ...]
    evidence: Evidence | None

    @property
    def known_before_update(self) -> bool:
        """Whether the endpoints depend on the mask alone, so that they are known before any forward pass."""
        return set(self.needs) <= {"seeds"} and "score" not in self.uses


_RULES: dict[str, Rule] = {}


def rule(
    *, uses: tuple[str, ...] = (), needs: tuple[str, ...] = (), evidence: Evidence | None = None
) -> Callable[[Close], Close]:
    """Register a function as the rule of its name.

    Raises:
        ValueError: another module has registered a rule of that name.
    """

    def register(close: Close) -> Close:
        taken = _RULES.get(close.__name__)
        if taken is not None and taken.close.__module__ != close.__module__:
            raise ValueError(f"rule {close.__name__} of {close.__module__} is already in {taken.close.__module__}")
        _RULES[close.__name__] = Rule(close.__name__, close, frozenset(uses), needs, evidence)
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
