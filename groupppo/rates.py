"""Learning rates of single arms: a mask changes the scale of a gradient, so a fair comparison tunes every arm alike.

In a benchmark, `learning_rates: {group_ppo: 3.0e-5}` trains one arm at a rate of its own, and a list of rates makes an
arm for each of them: `group_ppo: [3.0e-5, 1.0e-4]` gives group_ppo_lr30u and group_ppo_lr100u, in millionths.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from groupppo.errors import BadInput

if TYPE_CHECKING:
    from groupppo.config import Arm

KEY = "actor_rollout_ref.actor.optim.lr"


def rate_name(arm: str, rate: float) -> str:
    """The name of an arm at one rate of a sweep; the rate in millionths, a point written as p."""
    return f"{arm}_lr{rate * 1e6:g}u".replace(".", "p")


def rate_title(title: str, rate: float) -> str:
    """The title of an arm at one rate of a sweep."""
    return f"{title}, rate {rate:g}"


def at_rates(arms: dict[str, "Arm"], rates: Mapping[str, float | list[float]], source: Path) -> dict[str, "Arm"]:
    """The arms of a matrix, each at its rate, and one that is swept once at each.

    Args:
        arms: by name. rates: by name of the arm. source: the benchmark's file, for messages.

    Raises:
        BadInput: a rate is for an arm that is not in the matrix or has one in its own file, or an arm takes its density
            from one that is not trained at the same rates.
    """
    for name in rates:
        if name not in arms:
            raise BadInput(source, "learning_rates", name, f"name one of the arms: {', '.join(arms)}.")
        if KEY in arms[name].verl:
            raise BadInput(arms[name].source, KEY, arms[name].verl[KEY], f"leave it out: {source} says it, too.")
    found = {}
    for arm in arms.values():
        rate = rates.get(arm.name)
        if not isinstance(rate, list):
            own = arm.verl if rate is None else arm.verl | {KEY: rate}
            found[arm.name] = replace(arm, verl=own, density_from=_density_from(arm, arm.density_from, rates, source))
            continue
        for each in rate:
            swept = replace(
                arm,
                name=rate_name(arm.name, each),
                title=rate_title(arm.title, each),
                verl=arm.verl | {KEY: each},
                density_from=_density_from(arm, arm.density_from, rates, source, each),
                swept_from=arm.name,
            )
            found[swept.name] = swept
    return found


def _density_from(
    arm: "Arm", other: str | None, rates: Mapping[str, float | list[float]], source: Path, rate: float | None = None
) -> str | None:
    """The arm that the density is taken from: where that one is swept, at the same rate."""
    of_other = rates.get(other) if other else None
    if other is None or not isinstance(of_other, list):
        return other
    if rate not in of_other:
        hint = f"write the rates of {other}, from which it takes its density: {of_other}."
        raise BadInput(source, f"learning_rates.{arm.name}", rates.get(arm.name), hint)
    return rate_name(other, rate)
