"""The tables of the studies: CSV files, one row = one fact, columns as described in `COLUMNS` and, for the streamed
update and for faults, in `STREAM_COLUMNS` and `FAULT_COLUMNS`."""

import io
from pathlib import Path

import pandas as pd

from groupppo.errors import BadInput
from groupppo.records.plain_json import read_bytes
from groupppo.studies.fault_table import FAULT_COLUMNS
from groupppo.studies.stream_tables import STREAM_COLUMNS

FIGURES = "figures"
LARGEST, _HEAD = 16 << 20, 2_000
"""Bytes of a table; of its head at most, and commas of a line."""
NO_RULE = "has no grouping rule"
"""Why an arm that is not about groups is left out."""
DENSE, DENSE_OTHER = "dense", "dense_other"
"""Dense PPO in the place of an arm, and on another batch than the one it is compared with: the noise floor."""

_CLOSED = {
    "criterion": "Share of groups closed by the rule's criterion.",
    "cap": "Share of groups closed by the largest group size.",
    "end": "Share of groups closed by the end of the response.",
}
_GAP = "Mean |rollout - trainer log-probability| over valid tokens, in nats."

COLUMNS: dict[str, dict[str, str]] = {
    "density": {
        "rollout": "Precision of the sampling policy, `float32` or `bfloat16`; the trainer is float32 throughout.",
        "rule": "Grouping rule.",
        "score": "Proxy of the score vectors; empty for a rule without one.",
        "threshold": "tau; empty for a rule without one.",
        "default": "Whether the row is the rule with its default parameters.",
        "density": "Endpoints / valid tokens.",
        **_CLOSED,
        "size_p50": "Median group size, in tokens.",
        "r_ratio_p50": "Median over groups of r_grpo / r_ppo at the endpoint; empty for a rule without a ratio.",
        "tokens": "Valid tokens grouped.",
    },
    "published": {
        "rollout": "Precision of the sampling policy whose gaps were used.",
        "factor": "What the real gaps were multiplied by; 1 is the real gap.",
        "mean_gap": _GAP,
        "density": "Endpoints / valid tokens of rule `published`.",
        "criterion": _CLOSED["criterion"],
        "tokens": "Valid tokens grouped.",
    },
    "agreement": {
        "proxy": "What stands for the score vectors, or a control that does without them.",
        "cap": "Largest group size; empty where there is none.",
        "epsilon": "What was added to r_ppo, in the exact rule and in the proxy's.",
        "precision": "Share of the proxy's endpoints that are the exact rule's.",
        "recall": "Share of the exact rule's endpoints that are the proxy's.",
        "f1": "Harmonic mean of the two.",
        "f1_low": "Lower end of its 90 % jackknife interval over responses.",
        "f1_high": "Upper end.",
        "f1_inner": "F1 without the last token of each response, which every rule makes an endpoint.",
        "density": "Endpoints / valid tokens of the proxy's rule.",
        "exact_density": "The same of the exact rule.",
        "draws": "Draws that the row is the mean of; 1 for a rule that draws nothing.",
        "responses": "Responses.",
        "tokens": "Their valid tokens.",
    },
    "scores": {
        "proxy": "Proxy of a token's squared score norm.",
        "spearman": "Rank correlation with the exact squared norm over all tokens.",
        "low": "Lower end of its 90 % jackknife interval over responses.",
        "high": "Upper end.",
        "responses": "Responses.",
        "tokens": "Their valid tokens.",
    },
    "cosines": {
        "statistic": "Of the cosines between exact score vectors of two tokens of one response: `mean`, `mean_abs`, "
        "`p05`, `p95`, `mean_adjacent` (neighbouring tokens); `coherence`: squared norm of a response's summed vectors "
        "over the sum of squared norms, median over responses (1 for orthogonal vectors); `top_tenth`: part of the sum "
        "of squared norms that the tenth of all tokens with the largest norms makes up.",
        "value": "Its value.",
        "low": "Lower end of its 90 % jackknife interval over responses; empty for quantiles and medians.",
        "high": "Upper end.",
        "responses": "Responses.",
    },
    "directions": {
        "arm": "Name of the arm; `<arm>_mean` averages over draws, `dense_other` is dense PPO on another batch.",
        "batch": "Number of the batch, from 0.",
        "density": "Endpoints / valid tokens.",
        "cosine": "Between the gradients of this arm's and of dense PPO's policy loss on the batch.",
        "norm_ratio": "Norm of this arm's gradient / of dense PPO's.",
    },
    "direction_summary": {
        "arm": "As in `directions`, and `dense` for dense PPO itself.",
        "title": "Label of the arm.",
        "density": "Endpoints / valid tokens, mean over batches.",
        "cosine": "Mean over batches of the cosine with dense PPO on the same batch.",
        "cosine_low": "Lower end of its 90 % t interval over batches.",
        "cosine_high": "Upper end.",
        "norm_ratio": "Mean over batches of the ratio of norms.",
        "norm_ratio_low": "Lower end of its 90 % t interval over batches.",
        "norm_ratio_high": "Upper end.",
        "mean_cosine": "Cosine between the two gradients averaged over all batches, their shared noise included.",
        "expected_cosine": "The same for expected gradients: inner products between different batches only.",
        "expected_cosine_low": "Lower end of its 90 % jackknife interval over batches.",
        "expected_cosine_high": "Upper end.",
        "relative_variance": "Trace of the gradient's covariance over batches / squared norm of its expectation.",
        "relative_variance_low": "Lower end of its 90 % jackknife interval over batches.",
        "relative_variance_high": "Upper end.",
        "same_as": "An earlier arm whose gradients are the same up to rounding; empty where there is none.",
        "draws": "Draws averaged in each batch.",
        "batches": "Batches.",
    },
}

