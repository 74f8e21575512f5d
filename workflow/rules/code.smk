# Each rule's parameters name the code it runs, so that a change of code marks its files stale; included after all rules.

from functools import cache

from groupppo.measure.code import code_sha256

# Modules that are started by name, by verl, Ray or a study's script.
STARTED = {
    "train": ["groupppo.verl", "groupppo.grouping", "groupppo.tasks"],
    "grouping_study": ["groupppo.study", "groupppo.grouping"],
    "streams_study": ["groupppo.study", "groupppo.grouping", "groupppo.update"],
    "faults_study": ["groupppo.study", "groupppo.verl", "groupppo.grouping"],
}
STARTED["train_on_several_nodes"] = STARTED["train"]
SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
# What comes after the runs changes no run, though a run leaves the stamp of the claims.
LATER = ["groupppo.cli", "groupppo.publish", "groupppo.report", "groupppo.verdicts"]
AFTER_THE_RUNS = ("collect", "verdicts", "figures", "report", "update_costs", "bundle")


def code_of(name, file):
    """Evaluated for the jobs that are asked for only, once for a rule: reading every module takes a second."""
    later = [] if name in AFTER_THE_RUNS or name.startswith("profile") else LATER

    @cache
    def code():
        return code_sha256(file, entries=STARTED.get(name, []), apart=later)

    return lambda wildcards: code()


# Nothing here may be called `script`: a rule finds Snakemake's function of that name among the workflow's globals.
for each in workflow.rules:
    if each.script:
        each.set_params(code=code_of(each.name, SCRIPTS / Path(each.script).name))
