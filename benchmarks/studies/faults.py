"""Whether training goes on as dense PPO after any exception, as the origin claims: one fault at a time, in real runs.

    python benchmarks/studies/faults.py --benchmark benchmarks/updates.yaml --model tiny \\
        --task results/updates/assets/tasks/sorting --start results/updates/assets/starts/sorting/tiny \\
        --out results/updates/studies/faults/sorting.tiny

GROUP-PPO with `on_error: dense`, with a masked, a gathered and a streamed update, is trained for three steps once for
each point at which a fault can be raised, and once without any. The fault is raised once, in the first step. There
every arm begins from the state that dense PPO begins from, so parameters and optimizer state at the end of the step
must be dense PPO's to the bit. The two steps after it show what the fault left behind: the prompts and their order,
responses drawn with the policy of that step, the threshold. Faults enter by a module that verl loads
(groupppo/studies/fault_points.py); the code under test has no hook for them.

(groupppo/studies/fault_points.py); the code under test has no hook for them.
One run at a time, each about half a minute. The folder gets faults.csv (columns: groupppo/studies/fault_table.py) and
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from groupppo.config import Arm, Benchmark, load_arm, load_benchmark
from groupppo.errors import BadInput, GroupPPOError
from groupppo.studies.fault_options import FaultOptions, parse_faults
from groupppo.studies.faults import fault_row, fault_table, points_of, trace, with_fallback
from groupppo.studies.names import NO_FAULT
from groupppo.studies.record import Clock, peak_bytes, write_record
from groupppo.studies.tables import write_table
from groupppo.verl.compose import Cell

ARMS = ("group_ppo", "group_ppo_gathered", "group_ppo_streamed")


def main(arguments: Sequence[str]) -> None:
    """Run the study with the command line's arguments.

    Raises:
        BadInput: a folder is missing or is not what it should be, or the benchmark lacks task or model or has another
            reference than dense PPO.
        RunFailed: a run without a fault failed, or a fault was not raised.
    """
    options = parse_faults(arguments, (__doc__ or "").splitlines()[0])
    clock = Clock()
    options.out.mkdir(parents=True, exist_ok=True)
    benchmark = load_benchmark(options.benchmark)
    arms = [with_fallback(load_arm(options.arms / f"{name}.yaml")) for name in ARMS]
    rows = []
    with tempfile.TemporaryDirectory(prefix="gppo-faults-") as folder:
        with clock.stage("dense PPO"):
            dense = trace(cell(options, benchmark, dense_arm(benchmark), Path(folder) / "dense"), NO_FAULT)
        for arm in arms:
            control = None
            for point in points_of(arm):
                out = Path(folder) / arm.name / point
                with clock.stage(f"{arm.name}, {point}"):
                    found = trace(cell(options, benchmark, arm, out), point)
                control = control or found  # the first has no fault
                rows.append(fault_row(arm, point, found, control, dense, options.steps))
                print({name: value for name, value in rows[-1].items() if name not in ("title", "place")}, flush=True)
    write_table(options.out, "faults", fault_table(rows))
    write_record(options, Path(__file__), arguments, {"seed": options.seed}, clock)
    print(f"{options.out}: {sum(clock.seconds.values()):.0f} s, peak {peak_bytes() / 1e9:.2f} GB")


def dense_arm(benchmark: Benchmark) -> Arm:
    """The reference.

    Raises:
        BadInput: it is not dense PPO, with which the runs are compared.
    """
    arm = benchmark.arms[benchmark.reference]
    if arm.verl.get("algorithm.adv_estimator") != "gae":
        hint = "name the arm of dense PPO: the study faults compares with it."
        raise BadInput(benchmark.source, "reference", benchmark.reference, hint)
    return arm


def cell(options: FaultOptions, benchmark: Benchmark, arm: Arm, out: Path) -> Cell:
    """A run of the benchmark's own task, model, device and settings, but for the number of steps.

    Raises:
        BadInput: the benchmark has no such task or model, or the model takes several GPUs.
    """
    settings = replace(benchmark.train, steps=options.steps, save_critic=False)
    model = options.named(benchmark.models, "model", options.model)
    if model.resources.get("gpu", 1) > 1:
        hint = "study another model: parameters of one rank are compared."
        raise BadInput(model.source, "resources.gpu", model.resources["gpu"], hint)
    return Cell(
        task=options.named(benchmark.tasks, "task", options.task.name),
        model=model,
        arm=arm,
        seed=options.seed,
        train=settings,
        task_folder=options.task.resolve(),
        start=options.start.resolve(),
        out=out,
        device=benchmark.device,
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GroupPPOError as error:
        sys.exit(str(error))
