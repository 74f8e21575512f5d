#!/bin/bash
# Installs a lock and this project into the environment of the `python` that comes first on the PATH:
#   bash requirements/install.sh requirements/cpu.lock        # from the repository's folder
#   bash requirements/install.sh requirements/flash_attn.lock # after gpu.lock: hours of building, needs nvcc and C++
# Nothing is taken whose SHA-256 no lock has, and nothing is fetched to build with: what comes as source is built by the
# lock's own setuptools, which is why that comes first. TORCH_INDEX is an index that serves one file, the CPU build of
# torch; TORCH_HASH=sha256:... takes a build that torch_cpu.lock does not know.
set -euo pipefail
lock=$1
beside=$(dirname "$lock")
locked="python -m pip --quiet --quiet --disable-pip-version-check install --no-deps --no-build-isolation --no-compile"

torch_for_cpu() {
    $locked --require-hashes "$@" --requirement \
        <(sed "\$ s/\$/${TORCH_HASH:+ --hash=$TORCH_HASH}/" "$beside/torch_cpu.lock")
}

if [ "$(basename "$lock")" = flash_attn.lock ]; then
    # Left to itself it takes a build from elsewhere, whose hash no lock has, and as many processes as memory may not carry.
    export FLASH_ATTENTION_FORCE_BUILD=TRUE MAX_JOBS="${MAX_JOBS:-4}" FLASH_ATTN_CUDA_ARCHS="${FLASH_ATTN_CUDA_ARCHS:-80;90;100}"
    exec $locked --require-hashes --requirement "$lock"
fi
$locked --require-hashes --requirement <(sed --quiet '/^setuptools==/,/[^\\]$/p' "$lock")
if [ "$(basename "$lock")" = cpu.lock ]; then
    if [ -n "${TORCH_INDEX:-}" ]; then
        torch_for_cpu --index-url "$TORCH_INDEX"
    else # pip may have it at hand, in a folder of wheels or an index of its own settings; else PyPI's build is taken
        torch_for_cpu 2> /dev/null || true
    fi
fi
$locked --require-hashes --requirement "$lock"
# PyPI's build of torch, which is for GPUs, cannot be imported without CUDA's libraries.
if [ "$(basename "$lock")" = cpu.lock ] && ! python -c 'import torch' 2> /dev/null; then
    $locked --require-hashes --requirement "$beside/torch_cuda.lock"
fi
$locked --editable .
