# Each rule's parameters name the code it runs, so that a change of code marks its files stale; included after all rules.

from functools import cache

from groupppo.config import is_grouped
from groupppo.records.code import code_sha256

# Studies are found by name, and show what they measured.
SHOWN = ("verdicts", "report", "bundle")
RULE_KEY, RULES = "algorithm.group_params.rule", "groupppo.algorithm.rules"


def started(name, wildcards):
    """Those of one job: of rules and generators, which are found by being there, the one that it uses."""
    if name == "task":
        generator = BENCHMARK.tasks[wildcards.task].generator
        return [f"groupppo.tasks.generators.{generator}"]
    if name.endswith("_study"):
        study = name.removesuffix("_study")
        return [f"groupppo.studies.{study}", "groupppo.verl", "groupppo.algorithm"]
    if not name.startswith("train"):
        return ["groupppo.studies"] if name in SHOWN else []
    keys = BENCHMARK.train.verl | BENCHMARK.arms[wildcards.arm].verl
    if not is_grouped(keys):
        return ["groupppo.verl"]
    return ["groupppo.verl", f"{RULES}.{keys[RULE_KEY]}" if RULE_KEY in keys else RULES]


SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
# What comes after the runs changes no run, though a run leaves the stamp of the claims.
LATER = (
    "groupppo.cli",
    "groupppo.draw",
    "groupppo.publish",
    "groupppo.report",
    "groupppo.verdicts",
)
# How a job ends, and how a file comes to the disk, change nothing of what is in it.
AROUND = ("groupppo.records.storage", "groupppo.slurm.takeover")
AFTER_THE_RUNS = (
    "collect",
    "verdicts",
    "figures",
    "pilot",
    "report",
    "update_costs",
    "bundle",
)


@cache
def code_of_modules(file, entries, apart):
    """Reading every module takes half a second."""
    return code_sha256(file, entries=entries, apart=apart)


def code_of(name, file):
    """Evaluated for the jobs that are asked for only."""
    later = () if name in AFTER_THE_RUNS or name.startswith("profile") else LATER
    return lambda wildcards: code_of_modules(
        file, tuple(started(name, wildcards)), AROUND + later
    )


# Nothing here may be called `script`: a rule finds Snakemake's function of that name among the workflow's globals.
for each in workflow.rules:
    if each.script:
        each.set_params(code=code_of(each.name, SCRIPTS / Path(each.script).name))
