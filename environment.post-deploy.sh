#!/bin/bash
# The packages of environment.yml, in the environment that is active and from the repository's folder. Not a pip section
# there: Snakemake has conda install from a copy of that file, beside which there is no lock.
set -euo pipefail
bash requirements/install.sh requirements/gpu.lock
