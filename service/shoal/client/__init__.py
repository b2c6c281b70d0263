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
from ._envelope import Result, Timings
from ._errors import (
    AuthenticationFailed,
    BadRequest,
    ClientClosed,
    Conflict,
    ConnectionFailed,
    ContextLengthExceeded,
    Error,
    InvalidSchema,
    Loading,
    ModelNotFound,
    NotFound,
    Overloaded,
    ParseFailed,
    PermissionDenied,
    RateLimited,
    ResponseInvalid,
    ServerError,
    ShuttingDown,
    StatusError,
    StreamInterrupted,
    Timeout,
    TooLarge,
    ToolRoundsExceeded,
    Unavailable,
)
from ._params import ChatParams, CompletionParams, Messages, Prompt, TokenizeParams
from ._results import (
    Cancelled,
    ChoiceScore,
    ChoiceScores,
    Done,
    Embedding,
    EmbeddingList,
    Health,
    Load,
    MetricsPage,
    Model,
    ModelList,
    Perplexity,
    Text,
    Tokens,
    Unloaded,
    UsageReport,
    UsageRow,
    Version,
)
from ._retry import Clock
from ._settings import Timeouts
from ._sync.client import Client
from ._sync.stream import Stream
from ._tools import Tool, ToolError, ToolRun, tool
from ._types import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionChoice,
    CompletionChunk,
    Ext,
    Logprobs,
    Message,
    ParsedChatCompletion,
    ParsedCompletion,
    Progress,
    TokenTrace,
    ToolCall,
    Usage,
    UsageCost,
)

__all__ = [
    "AsyncClient", "AsyncStream", "AuthenticationFailed", "BadRequest", "Cancelled",
    "ChatChoice", "ChatChunk", "ChatCompletion", "ChatParams", "ChoiceScore", "ChoiceScores",
    "Client", "ClientClosed", "Clock", "Completion", "CompletionChoice", "CompletionChunk",
    "CompletionParams", "Conflict", "ConnectionFailed", "ContextLengthExceeded", "Done",
    "Embedding", "EmbeddingList", "Error", "Ext", "Health", "InvalidSchema", "Load", "Loading",
    "Logprobs", "Message", "Messages", "MetricsPage", "Model", "ModelList", "ModelNotFound",
    "NotFound", "Overloaded", "ParseFailed", "ParsedChatCompletion", "ParsedCompletion",
    "PermissionDenied", "Perplexity", "Progress", "Prompt", "RateLimited", "ResponseInvalid",
    "Result", "ServerError", "ShuttingDown", "StatusError", "Stream", "StreamInterrupted", "Text",
    "Timeout", "Timeouts", "Timings", "TokenTrace", "TokenizeParams", "Tokens", "TooLarge", "Tool",
    "ToolCall", "ToolError", "ToolRoundsExceeded", "ToolRun", "Unavailable", "Unloaded",
    "Usage", "UsageCost", "UsageReport", "UsageRow", "Version", "tool",
]  # fmt: skip
