"""The study of the streamed update as the page shows it: its figures, its points and what each of them is worth."""

from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark, CellPlan
from groupppo.draw.wording import number, percentage, ratio
from groupppo.report.sections.study import Study, TextCell, TextTable, spread, studies_of
from groupppo.studies.captions_streams import way_label
from groupppo.studies.stream_tables import STREAM_COLUMNS
from groupppo.studies.tables import read_table

_WAY = ["kind", "size"]


def stream_studies(results: Path, benchmark: Benchmark) -> list[Study]:
    """As `studies_of`."""
    return studies_of("streams", results, benchmark, _scope, _tables, STREAM_COLUMNS)


def _tables(folder: Path) -> dict[str, TextTable]:
    return {
        "Cost and bias of each way to stream": _costs(read_table(folder, "stream_costs")),
        "First-order progress": _progress(read_table(folder, "stream_progress")),
    }


def _scope(record: dict[str, Any], benchmark: Benchmark, plan: CellPlan) -> str:
    checkpoints = [
        f"{name}: {counts['responses']:,} responses ({counts['tokens']:,} tokens), mean reward "
        f"{number(counts['mean_reward'])}"
        for name, counts in dict(record["counts"]).items()
    ]
    if not checkpoints:
        raise KeyError("counts")
    reference = benchmark.arms[benchmark.reference].title
    return (
        f"Rollouts of {reference}, seed {plan.seeds[0]}, in {record['settings']['batches']} batches for each "
        f"checkpoint. {'; '.join(checkpoints)}. Values are those of the trained critic throughout."
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
