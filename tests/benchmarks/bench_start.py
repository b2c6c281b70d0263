"""From the command to the first token, and the memory of all processes, with the default models.

    python -m tests.benchmarks.bench_start --runs 9

Prints the median of each; run it when the machine does nothing else.
"""

import argparse
import statistics
import time

import httpx

from tests.benchmarks.serving import child_of, launch, memory_mib, stop, wait_until_ready


def start_once(models: list[str]) -> tuple[float, float, float]:
    """(seconds to ready, seconds to the first token, MiB of memory) of one server."""
    begun = time.monotonic()
    server = launch(models)
    try:
        url = f"http://127.0.0.1:{wait_until_ready(server)}"
        ready_s = time.monotonic() - begun
        with httpx.Client(base_url=url) as client:
            name = client.get("/v1/models").json()["data"][0]["id"]
            answer = client.post(
                "/v1/completions", json={"model": name, "prompt": "Once", "max_tokens": 1}
            )
            answer.raise_for_status()
        first_s = time.monotonic() - begun
        pids = (server.pid, child_of(server.pid))
        return ready_s, first_s, sum(memory_mib(pid)[1] for pid in pids)
    finally:
        stop(server)


def main() -> None:
    """Start, ask, stop, several times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--model", action="append", default=[], help="default: the shipped ones")
    options = parser.parse_args()
    models = options.model or ["minnow", "pilotfish"]
    results = [start_once(models) for _ in range(options.runs)]
    ready, first, memory = (statistics.median(column) for column in zip(*results, strict=True))
    print(f"ready {ready:.2f} s, first token {first:.2f} s, memory {memory:.0f} MiB")
    print(f"first token of all starts: {sorted(round(one[1], 2) for one in results)}")


if __name__ == "__main__":
    main()