_ALL = COLUMNS | STREAM_COLUMNS | FAULT_COLUMNS
# Columns of words, in which an empty field is an empty word.
_NAMES = (
    "rollout",
    "rule",
    "score",
    "proxy",
    "statistic",
    "arm",
    "title",
    "same_as",
    "checkpoint",
    "kind",
    "group",
    "kv",
    "update",
    "point",
    "place",
    "cause",
)


def write_table(folder: Path, name: str, rows: pd.DataFrame) -> None:
    """Write `<name>.csv` with the columns of its description, in that order.

    Raises:
        ValueError: the rows have other columns.
    """
    if set(rows.columns) != set(_ALL[name]):
        raise ValueError(f"table {name}: columns {sorted(rows.columns)}, documented are {sorted(_ALL[name])}")
    rows[list(_ALL[name])].to_csv(folder / f"{name}.csv", index=False)


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """One table of a study's folder.

    Raises:
        BadInput: the file is missing, is not CSV or has other columns.
    """
    file = folder / f"{name}.csv"
    content = read_bytes(file, "run the study first.", LARGEST)
    # Looked at first: a line of commas is a million columns, which take pandas minutes.
    head = content[:_HEAD].partition(b"\n")[0].decode(errors="replace").rstrip("\r").split(",")
    if head != list(_ALL[name]):
        hint = f"columns are {', '.join(_ALL[name])}; run the study again."
        raise BadInput(file, "columns", head[: len(_ALL[name]) + 1], hint)
    if any(line.count(b",") > _HEAD for line in io.BytesIO(content)):
        raise BadInput(file, "rows", "longer than the head", "not a CSV table; run the study again.")
    try:
        # Exactly what was written: the faster reader may miss the last digit.
        rows = pd.read_csv(io.BytesIO(content), float_precision="round_trip")
    except (ValueError, OverflowError) as error:
        raise BadInput(file, "file", str(error)[:300], "not a CSV table; run the study again.") from error
    if list(rows.columns) != head or not isinstance(rows.index, pd.RangeIndex):
        raise BadInput(file, "rows", "longer than the head", "not a CSV table; run the study again.")
    names = [column for column in rows.columns if column in _NAMES]
    return rows.assign(**{column: rows[column].fillna("") for column in names})
