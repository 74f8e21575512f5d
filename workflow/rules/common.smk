# Functions of wildcards that rules take their inputs from.


def density_source(wildcards):
    """The run whose density an arm has to match, step by step; nothing for an arm that has its own."""
    arm = BENCHMARK.arms[wildcards.arm].density_from
    run = RUN.format(**dict(wildcards.items()) | {"arm": arm})
    return [] if arm is None else f"{RESULTS}/runs/{run}/steps.jsonl"


def made(files):
    """All of them; with `--config partial=true` those that are there, so that runs that failed keep no report back."""
    return (
        [file for file in files if Path(file).exists()]
        if config.get("partial")
        else files
    )
