#!/usr/bin/env bash
# `make audit`: look for what is unsafe in the code (bandit), the Dockerfile (hadolint) and the files of
# the continuous integration (zizmor). What is left out stands with its reason in pyproject.toml and
# .hadolint.yaml. The linters come pinned from requirements/audit.lock, into .cache/audit.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.cache/audit/bin/python
stamp=.cache/audit/stamp
if [ requirements/audit.lock -nt $stamp ]; then
    test -x $python || "${1:-python3}" -m venv .cache/audit
    deploy/install.sh $python audit
    touch $stamp
fi
PATH=$PWD/.cache/audit/bin:$PATH
bandit --quiet --recursive --configfile pyproject.toml service/shoal deploy models/recipes
hadolint Dockerfile
zizmor --offline --no-progress --quiet .
echo "bandit, hadolint, zizmor: no findings"
