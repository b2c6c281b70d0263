"""schemathesis, all phases, against the server's own OpenAPI document: no 5xx but the documented
504 of a `max_time` that passed, and every answer as documented. Installed by
`python -m tests.conformance.clients.table --only schemathesis`."""

import subprocess
from pathlib import Path

import pytest

from tests.conformance.served import ROOT, ServerProcess, serve_process, write_tiny_llama

PROGRAM = ROOT / ".cache" / "clients" / "schemathesis" / "bin" / "schemathesis"
NOT_CHECKED = (
    # What fields must be together is said in their descriptions; JSON Schema has no words for it.
    "positive_data_acceptance",
    # Fields that the schema does not know are accepted, and named in X-Ignored-Params.
    "negative_data_rejection",
    # GET / says that Shoal runs, as Ollama does, and is not documented; under /v1/responses/ every
    # name is the id of a response. 405 and Allow elsewhere: tests/http/test_hostile.py.
    "unsupported_method",
)
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]
"""
SECONDS = 120

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]


@pytest.mark.parametrize("flags", [(), ("--api-key", "secret")], ids=["open", "keys"])
def test_every_answer_is_documented_and_none_is_5xx(tmp_path: Path, flags: tuple[str, ...]) -> None:
    if not PROGRAM.exists():
        pytest.skip("schemathesis is not installed in .cache/clients")
    with serve_process(write_tiny_llama(tmp_path / "tiny"), *flags) as server:
        (tmp_path / "schemathesis.toml").write_text(CONFIG)
        done = fuzz(server, tmp_path / "schemathesis.toml", with_key=bool(flags))
    assert done.returncode == 0, done.stdout[-6000:]


def fuzz(
    server: ServerProcess, config: Path, *, with_key: bool
) -> "subprocess.CompletedProcess[str]":
    header = ["--header", "Authorization: Bearer secret"] if with_key else []
    return subprocess.run(
        [str(PROGRAM), "--config-file", str(config), "run", f"{server.url}/openapi.json",
         "--max-time", str(SECONDS), *header, "--exclude-checks", ",".join(NOT_CHECKED),
         "--exclude-path-regex", "^/admin", "--warnings", "off"],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
