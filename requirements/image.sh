#!/bin/bash
# What Dockerfile and apptainer.def run inside of the image, in a copy of the repository: Python and compilers, gpu.lock,
# flash-attn. The C compiler stays in the image: Triton builds with it while it trains.
set -euo pipefail
environment=${1:-/usr/local/environment}
dnf install --assumeyes --setopt=install_weak_deps=False python3.11-devel gcc-c++
dnf clean all
python3.11 -m venv "$environment"
export PATH="$environment/bin:$PATH" PIP_NO_CACHE_DIR=1
bash requirements/install.sh requirements/gpu.lock
bash requirements/install.sh requirements/flash_attn.lock
