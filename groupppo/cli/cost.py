"""groupppo cost: what a benchmark takes, before it takes it."""

from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from groupppo.cli.terminal import benchmark_file, root, say, say_json, say_table, short

if TYPE_CHECKING:
    from groupppo.cost import Estimate


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


def add(app: typer.Typer) -> None:
    app.command("cost")(cost)


def cost(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="A benchmark's file, or its name.")],
    device: Annotated[Device | None, typer.Option(help="Where it will run; what the benchmark says.")] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Training runs under way at a time, for the peak of storage; all of them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: seconds and bytes.")] = False,
) -> None:
    """Say how many jobs, core-hours (or GPU-hours) and bytes each arm of a benchmark takes, as ranges. Runs nothing.

    Hours are those of earlier runs in results/ of the same task, model and arm; of other arms where there are none of
    this one; else of operations counted from the model's shape over a stated range of speeds. It says which. An hour is
    one of a job on the one core (or GPU) that it holds. The whole matrix is counted, runs that are there already
    included. Storage is counted from shapes: what stays; the peak also has what runs keep to be resumed from.

    \b
    Examples:
      groupppo cost quick
      groupppo cost benchmarks/arms.yaml --json
      groupppo cost quick --device cuda
      groupppo cost gsm8k --at-once 4
    """
    from groupppo.config import load_benchmark
    from groupppo.cost import estimate_cost
    from groupppo.cost.estimate import HOUR

    plan, results = load_benchmark(benchmark_file(benchmark)), short(root() / "results")
    found = estimate_cost(plan, results, device and device.value, at_once)
    if as_json:
        say_json(asdict(found))
        return
    say(f"{found.benchmark}: {found.total.jobs} jobs, {found.runs} training runs")
    rows = [
        (
            share.name,
            str(share.jobs),
            share.seconds.text(HOUR),
            share.size.bytes_text(),
            share.run.text(60, " min") if share.run.high else "",
            ", ".join(share.basis) if share is not found.total else "",
        )
        for share in (*found.arms, found.shared, found.total)
    ]
    head = ("arm", "jobs", found.hours, "storage", "a run", "from")
    say_table(head, rows, right=head[1:-1])
    say()
    for line in _notes(found):
        say(line)


def _notes(found: "Estimate") -> Iterator[str]:
    from groupppo.cost.estimate import COUNTED
    from groupppo.cost.model import SPEEDS

    if found.total.resumable.high:
        each = found.total.resumable.bytes_text()
        yield (
            f"peak of storage: {found.peak.bytes_text()} with {found.at_once} training runs under way at once "
            f"(--at-once), the largest with {each} of checkpoints to be resumed from, gone when it has finished"
        )
    for source in found.total.sources:
        yield f"from: {source}"
    if COUNTED in found.total.basis:
        speed = SPEEDS[found.device]
        update, decode = (f"{span.low / 1e9:,g} to {span.high / 1e9:,g}" for span in (speed.update, speed.decode))
        yield (
            f"counted: operations (groupppo/update/flops.py) at {update} GFLOP/s in updates and {decode} in sampling, "
            f"and overheads, all stated in groupppo/cost/model.py; your device may differ"
        )
    if found.capped:
        arms = ", ".join(found.capped)
        yield f"time limit: runs of {arms} may reach train.time_limit_s, where a run fails; hours are cut off there"
    for note in found.notes:
        yield f"note: {note}"
