# GROUP-PPO bench: from a matrix of models, tasks, arms and seeds to a report with verdicts.
#
#   snakemake                                            the default benchmark, on this machine
#   snakemake --config benchmark=benchmarks/mine.yaml    another one
#   snakemake --profile slurm                            on a cluster: docs/slurm.md
#   snakemake -n                                         the plan
#   snakemake studies                                    the studies that the benchmark asks for, and what they need
#   snakemake bundle                                     results/<name>/bundle.zip, to publish or to archive
#   snakemake profile                                    what an update costs at real model shapes, with its bounds

import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from groupppo.config.allowed import VARIABLE as ALLOWED
from groupppo.config import load_benchmark
from groupppo.cost import cost_line
from groupppo.run.environment import for_job
from groupppo.errors import BadInput
from groupppo.slurm.site import load_site
from groupppo.verl.network import network_of
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version
from snakemake_interface_executor_plugins.settings import DeploymentMethod


report: "workflow/report/overview.rst"


min_version("9.27.1")

# Snakemake starts scripts by this path without quotes (snakemake/script/__init__.py, `py_exec`).
if re.search(r"[^\w/.+@%=,~-]", sys.executable):
    hint = (
        "move the environment to a path of letters, digits and . _ + @ % = , ~ - alone."
    )
    raise WorkflowError(
        str(BadInput("environment", "its Python", sys.executable, hint))
    )

# Jobs inherit it.
for name in os.environ.keys() - for_job(os.environ).keys():
    del os.environ[name]

SEARCHED = "PYTHONPATH"

# An image has this package as it was when the image was made: jobs, and processes that they start, take this folder's.
IN_IMAGE = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
if IN_IMAGE:
    places = (os.getcwd(), os.environ.get(SEARCHED))
    os.environ[SEARCHED] = os.pathsep.join(filter(None, places))

# Every job reads this file with the same --config, on other machines, too.
if "allow" in config:
    keys = config["allow"]
    os.environ[ALLOWED] = keys if isinstance(keys, str) else ",".join(map(str, keys))

NAMED = str(config.get("benchmark", "benchmarks/quick.yaml"))

try:
    BENCHMARK = load_benchmark(NAMED)
    SITE = load_site(config.get("site"))
except BadInput as error:
    # What loads a matrix stops at its first fault.
    asked = [sys.executable, "-m", "groupppo.cli", "validate", NAMED]
    done = subprocess.run(asked, capture_output=True, text=True)
    raise WorkflowError(
        done.stderr.strip() if done.returncode else str(error)
    ) from None


# With --sdm apptainer, and where the user's site names an image.
container: SITE.container


RESULTS = f"results/{BENCHMARK.name}"
RUN = "{task}/{model}/{arm}/seed{seed}"

# No hook runs in a dry run.
if workflow.output_settings.dryrun:
    logger.info(cost_line(BENCHMARK, Path("results")))


wildcard_constraints:
    task="|".join(BENCHMARK.tasks),
    model="|".join(
        name
        for model in BENCHMARK.models.values()
        for name in {model.name, model.weights}
    ),
    arm="|".join(BENCHMARK.arms),
    seed=r"\d+",


include: "workflow/rules/check.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/assets.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/profile.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/publish.smk"


localrules:
    all,
    resolve,
    studies,


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",
        f"{RESULTS}/benchmark.yaml",
        lost_results(),


include: "workflow/rules/code.smk"
include: "workflow/rules/site.smk"
include: "workflow/rules/keep.smk"
