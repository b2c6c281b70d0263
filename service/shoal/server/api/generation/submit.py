"""The steps common to generation routes: reserve capacity, build the task, submit, respond."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from fastapi import Request

from shoal.config import Settings
from shoal.errors import NotSupportedByModel, ShoalError, Unavailable
from shoal.protocol.messages import LoadedModel
from shoal.server.admission import Reservation
from shoal.server.api.generation.fields import MAX_IGNORED_NAMES, GenerationFields
from shoal.server.api.generation.response import GenerationResponse, Renderer
from shoal.server.api.generation.serialize import RenderOptions
from shoal.server.body import beside_loop
from shoal.server.context import RequestContext, context_of
from shoal.server.services import Services, Use, memory_is_short, services_of, shutting_down
from shoal.server.tenants import cache_salt, split_tenant
from shoal.text.beam_generation import BeamGeneration
from shoal.text.embedding_generation import EmbeddingGeneration
from shoal.text.generator import Generation
from shoal.text.task import GenerationTask
from shoal.text.text_model import TextModel


class RequestFields(Protocol):
    """What a request has that starts a generation."""

    model: str | None
    max_time: float | None
    priority: int
    cache_salt: str | None
    user: str | None

    @property
    def model_fields_set(self) -> set[str]:
        """Names of those that were given."""
        ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...

    @property
    def stream(self) -> bool: ...

    def check_extra_fields(self) -> list[str]: ...

    def check_limits(self, settings: Settings) -> None: ...


Fields = TypeVar("Fields", bound=RequestFields)
MakeTask = Callable[
    [Fields, TextModel, LoadedModel, RequestContext, Settings], Awaitable[GenerationTask]
]
MakeRenderer = Callable[[Generation, RenderOptions], Renderer]


async def start_generation(
    request: Request,
    fields: Fields,
    *,
    num_sequences: int,
    make_task: "MakeTask[Fields]",
    make_renderer: MakeRenderer,
    use: Use = "text",
) -> GenerationResponse:
    """Reserves capacity, builds and submits the task. `num_sequences`: that run at once. Raises
    ShoalError if it is rejected."""
    services, context = services_of(request), context_of(request.scope)
    model = services.find_model(fields.model, context.key, use)
    context.model = model.name
    context.tenant = split_tenant(context.key, context.tenant, fields.user)
    ignored = await beside_loop(request, fields.check_extra_fields)
    if "priority" in fields.model_fields_set and fields.priority < context.key.max_priority:
        ignored = [*ignored, "priority"][:MAX_IGNORED_NAMES]
    fields.check_limits(services.settings)
    reservation = _reserve(services, context, model.base, fields, num_sequences)
    try:
        loaded = services.find_loaded(model.name)
        check_use(model, loaded, use)
        task = await make_task(fields, model, loaded, context, services.settings)
        task = _of_tenant(task, fields, context)
        reservation.add_tokens(task.num_prompt_tokens)
        generation = make_generation(services, task, num_sequences)
        options = _render_options(fields, services, loaded, model)
        renderer = make_renderer(generation, options)
        if services.draining:  # since the request came
            raise shutting_down()
        generation.submit()
    except BaseException as error:
        reservation.release()
        _count_rejection(services, model.name, error)
        raise
    return GenerationResponse(
        services,
        generation,
        reservation,
        renderer,
        stream=fields.stream,
        ignored=ignored,
    )


def check_use(model: TextModel, loaded: LoadedModel, use: Use) -> None:
    """Raises NotSupportedByModel where the model is of no such use."""
    if use == "embedding" and loaded.embedding_size is None:
        raise NotSupportedByModel(
            f"model {model.name} makes no embeddings",
            param="model",
            hint="GET /v1/models lists what each model can do",
        )
    if use == "text" and not loaded.generates:
        raise NotSupportedByModel(
            f"the model {model.name} writes no text; it makes embeddings: POST /v1/embeddings",
            param="model",
        )


def make_generation(services: Services, task: GenerationTask, num_open: int) -> Generation:
    """What runs the task; not submitted yet. `num_open`: sequences it has places for."""
    buffer_chunks = services.settings.stream_buffer_chunks
    if task.beam is not None:
        return BeamGeneration(services.client, task, task.beam, buffer_chunks=buffer_chunks)
    if task.output.embedding:
        return EmbeddingGeneration(
            services.client, task, buffer_chunks=buffer_chunks, max_open=num_open
        )
    return Generation(services.client, task, buffer_chunks=buffer_chunks)


def _reserve(
    services: Services,
    context: RequestContext,
    base: str,
    fields: RequestFields,
    num_sequences: int,
) -> Reservation:
    """Reserves capacity before any work is done; adapters share that of their base. Raises
    Unavailable or RateLimited."""
    try:
        if services.draining or services.drained:
            raise shutting_down()
        if services.memory_is_short:
            raise memory_is_short()
        wait_s = services.admission.expected_wait_s(base, context.tenant, context.key)
        if fields.max_time is not None and wait_s > fields.max_time:
            raise Unavailable(
                f"the request could not start within max_time ({fields.max_time} s)",
                retry_after_s=wait_s,
            )
        return services.admission.reserve(base, context.tenant, num_sequences, context.key)
    except ShoalError as error:
        _count_rejection(services, context.model, error)
        raise


def _of_tenant(
    task: GenerationTask, fields: RequestFields, context: RequestContext
) -> GenerationTask:
    """The task as its tenant's key allows it."""
    return replace(
        task,
        tenant=context.tenant,
        weight=context.key.weight,
        priority=max(fields.priority, context.key.max_priority),
        cache_salt=cache_salt(context.tenant, fields.cache_salt),
    )


def _count_rejection(services: Services, model: str, error: BaseException) -> None:
    if isinstance(error, ShoalError) and error.status in (429, 503):
        services.metrics.rejected.labels(model, str(error.code)).inc()


def _render_options(
    fields: RequestFields, services: Services, loaded: LoadedModel, model: TextModel
) -> RenderOptions:
    if not isinstance(fields, GenerationFields):
        return RenderOptions(services.fingerprint(loaded, model.adapter_hash))
    stream_options = fields.stream_options
    return RenderOptions(
        fingerprint=services.fingerprint(loaded, model.adapter_hash),
        include_usage=stream_options is not None and stream_options.include_usage,
        continuous_usage=stream_options is not None and stream_options.continuous_usage_stats,
        return_token_ids=fields.return_token_ids,
        tokens_as_ids=fields.return_tokens_as_token_ids,
        include=(*fields.include, *(("truncated",) if fields.truncate_prompt_tokens else ())),
        price=services.price,
    )
