#!/usr/bin/env bash
# Run a command beside a server of the two models of the repository, on a free port; the word URL in
# the command stands for its address:  deploy/with-server.sh .venv/bin/shoal bench --base-url URL
set -euo pipefail
cd "$(dirname "$0")/.."
port=$(.venv/bin/python -c 'import socket; s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1])')
url=http://127.0.0.1:$port
log=$(mktemp)
.venv/bin/shoal serve minnow pilotfish --port "$port" --shutdown-delay 0 > "$log" 2>&1 &
server=$!
trap 'kill $server 2> /dev/null; wait $server || true; rm -f "$log"' EXIT
until .venv/bin/python -c "import urllib.request as r; r.urlopen('$url/readyz')" 2> /dev/null; do
    kill -0 $server 2> /dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.2
done
"${@/#URL/$url}"
