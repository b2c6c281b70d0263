"""Every real client that is installed does what it does with its own server."""

import pytest

from tests.conformance.clients.run import package_of, run_script, script_names, version_of
from tests.conformance.served import ServerProcess

pytestmark = pytest.mark.peers


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", script_names())
def test_a_client_works(server: ServerProcess, name: str) -> None:
    if version_of(package_of(name)) is None:
        pytest.skip(
            f"{package_of(name)} is not installed; run "
            "`python -m tests.conformance.clients.environment`"
        )
    errors = [each for each in run_script(name, server.url, "tiny") if each.error]
    assert not errors, "\n".join(f"{each.feature}: {each.error}" for each in errors)
