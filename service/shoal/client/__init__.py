"""The SDK: a client for Shoal and for servers that speak the same API.

    from shoal import Client

    with Client() as client:
        print(client.completions.create("The sky is", max_tokens=8).text)

`AsyncClient` has the same names and arguments. `_errors.py` shows the tree of errors, and
`shoal.client.testing` has a mock server for your tests. Needs httpx and pydantic, nothing else of
Shoal.
"""

from ._async.client import AsyncClient
from ._async.stream import AsyncStream
from ._errors import (
    AuthenticationFailed,
    BadRequest,
    Conflict,
    ConnectionFailed,
    ContextLengthExceeded,
    Error,
    InvalidSchema,
    Loading,
    ModelNotFound,
    NotFound,
    Overloaded,
    PermissionDenied,
    RateLimited,
    ResponseInvalid,
    ServerError,
    ShuttingDown,
    StatusError,
    StreamInterrupted,
    Timeout,
    TooLarge,
    Unavailable,
)
from ._params import ChatParams, CompletionParams, Prompt, TokenizeParams
from ._retry import Clock
from ._settings import Timeouts
from ._sync.client import Client
from ._sync.stream import Stream
from ._types import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionChoice,
    CompletionChunk,
    Health,
    Logprobs,
    Message,
    Model,
    ModelList,
    Result,
    Text,
    Timings,
    Tokens,
    ToolCall,
    Usage,
)

__all__ = [
    "AsyncClient", "AsyncStream", "AuthenticationFailed", "BadRequest", "ChatChoice", "ChatChunk",
    "ChatCompletion", "ChatParams", "Client", "Clock", "Completion", "CompletionChoice",
    "CompletionChunk", "CompletionParams", "Conflict", "ConnectionFailed", "ContextLengthExceeded",
    "Error", "Health", "InvalidSchema", "Loading", "Logprobs", "Message", "Model", "ModelList",
    "ModelNotFound", "NotFound", "Overloaded", "PermissionDenied", "Prompt", "RateLimited",
    "ResponseInvalid", "Result", "ServerError", "ShuttingDown", "StatusError", "Stream",
    "StreamInterrupted", "Text", "Timeout", "Timeouts", "Timings", "TokenizeParams", "Tokens",
    "TooLarge", "ToolCall", "Unavailable", "Usage",
]  # fmt: skip
