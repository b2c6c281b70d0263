"""The asynchronous client: settings, and the calls that stand on the client itself.

Its twin is `_client.py`, with the same names and arguments. The others are in
`_async_endpoints.py`; what all of them send is in `_calls.py`, how in `_flow.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _calls as calls
from ._async_driver import make_async_driver
from ._async_endpoints import AsyncChat, AsyncCompletions, AsyncModels
from ._errors import Error
from ._flow import ready_flow
from ._http import AsyncHTTP, Warned
from ._many import OnProgress, run_many_async
from ._openai import make_async_openai
from ._params import CompletionParams, check_names
from ._raw import RawCalls
from ._retry import Clock
from ._settings import DEFAULT_MAX_RETRIES, UNSET, Timeouts, Unset, change, resolve
from ._types import Completion, Health, Text, Tokens

if TYPE_CHECKING:
    import httpx
    import openai
    from typing_extensions import Unpack

    from ._params import Extras, TokenizeParams


class AsyncClient:
    """Calls a Shoal server, or any server that speaks the same API.

    `base_url` and `api_key` default to SHOAL_BASE_URL and SHOAL_API_KEY, then OPENAI_BASE_URL and
    OPENAI_API_KEY, then http://127.0.0.1:8000 without a key. `uds` is the path of a unix socket.
    `http_client`, an httpx or httpx2 client, brings its own connections and stays yours to close.
    `clock` is for tests.

    One client belongs to one event loop. Every call may raise the errors of `shoal.client`.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | Timeouts | None = None,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str | None] | None = None,
        http_client: AsyncHTTP | None = None,
        uds: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        settings = resolve(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=default_headers,
            uds=uds,
            clock=clock,
        )
        self._driver = make_async_driver(settings, http_client, uds, Warned())

    def with_options(
        self,
        *,
        base_url: str | Unset = UNSET,
        api_key: str | Unset | None = UNSET,
        timeout: float | Timeouts | Unset | None = UNSET,
        max_retries: int | Unset = UNSET,
        default_headers: Mapping[str, str | None] | Unset | None = UNSET,
        http_client: AsyncHTTP | Unset | None = UNSET,
        uds: str | Unset | None = UNSET,
        clock: Clock | Unset | None = UNSET,
    ) -> AsyncClient:
        """A copy with other settings that shares the connections, which this client closes.

        A copy with its own `http_client` or `uds` has its own connections to close.
        """
        copy = object.__new__(type(self))
        settings = change(
            self._driver.settings,
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=default_headers,
            clock=clock,
        )
        copy._driver = self._driver.changed(settings, http_client, uds)
        return copy

    def __repr__(self) -> str:
        settings = self._driver.settings
        return (
            f"{type(self).__name__}(base_url={settings.base_url!r}, "
            f"timeout={settings.timeouts}, max_retries={settings.max_retries})"
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections this client opened; may be called twice."""
        await self._driver.close()

    @property
    def completions(self) -> AsyncCompletions:
        return AsyncCompletions(self._driver)

    @property
    def chat(self) -> AsyncChat:
        return AsyncChat(self._driver)

    @property
    def models(self) -> AsyncModels:
        return AsyncModels(self._driver)

    @property
    def with_raw_response(self) -> RawCalls[Awaitable[httpx.Response]]:
        """The same calls, but they give the HTTP library's response."""
        return RawCalls(self._driver.run_raw)

    async def tokenize(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        **params: Unpack[TokenizeParams],
    ) -> Tokens:
        """Token ids of a prompt, or of messages as the model's chat template renders them."""
        return await self._driver.run(
            calls.tokenize(prompt, messages=messages, model=model, **params)
        )

    async def detokenize(
        self, tokens: Sequence[int], *, model: str | None = None, **extras: Unpack[Extras]
    ) -> Text:
        """The text of token ids, in `.prompt`."""
        return await self._driver.run(calls.detokenize(tokens, model=model, **extras))

    async def health(self, **extras: Unpack[Extras]) -> Health:
        """What the server says of itself; `.ready` is False while it loads or drains.

        Not retried. Raises ConnectionFailed if nobody answers.
        """
        return await self._driver.run(calls.health(**extras))

    async def wait_until_ready(
        self,
        timeout: float = 60.0,  # noqa: ASYNC109  # the same name as in the other client
        *,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str | None] | None = None,
    ) -> None:
        """Returns once every start-up model is ready. Raises Timeout after `timeout` seconds,
        and other errors (a wrong key) at once."""
        call = calls.ready(extra_body=extra_body, extra_headers=extra_headers)
        await self._driver.drive(ready_flow(call, self._driver.settings, timeout))

    @overload
    async def generate_many(
        self,
        prompts: Iterable[str | Sequence[int]],
        *,
        concurrency: int = ...,
        on_progress: OnProgress | None = ...,
        keep_errors: Literal[False] = ...,
        model: str | None = ...,
        **params: Unpack[CompletionParams],
    ) -> list[Completion]: ...

    @overload
    async def generate_many(
        self,
        prompts: Iterable[str | Sequence[int]],
        *,
        concurrency: int = ...,
        on_progress: OnProgress | None = ...,
        keep_errors: bool,
        model: str | None = ...,
        **params: Unpack[CompletionParams],
    ) -> list[Completion | Error]: ...

    async def generate_many(
        self,
        prompts: Iterable[str | Sequence[int]],
        *,
        concurrency: int = 16,
        on_progress: OnProgress | None = None,
        keep_errors: bool = False,
        model: str | None = None,
        **params: Unpack[CompletionParams],
    ) -> Sequence[Completion | Error]:
        """Completes every prompt, each in a request of its own, `concurrency` at a time.

        Results are in the order of the prompts. `on_progress(done, total)` is called after each.
        The first error ends it and is raised; with `keep_errors` the errors stand in the list.
        """
        check_names("generate_many", params, CompletionParams)

        async def complete(prompt: str | Sequence[int]) -> Completion:
            return await self._driver.run(calls.completion(prompt, model=model, **params))

        return await run_many_async(
            complete,
            prompts,
            concurrency=concurrency,
            on_progress=on_progress,
            keep_errors=keep_errors,
        )

    def openai_client(self) -> openai.AsyncOpenAI:
        """An official OpenAI client for the same server. Raises ImportError without `openai`."""
        brought = self._driver.pool.http if self._driver.pool.brought else None
        return make_async_openai(self._driver.settings, uds=self._driver.pool.uds, brought=brought)
