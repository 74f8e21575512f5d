"""The study of the streamed update as the page shows it: its figures, its points and what each of them is worth."""

from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.report.figures import read_figures
from groupppo.report.page_data import read_object
from groupppo.report.page_runs import place
from groupppo.report.page_study import RERUN, Study, TextCell, TextTable, spread
from groupppo.report.wording import number, percentage, ratio
from groupppo.study.captions_streams import way_label
from groupppo.study.record import RECORD
from groupppo.study.stream_tables import STREAM_COLUMNS
from groupppo.study.tables import FIGURES, read_table

_WAY = ["kind", "size"]


def stream_studies(results: Path, benchmark: Benchmark) -> list[Study]:
    """One for each task and model, where the benchmark asks for them.

    Raises:
        BadInput: a study was asked for and is not there, or its files are not in their form.
    """
    if "streams" not in benchmark.studies:
        return []
    return [_study(results, benchmark, task, model) for task in benchmark.tasks for model in benchmark.models]


def _study(results: Path, benchmark: Benchmark, task: str, model: str) -> Study:
    folder = results / "studies" / "streams" / f"{task}.{model}"
    record = read_object(folder / RECORD, RERUN)
    return Study(
        place=place(benchmark, task, model),
        anchor=f"streams-{task}-{model}",
        folder=folder.relative_to(results).as_posix(),
        scope=_scope(record, folder / RECORD, benchmark),
        figures=read_figures(folder / FIGURES),
        tables={
            "Cost and bias of each way to stream": _costs(read_table(folder, "stream_costs")),
            "First-order progress": _progress(read_table(folder, "stream_progress")),
        },
        files=[f"{name}.csv" for name in STREAM_COLUMNS],
    )


def _scope(record: dict[str, Any], file: Path, benchmark: Benchmark) -> str:
    try:
        batches = record["settings"]["batches"]
        told = [
            f"{name}: {counts['responses']:,} responses ({counts['tokens']:,} tokens), mean reward "
            f"{number(counts['mean_reward'])}"
            for name, counts in dict(record["counts"]).items()
        ]
        if not told:
            raise KeyError("counts")
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(file, str(error), None, RERUN) from error
    reference = benchmark.arms[benchmark.reference].title
    return (
        f"Rollouts of {reference}, seed {benchmark.seeds[0]}, in {batches} batches for each checkpoint. "
        f"{'; '.join(told)}. Values are those of the trained critic throughout."
    )


def _costs(rows: pd.DataFrame) -> TextTable:
    last = rows[rows["checkpoint"] == rows["checkpoint"].iloc[-1]]
    titles = dict(zip(last["arm"], last["title"], strict=True))
    of_arm = {arm: own.set_index(_WAY) for arm, own in last.groupby("arm", sort=False)}
    body = []
    for way in dict.fromkeys(zip(last["kind"], last["size"], strict=True)):
        cells = [TextCell(way_label(*way))]
        for arm in titles:
            row = of_arm[arm].loc[way]
            cells.append(TextCell(ratio(row["speedup"]), "" if row["pareto"] else "off the front"))
            cells += [spread(row, "cosine"), spread(row, "expected_cosine")]
        body.append(cells)
    names = ("speed-up", "cosine", "cosine of expectations")
    caption = (
        f"At checkpoint {last['checkpoint'].iloc[0]}: operations of a dense update over this one's, cosine with the "
        "exact gradient of the same batch, and cosine of the two expected gradients, estimated between different "
        "batches only; 90 % intervals over batches. Off the front: another way is no worse in one and better in the "
        "other."
    )
    return TextTable(
        caption, ["What flows", *(f"{title}: {name}" for title in titles.values() for name in names)], body
    )


def _progress(rows: pd.DataFrame) -> TextTable:
    cases = list(dict.fromkeys(zip(rows["arm"], rows["title"], rows["checkpoint"], strict=True)))
    body = []
    for share in dict.fromkeys(rows["update_share"]):
        cells = [TextCell(percentage(share))]
        for arm, _, checkpoint in cases:
            own = rows[(rows["arm"] == arm) & (rows["checkpoint"] == checkpoint) & (rows["update_share"] == share)]
            best, exact = own[own["best"]].iloc[0], own[own["kind"] == "gathered"].iloc[0]
            beside = f"{way_label(best['kind'], best['size'])}; exact {number(exact['progress'])}"
            cells.append(TextCell(number(best["progress"]), beside))
        body.append(cells)
    caption = (
        "Which way is worth most: cosine x speed-up of a whole step, the first-order progress in the time of a dense "
        "step, with the best way and what the exact gathered update reaches. The first column is the part of a dense "
        "step's time that the policy update takes. A bias does not average out over steps, which this leaves out."
    )
    head = ["Update's share", *(f"{title}, {checkpoint}" for _, title, checkpoint in cases)]
    return TextTable(caption, head, body)
