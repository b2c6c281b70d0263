"""The synchronous client: drives `_flow.py` with blocking I/O, and nothing more.

Its twin is `_async_client.py`, with the same names and arguments. Paths and bodies are in
`_calls.py`, arguments in `_params.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from . import _calls as calls
from ._collect import ChatCollector, ChunkT, Collector, CompletionCollector, ResultT
from ._errors import Error
from ._flow import (
    Call,
    Flow,
    Reply,
    Send,
    Wait,
    envelope_of,
    finish,
    ready_flow,
    request_flow,
    reply_headers,
    stream_reader,
    warn_ignored,
)
from ._http import (
    SyncHTTP,
    Warned,
    is_direct,
    library_of,
    limit_body_reads,
    make_sync_http,
    translated,
)
from ._many import OnProgress, run_many
from ._params import Prompt
from ._raw import RawCalls
from ._retry import Clock
from ._settings import DEFAULT_MAX_RETRIES, UNSET, Settings, Timeouts, Unset, change, resolve
from ._stream_io import OpenBody, Stream
from ._types import (
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionChunk,
    Health,
    Model,
    ModelList,
    Text,
    Tokens,
)
