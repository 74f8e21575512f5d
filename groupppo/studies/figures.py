"""The studies' figures, in the form of the report's: SVG, PNG and CSV, with captions and alternative texts.

Each figure has two functions: `<id>_data` computes the tidy frame that is drawn (and saved as CSV beside the picture),
`<id>_figure` draws exactly that frame.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from groupppo.draw.figures import FigureRecord, Picture, write_figures
from groupppo.studies import captions, captions_streams
from groupppo.studies.figures_directions import directions_data, directions_figure
from groupppo.studies.figures_rules import (
    causes_data,
    causes_figure,
    published_data,
    published_figure,
    thresholds_data,
    thresholds_figure,
)
from groupppo.studies.figures_scores import agreement_data, agreement_figure
from groupppo.studies.figures_streams import (
    costs_data,
    costs_figure,
    parameters_data,
    parameters_figure,
    staleness_data,
    staleness_figure,
)

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class StudyPlan:
    """One figure: its name, and what makes its data, picture, caption and alternative text."""

    id: str
    title: str
    data: Callable[[Tables], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    caption: Callable[[Tables], str]
    alt: Callable[[Tables], str]


PLANS = (
    StudyPlan(
        "thresholds",
        "Density against the threshold",
        thresholds_data,
        thresholds_figure,
        captions.thresholds,
        captions.thresholds_alt,
    ),
    StudyPlan(
        "causes",
        "What closes the groups of each rule",
        causes_data,
        causes_figure,
        captions.causes,
        captions.causes_alt,
    ),
    StudyPlan(
        "published",
        "The public code's density against the log-probability gap",
        published_data,
        published_figure,
        captions.published,
        captions.published_alt,
    ),
    StudyPlan(
        "agreement",
        "Proxies against exact score vectors",
        agreement_data,
        agreement_figure,
        captions.agreement,
        captions.agreement_alt,
    ),
    StudyPlan(
        "directions",
        "Update direction against dense PPO",
        directions_data,
        directions_figure,
        captions.directions,
        captions.directions_alt,
    ),
)

STREAM_PLANS = (
    StudyPlan(
        "parameters",
        "The streamed gradient's bias by parameter group",
        parameters_data,
        parameters_figure,
        captions_streams.parameters,
        captions_streams.parameters_alt,
    ),
    StudyPlan(
        "costs",
        "What streaming costs and what it gets wrong",
        costs_data,
        costs_figure,
        captions_streams.costs,
        captions_streams.costs_alt,
    ),
    StudyPlan(
        "staleness",
        "Keys and values that grow old",
        staleness_data,
        staleness_figure,
        captions_streams.staleness,
        captions_streams.staleness_alt,
    ),
)


def write_study_figures(
    tables: Tables, out: Path, plans: Sequence[StudyPlan] = PLANS, *, keep: bool = False
) -> list[FigureRecord]:
    """Draw every figure into `out` as `<id>.svg`, `<id>.png` and `<id>.csv`, and write `figures.json`.

    Args:
        tables: the study's tables by name. out: the folder for the figures; made when missing.
        plans: the figures, in their order.
        keep: leave pictures that are there as they are.
    """
    pictures = []
    for plan in plans:
        data = plan.data(tables)
        picture = Picture(plan.id, plan.title, data, partial(plan.draw, data), plan.caption(tables), plan.alt(tables))
        pictures.append(picture)
    return write_figures(pictures, out, keep=keep)
