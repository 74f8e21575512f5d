"""Words under and behind the figures of the streamed update: how to read each, and what its data show."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from groupppo.draw.wording import number, percentage, plural, ratio
from groupppo.studies.break_even import break_even
from groupppo.studies.figures_streams import KIND_LABELS
from groupppo.studies.names import ENDPOINTS, RECOMPUTE, REUSE, SHARE, WINDOW

Tables = Mapping[str, pd.DataFrame]

_CASE = ["arm", "title", "checkpoint"]


def way_label(kind: str, size: float) -> str:
    """Such as "window of 4" or "share of 25 %"."""
    return {WINDOW: f"window of {size:g}", SHARE: f"share of {percentage(size)}"}.get(kind, KIND_LABELS.get(kind, kind))


def parameters(tables: Tables) -> str:
    return (
        "The streamed gradient of a batch against the exact one when endpoints alone flow: cosine (left) and ratio of "
        f"norms (right), means over {_batches(tables['stream_groups'])} with 90 % t intervals. What flows through "
        "other tokens' keys and values is missing, so that the projections of keys and values are hit first. "
        f"{_parameters_shown(tables)}"
    )


def parameters_alt(tables: Tables) -> str:
    return f"Two point charts of cosine and norm ratio by parameter group. {_parameters_shown(tables)}"


def costs(tables: Tables) -> str:
    return (
        "Cosine of the streamed gradient with the exact one, against operations of a dense update over the streamed "
        "one's with keys and values at hand, counted for this model's shape. Numbers at points are tokens of the "
        "window before each endpoint, and the random share. Means over "
        f"{_batches(tables['stream_costs'])}, 90 % t intervals. The exact gathered update is a point like the others: "
        f"what lies left of it buys nothing. {_costs_shown(tables)} {_best_shown(tables)}"
    )


def costs_alt(tables: Tables) -> str:
    return f"Point charts of cosine against speed-up. {_costs_shown(tables)}"


def staleness(tables: Tables) -> str:
    return (
        "Left: cosine of the streamed gradient at endpoints alone with the exact one, after optimizer steps on the "
        "same batch, with keys and values kept from before the steps (solid) and made again (dotted). Right: mean "
        "error of the streamed log-probabilities with kept keys and values, beside how far the exact ones have moved. "
        f"Means over {_batches(tables['stream_staleness'])} with 90 % t intervals; both differences are zero before "
        f"the first step. {_staleness_shown(tables)}"
    )


def staleness_alt(tables: Tables) -> str:
    return f"Two line charts against optimizer steps. {_staleness_shown(tables)}"


def best_ways(progress: pd.DataFrame) -> Iterator[tuple[float, list[str]]]:
    """For each share of the update in a step: the ways that are best at any checkpoint and arm."""
    for share, own in progress[progress["best"]].groupby("update_share", sort=False):
        labels = (way_label(kind, size) for kind, size in zip(own["kind"], own["size"], strict=True))
        yield float(str(share)), list(dict.fromkeys(labels))


def _parameters_shown(tables: Tables) -> str:
    told = []
    for (_, title, checkpoint), own in tables["stream_groups"].groupby(_CASE, sort=False):
        cosines = own.set_index("group")["cosine"]
        parts = cosines.drop("all")
        told.append(
            f"{title}, {checkpoint}: {number(cosines['all'])} over all parameters, from {number(parts.min())} "
            f"({parts.idxmin()}) to {number(parts.max())} ({parts.idxmax()})"
        )
    return f"Cosines: {'; '.join(told)}."


def _costs_shown(tables: Tables) -> str:
    told = []
    for (_, title, checkpoint), own in tables["stream_costs"].groupby(_CASE, sort=False):
        bare, close = own[own["kind"] == ENDPOINTS].iloc[0], own[own["kind"].isin((WINDOW, SHARE))]
        near = close.loc[close["cosine"].idxmax()]
        told.append(
            f"{title}, {checkpoint} (density {percentage(bare['density'])}): endpoints alone "
            f"{ratio(bare['speedup'])} at cosine {number(bare['cosine'])}, {way_label(near['kind'], near['size'])} "
            f"{ratio(near['speedup'])} at {number(near['cosine'])}"
        )
    return f"{'; '.join(told)}."


def _best_shown(tables: Tables) -> str:
    """Which point is the best, counted by the update alone and by whole steps."""
    progress, points = tables["stream_progress"], tables["stream_costs"]
    alone = next((ways for share, ways in best_ways(progress) if share == 1.0), [])
    edges = [break_even(own) for _, own in points.groupby(["arm", "checkpoint"], sort=False)]
    found = f"Cosine x speed-up of the update is largest for {', '.join(alone)}."
    if np.isnan(edges).any():
        return found
    span = " to ".join(dict.fromkeys(percentage(edge) for edge in (min(edges), max(edges))))
    return f"{found} By whole steps endpoints alone lead only where the update takes more than {span} of a dense step."


def _staleness_shown(tables: Tables) -> str:
    rows, told = tables["stream_staleness"], []
    for (_, title), own in rows.groupby(["arm", "title"], sort=False):
        kept, fresh = (own[own["kv"] == kv].set_index("steps") for kv in (REUSE, RECOMPUTE))
        last, first = kept.index.max(), kept.index[kept.index > 0].min()
        once, often = (plural(int(count), "step") for count in (first, last))
        told.append(
            f"{title}: cosine {number(kept.loc[0, 'cosine'])} at first, {number(kept.loc[first, 'cosine'])} after "
            f"{once} and {number(kept.loc[last, 'cosine'])} after {often} (fresh keys and values: "
            f"{number(fresh.loc[last, 'cosine'])}); after {once} the error is "
            f"{percentage(kept.loc[first, 'log_prob_error'] / kept.loc[first, 'moved'])} of the policy's own move"
        )
    return f"{'; '.join(told)}."


def _batches(rows: pd.DataFrame) -> str:
    return f"{int(rows['batches'].iloc[0])} batches"
