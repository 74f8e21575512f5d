"""What each checkpoint scored on each held-out item, from the samples that lm-eval left beside its results.

Of a line only the item's number and its score are wanted. lm-eval writes them first and last, where they can be picked
without reading the prompt and the response between them; a line of another order is read as JSON.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from groupppo.errors import BadInput
from groupppo.tables.keys import Keys

_MEND = "evaluate this checkpoint again."
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
        if (run, metric) not in self._known:
            # Half the bytes of a float64, and exact for 0, 1 and means of eight.
            self._known[run, metric] = self._read(run.below(Path("evals")), metric).astype(np.float32)
        scores = self._known[run, metric].astype(float)
        if not math.isclose(scores.mean(), mean, abs_tol=_ROUNDING):
            raise BadInput(run.below(Path("evals")), metric, round(float(scores.mean()), 6), f"the table has {mean}.")
        return scores

    def _read(self, folder: Path, metric: str) -> np.ndarray:
        for file in sorted((self.results / folder).glob("samples_*.jsonl")):
            name = folder / file.name
            try:
                with file.open("rb") as lines:
                    first = next(lines, b"{}")
                    if metric in msgspec.json.decode(first):
                        return _scores(name, metric, [_row(line, metric) for line in (first, *lines)])
            except (OSError, ValueError, TypeError, AttributeError, msgspec.MsgspecError) as error:
                raise BadInput(name, "file", str(error).splitlines()[0], f"not JSON lines; {_MEND}") from error
        raise BadInput(folder, "samples_*.jsonl", None, f"no scores by item; {_MEND}")


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
