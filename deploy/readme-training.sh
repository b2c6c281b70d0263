#!/usr/bin/env bash
# Runs the commands of the README's section "Teach a model" as they stand there, in an empty folder
# that has the repository's models and docs. A block that serves goes on until the next one that
# does; the blocks between ask it. Needs port 8000. BIN: where `shoal` is, else .venv/bin.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
export PATH=${BIN:-$repo/.venv/bin}:$PATH PYTHONPATH=$repo/service SHOAL_SHUTDOWN_DELAY=0
url=http://127.0.0.1:8000
place=$(mktemp -d)
server=

stop() {
    [ -z "$server" ] || { kill -TERM -- "-$server" 2> /dev/null || true; wait "$server" || true; }
    server=
}
trap 'stop; rm -rf "$place"' EXIT

if curl --silent --output /dev/null "$url"; then
    echo "port 8000, which the README's commands use, is taken: end what serves there" >&2
    exit 1
fi
mkdir "$place/blocks" "$place/here" "$place/here/models"
awk -v place="$place/blocks" '
    /^## / { inside = ($0 == "## Teach a model") }
    inside && /^```sh$/ { block++; open = 1; next }
    /^```$/ { open = 0 }
    inside && open { print > (place "/" block ".sh") }' "$repo/README.md"
ln -s "$repo/docs" "$place/here/docs"
ln -s "$repo"/models/* "$place/here/models/"
cd "$place/here"

for block in $(ls "$place/blocks" | sort -n); do
    echo "--- README, block ${block%.sh}"
    cat "$place/blocks/$block"
    echo "---"
    if ! grep -q '^shoal serve' "$place/blocks/$block"; then
        # An adapter may be loading for a moment after its base is ready.
        for _ in $(seq 60); do
            bash -euo pipefail "$place/blocks/$block" > "$place/answer" 2> "$place/errors" \
                || { cat "$place/errors" >&2; exit 1; }
            grep -q '"model_loading"' "$place/answer" || break
            sleep 1
        done
        cat "$place/answer"
        echo
        grep -q '"content"' "$place/answer" || { echo "that is no answer" >&2; exit 1; }
        continue
    fi
    stop
    set -m
    bash -euo pipefail "$place/blocks/$block" &
    server=$!
    set +m
    until curl --silent --fail --output /dev/null "$url/readyz"; do
        kill -0 "$server" 2> /dev/null || { echo "block ${block%.sh} ended" >&2; exit 1; }
        sleep 0.2
    done
    echo "served: $(curl --silent --fail "$url/v1/models" | grep -o '"id": *"[^"]*"' | tr '\n' ' ')"
done
