#!/usr/bin/env bash
# Make the environment of the Python given run Shoal from this folder:
#   deploy/setup.sh .venv/bin/python machine              to serve, on this machine
#   deploy/setup.sh .venv/bin/python all torch dev        to work on it: every kernel set, and tools
# The native kernels are compiled while the packages are installed. Where they cannot be built, as
# without a C++ compiler, PyTorch is installed to compute instead.
# Each step is a line, on a terminal with the seconds it takes. What the installers say goes to
# setup.log in the environment, and is shown where a step fails; V=1 shows it at once.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
kernel_sets=$2
shift 2
venv=${python%/bin/*}
log=$venv/setup.log
build_log=$venv/native-build.log
: > "$log"
export VERBOSE=1 # for install.sh: all of it goes to the log

# Background jobs of a script ignore Ctrl-C: pass it on to everything started here.
trap 'trap - INT TERM; kill 0' INT TERM

is_live() { [ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && [ -z "${V:-}" ]; }

# step WORDS COMMAND...: runs the command under a line of these words.
step() {
    local words="shoal: $1 ..." status=0 began=$SECONDS ticker
    shift
    if is_live; then
        # \e[?7l: what is wider than the terminal is cut, or the next line would not be over it.
        while kill -0 $$ 2> /dev/null; do
            printf '\r\e[K\e[?7l%3d s  %s\e[?7h' $((SECONDS - began)) "$words"
            sleep 1
        done &
        ticker=$!
    else
        echo "$words"
    fi
    if [ -n "${V:-}" ]; then
        "$@" || status=$?
    else
        "$@" 2>> "$log" || status=$?
    fi
    if is_live; then
        kill $ticker
        wait $ticker 2> /dev/null || true
        printf '\r\e[K%s %d s\n' "$words" $((SECONDS - began))
    fi
    if [ $status != 0 ] && [ -z "${V:-}" ]; then
        cat "$log" >&2
        echo "shoal: that failed; all of the above is in $log" >&2
    fi
    return $status
}

build_native_kernels() {
    # An old library must not pass for a new one.
    rm -f service/shoal/kernels/_native*.so "$build_log"
    "$python" -m pip install --quiet --quiet --disable-pip-version-check --log "$build_log" \
        --no-deps --no-build-isolation \
        --config-settings=cmake.define.SHOAL_KERNEL_SETS="$kernel_sets" --editable .
}

build_and_install() {
    local build status=0
    build_native_kernels 2> "${build_log%.log}-first.log" &
    build=$!
    deploy/install.sh "$python" "$@" || status=$?
    # The build reads what is installed while that changes, and can trip over a package half
    # written.
    wait $build || [ $status != 0 ] || build_native_kernels || status=$?
    return $status
}

step "installing the build tools" deploy/install.sh "$python" build
packages="server $*"
# shellcheck disable=SC2086  # several words
step "building the native kernels and installing the packages of ${packages% }" \
    build_and_install $packages

missing=$venv/native-missing # for deploy/native-again.sh
rm -f "$missing"
if ! "$python" -c 'import shoal.kernels._native' 2> /dev/null; then
    deploy/native-again.sh --compilers > "$missing"
    step "the native kernels could not be built ($build_log says why): installing PyTorch to \
compute instead" deploy/install.sh "$python" torch
fi
