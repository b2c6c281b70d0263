#!/usr/bin/env bash
# Install the wheels pinned in requirements/ into the environment of the Python given:
#   deploy/install.sh .venv/bin/python server torch build
# Hashes are checked and nothing is built, so only the pinned files can get in. The lists are
# complete, so pip has nothing to resolve. PIP_ARGS is handed to pip as it is.
# "torch" takes PyTorch's CPU build if pip finds it, else the default one; "torch-cpu" insists.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift

locks=()
for name in "$@"; do
    # shellcheck disable=SC2086  # PIP_ARGS is several words
    if [ "$name" = torch ] && "$python" -m pip install --quiet --dry-run --no-deps \
        --only-binary :all: ${PIP_ARGS:-} --requirement requirements/torch-cpu.lock 2> /dev/null
    then
        name=torch-cpu
    elif [ "$name" = torch ]; then
        echo "PyTorch's CPU build is not where pip looks: taking the default build, on Linux" \
            "several GB with CUDA. PIP_ARGS='--find-links ADDRESS' adds the page of CPU wheels."
    fi
    locks+=("--requirement=requirements/$name.lock")
done
# shellcheck disable=SC2086
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes ${PIP_ARGS:-} "${locks[@]}"
