"""What each checkpoint scored on each held-out item, from the samples that lm-eval left beside its results.

Where results are published without samples, `evals/items.parquet` has the scores alone, a hundredth of the bytes.

Of a line only the item's number and its score are wanted. lm-eval writes them first and last, where they can be picked
without reading the prompt and the response between them; a line of another order is read as JSON.
"""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.tables.keys import Keys

ITEMS = "evals/items.parquet"
_COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("task", "model", "arm")]
    + [("seed", pa.int64()), ("metric", pa.string()), ("scores", pa.list_(pa.float32()))]
)
_MEND = "evaluate this checkpoint again."
LONGEST_LINE, MOST_LINES = 8 << 20, 1_000_000
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading values raises that no evaluation writes, such as a number of 400 digits."""
_ROUNDING = 1e-6
"""Of a mean over items, added up in another order."""
_START = re.compile(rb'\{"doc_id": (\d{1,18}),')
_END, _TAIL = re.compile(rb'"([^"\\]+)": (\d\.\d+)\}\s*\Z'), 80


@dataclass(frozen=True)
class ItemScores:
    """The samples of a results folder, read when they are asked for: of thousands of runs few are compared.

    Args:
        results: the results folder.
    """

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
            try:
                with file.open("rb") as stream:
                    lines = _lines(stream)
                    first = next(lines, b"{}")
                    if metric in msgspec.json.decode(first):
                        return _scores(name, metric, [_row(line, metric) for line in (first, *lines)])
            except (*_WRONG, OSError, RecursionError, msgspec.MsgspecError) as error:
                raise BadInput(name, "file", str(error)[:300], f"not JSON lines; {_MEND}") from error
        if (run, metric) in self._alone:
            return self._alone[run, metric]
        raise BadInput(folder, "samples_*.jsonl", None, f"no scores by item; {_MEND}")

    @cached_property
    def _alone(self) -> dict[tuple[Keys, str], np.ndarray]:
        """The scores of `ITEMS`; none where there is no such file."""
        if not (self.results / ITEMS).is_file():
            return {}
        try:
            table = pq.read_table(self.results / ITEMS).cast(_COLUMNS)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadInput(Path(ITEMS), "file", str(error).splitlines()[0], "not a table of scores.") from error
        columns = (table.column(name).to_pylist() for name in _COLUMNS.names[:-1])
        keys = [(Keys(task, model, arm, seed), metric) for task, model, arm, seed, metric in zip(*columns, strict=True)]
        return {key: np.array(scores.values) for key, scores in zip(keys, table.column("scores"), strict=True)}


def items_table(results: Path, evals: pd.DataFrame) -> bytes:
    """The content of `ITEMS` for the rows of the table `evals`.

    Raises:
        BadInput: as `ItemScores.of`.
    """
    scores, rows = ItemScores(results), []
    for row in evals.itertuples():
        keys = Keys(row.task, row.model, row.arm, None if pd.isna(row.seed) else int(row.seed))
        rows.append((*keys, row.metric, scores.of(keys, row.metric, row.value)))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(_COLUMNS)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _COLUMNS.types, strict=True)]
    written = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=_COLUMNS), written, compression="zstd")
    return written.getvalue()


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of samples.

    Raises:
        ValueError: there are more of them, or one is longer, than any evaluation writes.
    """
    for number in count():
        line = stream.readline(LONGEST_LINE + 1)
        if len(line) > LONGEST_LINE or number > MOST_LINES:
            raise ValueError(f"more than {LONGEST_LINE:,} bytes in a line, or {MOST_LINES:,} lines")
        if not line:
            return
        yield line


def _row(line: bytes, metric: str) -> tuple[object, object]:
    """Number and score of the item. A pair before the brace that ends a line is the object's own, no text's."""
    start, end = _START.match(line), _END.search(line, max(0, len(line) - _TAIL))
    if start and end and end.group(1) == metric.encode():
        return int(start.group(1)), float(end.group(2))
    row = msgspec.json.decode(line)
    return row.get("doc_id"), row.get(metric)


def _scores(file: Path, metric: str, rows: list[tuple[object, object]]) -> np.ndarray:
    by_item: dict[int, float] = {}
    for place, score in rows:
        if not isinstance(place, int) or not isinstance(score, int | float):
            raise BadInput(file, metric, score, f"each line needs a doc_id and a number; {_MEND}")
        if place in by_item:
            raise BadInput(file, "doc_id", place, f"an item is there twice; {_MEND}")
        by_item[place] = float(score)
    if sorted(by_item) != list(range(len(by_item))):
        raise BadInput(file, "doc_id", None, f"items are missing; {_MEND}")
    return np.array([by_item[place] for place in range(len(by_item))])
