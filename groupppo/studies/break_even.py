"""From which share of a training step on streaming endpoints alone pays."""

import numpy as np
import pandas as pd

from groupppo.studies.names import ENDPOINTS


def break_even(points: pd.DataFrame) -> float:
    """The update's share of a step above which endpoints alone make the most first-order progress; NaN if never.

    Against one other way the two are equal at u = (c' - c) / (c (1/s' - 1) - c' (1/s - 1)), c and s being cosine and
    speed-up of endpoints alone, c' and s' the other's.

    Args:
        points: rows of table `stream_costs` of one checkpoint and arm.
    """
    bare, others = points[points["kind"] == ENDPOINTS].iloc[0], points[points["kind"] != ENDPOINTS]
    ahead = others["cosine"] - bare["cosine"]
    per_share = bare["cosine"] * (1.0 / others["speedup"] - 1.0) - others["cosine"] * (1.0 / bare["speedup"] - 1.0)
    # A way that is no better at any share sets no bound; one that is no worse at share 1 leaves none.
    needed = (ahead / per_share).where(per_share > 0.0, np.inf).where(ahead > 0.0, 0.0)
    beaten = others["cosine"] * others["speedup"] > bare["cosine"] * bare["speedup"]
    largest = float(needed.max())
    return float("nan") if beaten.any() or largest > 1.0 else largest
