"""One server for all conformance tests."""

from collections.abc import Iterator

import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # Twelve layers: an answer of 4,000 tokens outlasts many looks at /load, even on a fast machine.
    folder = write_tiny_llama(tmp_path_factory.mktemp("conformance") / "tiny", num_layers=12)
    flags = ("--max-queue", "8", "--max-batch-size", "32", "--dtype", "float32")
    with serve_process(folder, *flags) as served:
        yield served
