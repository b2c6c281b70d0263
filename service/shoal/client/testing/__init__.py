"""For tests of programs that use the SDK: a server in memory and a clock that you move.

    server = MockServer()
    server.overloaded(retry_after=2)
    server.completion(" blue")
    client = server.client()
    assert client.completions.create("The sky is").text == " blue"
    assert server.clock.sleeps == [2.0]
    assert server.requests[-1].json["prompt"] == "The sky is"

The real client runs, with its retries and limits; only the network and time are replaced. Replies
are sent in order, each once: whole ones and streams for every route, errors, and faults (`drop`,
`stall`, `garbage`). `MockServer(answer_anything)` has a plausible reply to everything else.
As a fixture of pytest:

    @pytest.fixture
    def server() -> MockServer:
        return MockServer()

    def test_my_program(server: MockServer) -> None:
        server.chat("Hi!")
        assert my_program(server.client()) == "Hi!"
"""

from .bodies import (
    chat_event,
    chat_json,
    completion_event,
    completion_json,
    event_bytes,
    model_json,
    tool_calls_json,
)
from .routes import answer_anything
from .server import (
    DONE,
    PING,
    Canned,
    FakeClock,
    Fault,
    MockServer,
    Part,
    Pause,
    SeenRequest,
    json_reply,
)

__all__ = [
    "DONE", "PING", "Canned", "FakeClock", "Fault", "MockServer", "Part", "Pause", "SeenRequest",
    "answer_anything", "chat_event", "chat_json", "completion_event", "completion_json",
    "event_bytes", "json_reply", "model_json", "tool_calls_json",
]  # fmt: skip
