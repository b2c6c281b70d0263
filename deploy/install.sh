#!/usr/bin/env bash
# Install the wheels pinned in requirements/ into the environment of the Python given:
#   deploy/install.sh .venv/bin/python server torch
# Hashes are checked and nothing is built, so only the pinned files can get in. The lists are
# complete, so there is nothing to resolve. PIP_ARGS is handed to pip as it is.
# "torch" takes PyTorch's CPU build where pip finds it and there is no NVIDIA GPU, else the default
# build; "torch-cpu" insists on the CPU build. Messages for people go to standard output, those of
# the installers to standard error: errors only, or all with VERBOSE=1.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift

uv=${python%/*}/uv
pinned=(--no-deps --only-binary ":all:" --require-hashes)
[ -n "${VERBOSE:-}" ] || pinned+=(--quiet --quiet)

# Errors are shown, warnings are not: pip repeats some of them for every package.
pip_install() {
    # shellcheck disable=SC2086  # PIP_ARGS is several words
    "$python" -m pip install --disable-pip-version-check "${pinned[@]}" ${PIP_ARGS:-} \
        --requirement "requirements/$1.lock" >&2
}

# uv installs the same files in a tenth of pip's time, but does not read pip's settings: not where
# those name another index, and not for PyTorch, whose CPU build lies outside the index.
can_use_uv() {
    [[ $1 != torch* && -z ${PIP_ARGS:-} ]] || return 1
    [ -x "$uv" ] && return
    ! "$python" -m pip config list | grep -Eq '\.(index-url|no-index)=' && pip_install uv 2> /dev/null
}

install() {
    can_use_uv "$1" && "$uv" pip install --python "$python" "${pinned[@]}" \
        --requirement "requirements/$1.lock" >&2 || pip_install "$1"
}

for name in "$@"; do
    if [ "$name" = torch ] && [ ! -e /dev/nvidiactl ]; then
        install torch-cpu 2> /dev/null && continue
        [ ! -t 1 ] || printf '\r\e[K' # over the line of the step
        echo "shoal: pip does not find PyTorch's CPU build: taking the default build, on Linux" \
            "several GB with CUDA (PIP_ARGS='--find-links ADDRESS' adds the page of CPU wheels)"
    fi
    install "$name"
done
