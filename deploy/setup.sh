#!/usr/bin/env bash
# Make the environment of the Python given run Shoal from this folder:
#   deploy/setup.sh .venv/bin/python machine              to serve, on this machine
#   deploy/setup.sh .venv/bin/python all torch dev        to work on it: every kernel set, and tools
# The native kernels are compiled while the packages are installed. Where they cannot be built, as
# without a C++ compiler, PyTorch is installed to compute instead.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
kernel_sets=$2
shift 2
log=${python%/bin/*}/native-build.log

# Background jobs of a script ignore Ctrl-C: pass it on to everything started here.
trap 'trap - INT TERM; kill 0' INT TERM

build_native_kernels() {
    rm -f service/shoal/kernels/_native*.so "$log" # an old library must not pass for a new one
    "$python" -m pip install --quiet --quiet --disable-pip-version-check --log "$log" --no-deps \
        --no-build-isolation --config-settings=cmake.define.SHOAL_KERNEL_SETS="$kernel_sets" \
        --editable .
}

echo "shoal: installing the build tools ..."
deploy/install.sh "$python" build

packages="server $*"
echo "shoal: building the native kernels and installing the packages of ${packages% } ..."
build_native_kernels 2> "${log%.log}-first.log" &
build=$!
status=0
# shellcheck disable=SC2086  # several words
deploy/install.sh "$python" $packages || status=$?
# The build reads what is installed while that changes, and can trip over a package half written.
wait $build || [ $status != 0 ] || build_native_kernels || status=$?
[ $status = 0 ] || exit $status

missing=${python%/bin/*}/native-missing # for deploy/native-again.sh
rm -f "$missing"
if ! "$python" -c 'import shoal.kernels._native' 2> /dev/null; then
    deploy/native-again.sh --compilers > "$missing"
    echo "shoal: the native kernels could not be built ($log says why):" \
        "installing PyTorch to compute instead ..."
    deploy/install.sh "$python" torch
fi
