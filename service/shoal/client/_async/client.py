"""The client: its settings, and every call with its signature. `_calls.py` says what is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from shoal.client import _calls as calls
from shoal.client import _routes as routes
from shoal.client._concurrency import run_many_async
from shoal.client._errors import Error
from shoal.client._openai import make_openai
from shoal.client._params import (
    CompletionParams,
    Messages,
    OnProgress,
    Prompt,
    Prompts,
    check_names,
)
from shoal.client._raw import RawCalls
from shoal.client._results import (
    Cancelled,
    ChoiceScores,
    Health,
    Load,
    MetricsPage,
    Perplexity,
    Text,
    Tokens,
    UsageReport,
    Version,
)
from shoal.client._retry import Clock
from shoal.client._settings import (
    DEFAULT_MAX_RETRIES,
    NOT_GIVEN,
    NotGiven,
    Options,
    TimeoutLike,
    resolve,
)
from shoal.client._types import Completion

from .admin import AsyncAdmin
from .driver import AsyncClientOptions, AsyncDriver, AsyncHTTPClient
from .endpoints import AsyncChat, AsyncCompletions, AsyncEmbeddings, AsyncModels

if TYPE_CHECKING:
    import httpx
    import openai
    from typing_extensions import Unpack

    from shoal.client._params import Extras, ManyParams, TokenizeParams


class AsyncClient:
    """Calls a Shoal server, or any server that speaks the same API.

    `base_url` and `api_key` default to SHOAL_BASE_URL and SHOAL_API_KEY, then OPENAI_BASE_URL and
    OPENAI_API_KEY, then http://127.0.0.1:8000 without a key. `uds` is the path of a unix socket.
    `timeout` is the total of a call in seconds, `Timeouts`, an `httpx.Timeout`, or None for no
    limit; without it the defaults of `Timeouts` apply.
    `http_client`, an httpx or httpx2 client, brings its own connections and stays yours to close.
    `clock` is for tests.

    Connections belong to the event loop that opened them. Every call may raise the errors of
    `shoal.client`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: TimeoutLike | NotGiven = NOT_GIVEN,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str | None] | None = None,
        http_client: AsyncHTTPClient | None = None,
        uds: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        options: Options = {"timeout": timeout, "max_retries": max_retries, "uds": uds}
        options |= {"default_headers": default_headers, "clock": clock}
        settings = resolve(base_url, api_key, options)
        self._use(AsyncDriver.open("AsyncClient", settings, http_client, uds))

    def _use(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self.completions = AsyncCompletions(driver)
        self.chat = AsyncChat(driver)
        self.models = AsyncModels(driver)
        self.embeddings = AsyncEmbeddings(driver)
        self.admin = AsyncAdmin(driver)
        self.with_raw_response: RawCalls[Awaitable[httpx.Response]] = RawCalls(driver.run_raw)

    def with_options(self, **options: Unpack[AsyncClientOptions]) -> AsyncClient:
        """A copy with other settings that shares the connections, which this client closes.

        Takes the constructor's arguments. A copy with its own `http_client` or `uds` has its own
        connections to close.
        """
        check_names("with_options", options, AsyncClientOptions)
        copy = object.__new__(type(self))
        copy._use(self._driver.changed(options))
        return copy

    @property
    def base_url(self) -> str:
        """The server's address, without `/v1`."""
        return self._driver.settings.base_url

    def __repr__(self) -> str:
        settings = self._driver.settings
        return (
            f"{type(self).__name__}(base_url={settings.base_url!r}, "
            f"timeout={settings.timeouts}, max_retries={settings.max_retries})"
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections this client opened; later calls raise ClientClosed. May be called
        twice."""
        await self._driver.close()

    async def tokenize(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        **params: Unpack[TokenizeParams],
    ) -> Tokens:
        """Token ids of a prompt, or of messages as the model's chat template renders them."""
        return await self._driver.run(routes.tokenize(prompt, messages=messages, **params))

    async def detokenize(
        self, tokens: Sequence[int], *, model: str | None = None, **extras: Unpack[Extras]
    ) -> Text:
        """The text of token ids, in `.prompt`."""
        return await self._driver.run(routes.detokenize(tokens, model=model, **extras))

    async def score_choices(
        self,
        prompt: str | Sequence[int],
        choices: Sequence[str] | Sequence[Sequence[int]],
        *,
        model: str | None = None,
        normalize: routes.Normalize | None = None,
        **extras: Unpack[Extras],
    ) -> ChoiceScores:
        """How likely a model finds each of several continuations; `.best` is the likeliest one's
        index. `normalize` divides by the number of tokens or bytes."""
        call = routes.score_choices(prompt, choices, model=model, normalize=normalize, **extras)
        return await self._driver.run(call)

    async def perplexity(
        self,
        input: Prompt,
        *,
        model: str | None = None,
        stride: int | None = None,
        **extras: Unpack[Extras],
    ) -> Perplexity:
        """How well a model predicts a text. `stride` is for texts longer than its context."""
        return await self._driver.run(
            routes.perplexity(input, model=model, stride=stride, **extras)
        )

    async def cancel(self, request_id: str, **extras: Unpack[Extras]) -> Cancelled:
        """Ends a running request of yours, by its `.request_id`. Raises NotFound if it is over."""
        return await self._driver.run(routes.cancel(request_id, **extras))

    async def usage(self, **extras: Unpack[Extras]) -> UsageReport:
        """What you have used, by model and day; with an admin key everyone's."""
        return await self._driver.run(routes.usage(**extras))

    async def version(self, **extras: Unpack[Extras]) -> Version:
        """Version of the server, and what computes each of its models."""
        return await self._driver.run(routes.version(**extras))

    async def load(self, **extras: Unpack[Extras]) -> Load:
        """How busy each model is."""
        return await self._driver.run(routes.load(**extras))

    async def metrics(self, **extras: Unpack[Extras]) -> MetricsPage:
        """The server's counters, in `.text` as Prometheus reads them."""
        return await self._driver.run(routes.metrics(**extras))

    async def health(self, **extras: Unpack[Extras]) -> Health:
        """What the server says about itself; `.ready` is False while it loads or drains.

        Not retried. Raises ConnectionFailed if nobody answers.
        """
        return await self._driver.run(routes.health(**extras))

    async def wait_until_ready(
        self,
        timeout: float | None = 60.0,  # noqa: ASYNC109
        *,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str | None] | None = None,
    ) -> None:
        """Returns once every start-up model is ready. Raises Timeout after `timeout` seconds (None:
        never), and other errors (a wrong key) at once."""
        call = routes.ready(timeout, extra_body=extra_body, extra_headers=extra_headers)
        await self._driver.run_raw(call)

    @overload
    async def generate_many(
        self, prompts: Prompts, *, keep_errors: Literal[False] = ..., **params: Unpack[ManyParams]
    ) -> list[Completion]: ...

    @overload
    async def generate_many(
        self, prompts: Prompts, *, keep_errors: bool, **params: Unpack[ManyParams]
    ) -> list[Completion | Error]: ...

    async def generate_many(
        self,
        prompts: Prompts,
        *,
        concurrency: int = 16,
        on_progress: OnProgress | None = None,
        keep_errors: bool = False,
        **params: Unpack[CompletionParams],
    ) -> Sequence[Completion | Error]:
        """Completes every prompt, each in a request of its own, `concurrency` at a time.

        Results are in the order of the prompts. `on_progress(done, total)` is called after each.
        The first error ends it and is raised, with what was done by then in its `completed`; with
        `keep_errors` errors are in the list instead.
        """
        check_names("generate_many", params, CompletionParams)

        async def complete(prompt: str | Sequence[int]) -> Completion:
            return await self._driver.run(calls.completion(prompt, **params))

        return await run_many_async(complete, prompts, concurrency, on_progress, keep_errors)

    def openai_client(self) -> openai.AsyncOpenAI:
        """An official OpenAI client for the same server. Raises ImportError without `openai`."""
        client: openai.AsyncOpenAI = make_openai(self._driver)
        return client
