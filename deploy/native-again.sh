#!/usr/bin/env bash
# Where the native kernels could not be built, say so, and build them once another compiler is there:
#   deploy/native-again.sh .venv             before every start
#   deploy/native-again.sh --compilers       which compilers there are; kept when building fails
set -euo pipefail

compilers() {
    for name in ${CXX:-} c++ g++ clang++; do
        command -v "$name" && "$name" --version | head -n 1
    done 2> /dev/null || true
}

if [ "$1" = --compilers ]; then
    compilers
    exit
fi

missing=$1/native-missing
[ -e "$missing" ] || exit 0
if [ "$(compilers)" != "$(cat "$missing")" ]; then
    echo "shoal: there is another C++ compiler than before: building the native kernels ..."
    rm -f "$1/server.stamp" "$1/dev.stamp"
else
    echo "shoal: PyTorch computes, which is slower, because the native kernels could not be built" \
        "($1/native-build.log says why); with a C++ compiler installed the next start builds them"
fi
