"""What each checkpoint scored on each held-out item, from the samples that lm-eval left beside its results.

Where results are published without samples, `evals/items.parquet` has the scores alone, a hundredth of the bytes.
"""

import io
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.records.plain_json import read_lines
from groupppo.tables.schema import Keys

ITEMS = "evals/items.parquet"
_COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("task", "model", "arm")]
    + [("seed", pa.int64()), ("metric", pa.string()), ("scores", pa.list_(pa.float32()))]
)
_HINT = "evaluate this checkpoint again."
_ABSENT, _ROUNDING = "absent", 1e-6
"""Stands for a score that a line lacks; rounding of a mean over items, added up in another order."""


@dataclass(frozen=True)
class ItemScores:
    """The samples of a results folder, read when they are asked for: of thousands of runs few are compared."""

    results: Path
    _known: dict[tuple[Keys, str], np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, run: Keys, metric: str, mean: float) -> np.ndarray:
        """Scores by item, shape (items,), in the order of the task's test split.

        Args:
            run: the run whose checkpoint was evaluated.
            metric: "accuracy" or "mean@k".
            mean: the metric as the tables have it.

        Raises:
            BadInput: there are no samples of this metric, they cannot be read, an item is missing or there twice, or
                their mean is not `mean`; the file is named below the results folder.
        """
        scores = self.scores(run, metric)
        if not math.isclose(scores.mean(), mean, abs_tol=_ROUNDING):
            raise BadInput(run.below(Path("evals")), metric, round(float(scores.mean()), 6), f"the table has {mean}.")
        return scores

    def scores(self, run: Keys, metric: str) -> np.ndarray:
        """As `of`, whatever their mean is."""
        if (run, metric) not in self._known:
            # Half the bytes of a float64, and exact for 0, 1 and means of eight.
            self._known[run, metric] = self._read(run, metric).astype(np.float32)
        return self._known[run, metric].astype(float)

    def has(self, run: Keys) -> bool:
        """Whether `ITEMS` has scores of a run."""
        return any(keys == run for keys, _ in self._alone)

    def _read(self, run: Keys, metric: str) -> np.ndarray:
        folder = run.below(Path("evals"))
        for file in sorted((self.results / folder).glob("samples_*.jsonl")):
            name = folder / file.name
            rows = []
            try:
                for place, row in read_lines(file, _HINT):
                    if not isinstance(row, dict):
                        raise BadInput(file, place, row, f"write a JSON object; {_HINT}")
                    rows.append((row.get("doc_id"), row.get(metric, _ABSENT)))
            except BadInput as error:
                raise BadInput(name, error.key, error.value, error.hint) from error
            if rows and rows[0][1] != _ABSENT:
                return _by_item(name, metric, rows)
        if (run, metric) in self._alone:
            return self._alone[run, metric]
        raise BadInput(folder, "samples_*.jsonl", None, f"no scores by item; {_HINT}")

    @cached_property
    def _alone(self) -> dict[tuple[Keys, str], np.ndarray]:
        """The scores of `ITEMS`; none where there is no such file."""
        if not (self.results / ITEMS).is_file():
            return {}
        try:
            rows = pq.read_table(self.results / ITEMS).cast(_COLUMNS).to_pylist()
            scores = [np.array(row["scores"] or [], dtype=float) for row in rows]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadInput(Path(ITEMS), "file", str(error).splitlines()[0], "not a table of scores.") from error
        keys = [(Keys(*(row[key] for key in Keys._fields)), row["metric"]) for row in rows]
        return dict(zip(keys, scores, strict=True))


def items_table(results: Path, evals: pd.DataFrame) -> bytes:
    """The content of `ITEMS` for the rows of the table `evals`.

    Raises:
        BadInput: as `ItemScores.of`.
    """
    scores, rows = ItemScores(results), []
    for row in evals.itertuples():
        keys = Keys(row.task, row.model, row.arm, None if pd.isna(row.seed) else int(row.seed))
        items = scores.of(keys, row.metric, row.value)
        rows.append({**keys._asdict(), "metric": row.metric, "scores": items.astype(np.float32)})
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _COLUMNS), written, compression="zstd")
    return written.getvalue()


def _by_item(file: Path, metric: str, rows: list[tuple[object, object]]) -> np.ndarray:
    by_item: dict[int, float] = {}
    for item, score in rows:
        if not isinstance(item, int) or not isinstance(score, int | float):
            raise BadInput(file, metric, score, f"each line needs a doc_id and a number; {_HINT}")
        if item in by_item:
            raise BadInput(file, "doc_id", item, f"an item is there twice; {_HINT}")
        by_item[item] = float(score)
    items = range(len(by_item))
    if by_item.keys() != set(items):
        raise BadInput(file, "doc_id", None, f"items are missing; {_HINT}")
    return np.array([by_item[item] for item in items])
