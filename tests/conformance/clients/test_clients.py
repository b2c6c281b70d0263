"""Every client that is installed in .cache/clients works (`python -m
tests.conformance.clients.table` installs them)."""

from collections.abc import Iterator

import pytest

from tests.conformance.clients.table import ENCODER, Client, clients, encoder_flags, run_client
from tests.conformance.served import ROOT, ServerProcess, serve_process

MODEL = ROOT / "models" / "smollm2.gguf"

pytestmark = [pytest.mark.peers, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    if not MODEL.exists():
        pytest.skip("models/smollm2.gguf is not there: shoal pull smollm2")
    logs = tmp_path_factory.mktemp("logs")
    with serve_process(MODEL, *encoder_flags(), log_folder=logs) as served:
        yield served


@pytest.mark.parametrize(
    "client", [client for client in clients() if client.script], ids=lambda client: client.name
)
def test_the_client_works(client: Client, server: ServerProcess) -> None:
    if not client.is_installed:
        pytest.skip(f"{client.name} is not installed: python -m tests.conformance.clients.table")
    encoder = ENCODER.name if ENCODER.exists() else ""
    outcomes = run_client(client, server.url, MODEL.stem, encoder)
    assert not [outcome for outcome in outcomes if not outcome.ok]
