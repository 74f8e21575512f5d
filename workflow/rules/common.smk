# Functions of wildcards that rules take their inputs from.

from groupppo.config import own_files, recorded
from groupppo.studies.shared.study import find_study


def of_cells(pattern):
    """The file of every task and model that is run."""
    return [
        pattern.format(task=plan.task, model=plan.model) for plan in BENCHMARK.plans()
    ]


def start(wildcards):
    """What a run of a task and model starts from; settings of a model share its start."""
    weights = BENCHMARK.models[wildcards.model].weights
    return rules.warmstart.output[0].format(task=wildcards.task, model=weights)


def of_runs(pattern):
    """The file of every run that the benchmark plans."""
    return [
        pattern.format(task=plan.task, model=plan.model, arm=arm, seed=seed)
        for plan in BENCHMARK.plans()
        for arm, seed in plan.runs
    ]


def of_reference(pattern):
    """The file of the run that studies of a task and model take: the reference's with their first seed."""

    def place(wildcards):
        seed = BENCHMARK.plan(wildcards.task, wildcards.model).seeds[0]
        return pattern.format(
            **dict(wildcards.items()), arm=BENCHMARK.reference, seed=seed
        )

    return place


def own_files_of(kind):
    """The user's own files that a task or a model is made of; none for most."""
    return lambda wildcards: own_files(getattr(BENCHMARK, f"{kind}s")[wildcards[kind]])


def with_own_reward(settings):
    """Parameters of a job, and the hash of its task's reward where that is the user's: a change of it makes it stale."""
    return lambda wildcards: settings | BENCHMARK.tasks[wildcards.task].reward_params


def warm_start_spec(wildcards):
    """Of a task without a warm start: None, whatever judges it."""
    task = BENCHMARK.tasks[wildcards.task]
    spec = recorded(task)["warmstart"]
    return spec and spec | task.reward_params


def density_source(wildcards):
    """The run whose density an arm has to match, step by step; nothing for an arm that has its own."""
    arm = BENCHMARK.arms[wildcards.arm].density_from
    run = RUN.format(**dict(wildcards.items()) | {"arm": arm})
    return [] if arm is None else f"{RESULTS}/runs/{run}/steps.jsonl"


def made(files):
    """All of them; with `--config partial=true` those that are there, so that runs that failed keep no report back."""
    return (
        [file for file in files if Path(file).exists()]
        if flag("partial", False)
        else files
    )


def lost_results():
    """One missing file of each job that has lost results though others of its own, or what was made from them, are there.

    Snakemake makes what a job that runs needs: with a report that is there it would call such a folder complete.
    """
    if flag("partial", False):
        return []
    runs = zip(*(of_runs(file) for file in rules.train.output))
    scored = [*rules.collect.input.evals, *rules.collect.input.starts]
    others = zip([*scored, *rules.collect.output, *rules.report.input])
    later = [*rules.collect.output, *rules.report.output]
    reported = any(Path(file).exists() for file in later)
    gone = []
    for files in (*runs, *others):
        missing = [file for file in files if not Path(file).exists()]
        if missing and (reported or len(missing) < len(files)):
            gone.append(missing[0])
    return gone


def needs(name, default):
    """A resource of the model's file, and the default on a CPU, where jobs of these rules are small."""
    return lambda wildcards: BENCHMARK.models[wildcards.model].resources.get(
        name, default
    )


def trained(name, file):
    """A file of the reference's first run, where the study of that name needs that run."""
    return lambda wildcards: (
        of_reference(file)(wildcards) if find_study(name).needs_trained else []
    )


def of_a_run(name, resource, otherwise):
    """What a training run takes, where the study of that name starts some."""
    run = needs(resource, otherwise)
    return lambda wildcards: run(wildcards) if find_study(name).trains else otherwise


def minutes(name):
    return lambda wildcards: find_study(name).minutes


# Only where runs are on GPUs: a scheduler must not be asked for none of them.
ON_GPU = {"gpu": needs("gpu", 1)} if BENCHMARK.device == "cuda" else {}
ONE_GPU = {"gpu": 1} if BENCHMARK.device == "cuda" else {}


def nodes_on_a_network(wildcards):
    """The machines of a run that has several, where nobody else can talk to its processes."""
    model = BENCHMARK.models[wildcards.model]
    nodes = model.nodes
    if nodes > 1 and IN_IMAGE:
        hint = "write 1, or leave --sdm apptainer out: an image has no srun, which starts Ray on the other nodes."
        raise WorkflowError(str(BadInput(model.source, "resources.nodes", nodes, hint)))
    try:
        site = config.get("site", "benchmarks/site.yaml")
        network_of(nodes, 1, ours=SITE.network_is_ours, site=site)
    except BadInput as error:
        raise WorkflowError(str(error)) from None
    return nodes
