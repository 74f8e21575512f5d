"""A made-up table of the study of faults: two arms, every point of theirs, the control first."""

import math

import pandas as pd

from groupppo.studies.fault_points import POINTS
from groupppo.studies.names import NO_FAULT

ARMS = {"group_ppo": "masked", "group_ppo_streamed": "streamed"}


def made_faults(lost: int = 0) -> pd.DataFrame:
    """The table; the last `lost` points end their run."""
    cases = [
        (arm, update, point)
        for arm, update in ARMS.items()
        for point in (NO_FAULT, *(name for name, one in POINTS.items() if update in one.updates))
    ]
    ended = set(cases[len(cases) - lost :])
    return pd.DataFrame([_row(*case, ended=case in ended) for case in cases])


def _row(arm: str, update: str, point: str, *, ended: bool) -> dict[str, object]:
    control = point == NO_FAULT
    well = not ended and not control
    return {
        "arm": arm,
        "title": f"Title of {arm}",
        "update": update,
        "point": point,
        "place": POINTS[point].title if point in POINTS else "No fault (control)",
        "finished": not ended,
        "steps": 0 if ended else 3,
        "fallbacks": int(well),
        "counted": well,
        "policy_equal": well,
        "policy_difference": math.nan if ended else 0.25 * control,
        "critic_equal": well,
        "critic_difference": math.nan if ended else 0.5 * control,
        "threshold_kept": well,
        "finite": not ended,
        "prompts_equal": not ended,
        "responses_equal": well,
        "survived": well,
        "cause": "exit code 1; InjectedError: made up" if ended else "",
    }
