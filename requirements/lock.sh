#!/bin/bash
# Makes the locks again, with the SHA-256 of every file that PyPI has of each version; needs uv. To change a version of
# cpu.lock or to add a package, write its line name==version there first; for gpu.lock change gpu.in. torch_cpu.lock is
# written by hand, of what PyTorch's index says.
set -euo pipefail
cd "$(dirname "$0")"

lock() { # FILE HEAD ARGUMENTS: versions that FILE has are kept where they fit, hashes are not
    sed --in-place '/^ *--hash/d; s/ *\\$//' "$1"
    uv --quiet --no-config pip compile --generate-hashes --no-annotate --no-header --output-file "$1" \
        --python-version 3.11.9 --python-platform x86_64-manylinux_2_28 "${@:3}" > /dev/null
    sed --in-place "1i # $2" "$1"
}

# Flat, for packages' bounds contradict each other: it holds what was tried, not what a resolver finds.
pins=$(grep --only-matching '^[A-Za-z0-9][^ ]*==[^ ]*' cpu.lock)
lock cpu.lock "CPU machines, Linux x86-64, Python 3.11: every package, flat. Made by lock.sh, installed by install.sh." \
    --no-deps - <<< "$pins"

torch=$(grep '^torch==' <<< "$pins")
bounds=$(grep --invert-match '^triton==' <<< "$pins") # vLLM's, which is another than torch's
lock torch_cuda.lock "CUDA's libraries, without which PyPI's build of $torch cannot be imported; beside cpu.lock." \
    --constraint <(echo "$bounds") $(sed 's/==.*//; s/^/--no-emit-package=/' <<< "$pins") - <<< "$torch"

lock gpu.lock "GPU nodes, Linux x86-64, Python 3.11. Made of gpu.in by lock.sh; looked at by make gpu-lock, never run by the authors." \
    gpu.in
