#!/usr/bin/env bash
# From a fresh clone to the first answer: copies the files of the working tree (what git does not
# ignore) to a new folder, runs `make serve` there and asks the questions of the README. Prints when
# each part began, and the processor time up to the start of the server: on a busy machine that says
# more than the clock. Arguments go to make:
#   deploy/first-answer.sh PYTHON=python3.12
set -euo pipefail
cd "$(dirname "$0")/.."
clone=$(mktemp -d)
port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
export PIP_NO_CACHE_DIR=1 UV_CACHE_DIR=$clone/cache # everything is fetched, as on a new machine
export SHOAL_SHUTDOWN_DELAY=0
began=$EPOCHREALTIME

seconds() { awk "BEGIN { printf \"%5.1f s\", $EPOCHREALTIME - $began }"; }

stop() {
    [ -z "${server:-}" ] || { kill -TERM -- "-$server" 2> /dev/null; wait "$server" || true; }
    rm -rf "$clone"
}
trap stop EXIT

git ls-files --cached --others --exclude-standard -z | xargs -0 ls -d 2> /dev/null \
    | tar --create --files-from=- | tar --extract --directory="$clone"
echo "$(seconds)  files copied"
began=$EPOCHREALTIME

# In a process group of its own, so that all of it can be stopped.
set -m
make --no-print-directory -C "$clone" serve PORT="$port" "$@" > >(
    while IFS= read -r line; do echo "$(seconds)  $line"; done) 2>&1 &
server=$!
set +m
url=http://127.0.0.1:$port

# ask ROUTE BODY: waits for the answer. Prints nothing while the server or the model is not there.
ask() {
    until curl --silent --fail --output "$clone/answer.json" "$url$1" \
        --header 'Content-Type: application/json' --data "$2"; do
        kill -0 "$server" 2> /dev/null || { echo "$(seconds)  make serve ended"; exit 1; }
        sleep 0.05
    done
}

ask /v1/completions '{"model": "minnow", "prompt": "Once upon a time", "max_tokens": 80}'
echo "$(seconds)  first answer: $(cut -c -200 "$clone/answer.json")"
until curl --silent --fail --output /dev/null "$url/readyz"; do
    kill -0 "$server" 2> /dev/null || { echo "$(seconds)  make serve ended"; exit 1; }
    sleep 0.05
done
if [ -e "$clone/models/smollm2.gguf" ]; then
    ask /v1/chat/completions '{"model": "smollm2", "max_tokens": 60, "temperature": 0,
        "messages": [{"role": "user", "content": "What is photosynthesis?"}]}'
    echo "$(seconds)  smollm2: $(grep -o '"content": *"[^"]*"' "$clone/answer.json")"
fi
awk -v hz="$(getconf CLK_TCK)" '{ printf "%5.1f s  of processor time to install\n", ($16 + $17) / hz }' \
    "/proc/$server/stat"
du --summarize --human-readable "$clone/.venv" | awk '{ print "          .venv: " $1 }'
du --summarize --human-readable "$clone/models" | awk '{ print "          models: " $1 }'
