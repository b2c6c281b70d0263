"""Converts validated request fields to SamplingParams and StopParams, with model defaults."""

import secrets
from collections.abc import Iterable

from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import SamplingParams, StopParams
from shoal.server.api.generation.fields import GenerationFields
from shoal.text.task import Prompt, check_token_ids, fit_max_tokens, keep_last
from shoal.text.text_model import TextModel

MAX_CHARS_PER_TOKEN = 16
"""A text with more for each token of the context is refused without a look."""


def check_prompt_chars(num_chars: int, loaded: LoadedModel, *, param: str) -> None:
    """Rejects a text that cannot fit the context, before tokenizing it. Raises InvalidRequest."""
    limit = loaded.max_model_len * MAX_CHARS_PER_TOKEN
    if num_chars > limit:
        raise InvalidRequest(
            f"This model's maximum context length is {loaded.max_model_len} tokens. However, the "
            f"{param} has {num_chars} characters, more than the {limit} that could ever fit.",
            code="context_length_exceeded",
            param=param,
        )


def check_sizes(prompts: Iterable[str | list[int]], loaded: LoadedModel, *, param: str) -> None:
    """Rejects texts and token ids that cannot fit the context. Raises InvalidRequest."""
    for prompt in prompts:
        if isinstance(prompt, str):
            check_prompt_chars(len(prompt), loaded, param=param)
        elif len(prompt) > loaded.max_model_len:
            fit_max_tokens(loaded, (Prompt(prompt),), None, param=param)


def sampling_params(
    fields: GenerationFields, model: TextModel, loaded: LoadedModel
) -> SamplingParams:
    """The request's values, else the model's defaults, else neutral ones. `with_samplers` adds
    further options."""
    defaults = model.defaults

    def pick(name: str, neutral: float) -> float:
        given = getattr(fields, name)
        return float(defaults.get(name, neutral) if given is None else given)

    return SamplingParams(
        seed=secrets.randbits(63) if fields.seed is None else fields.seed % (1 << 64),
        temperature=pick("temperature", 1.0),
        top_k=_top_k(pick("top_k", 0), loaded),
        top_p=pick("top_p", 1.0),
        min_p=pick("min_p", 0.0),
        typical_p=pick("typical_p", 1.0),
        repetition_penalty=pick("repetition_penalty", 1.0),
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
    )


def _top_k(top_k: float, loaded: LoadedModel) -> int:
    """Returns 0 (off) if top_k covers the whole vocabulary."""
    return int(top_k) if 0 < top_k < loaded.vocab_size else 0


def truncated(
    prompts: tuple[Prompt, ...], fields: GenerationFields, loaded: LoadedModel, max_tokens: int
) -> tuple[Prompt, ...]:
    """The prompts as `truncate_prompt_tokens` leaves them: their last tokens, with -1 as many as
    leave room for `max_tokens`."""
    if (num_kept := fields.truncate_prompt_tokens) is None:
        return prompts
    if num_kept < 0:
        num_kept = max(1, loaded.max_model_len - max_tokens)
    return tuple(keep_last(prompt, num_kept) for prompt in prompts)


def stop_params(
    fields: GenerationFields,
    model: TextModel,
    loaded: LoadedModel,
    max_tokens: int,
    request_timeout_s: float,
) -> StopParams:
    """When each sequence ends. Raises InvalidRequest."""
    if fields.min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens must be at most max_tokens ({max_tokens}); got {fields.min_tokens}",
            param="min_tokens",
        )
    check_token_ids(fields.stop_token_ids, loaded, param="stop_token_ids")
    loops = fields.stop_on_loop
    return StopParams(
        max_tokens=max_tokens,
        min_tokens=fields.min_tokens,
        end_token_ids=() if fields.ignore_eos else model.end_token_ids,
        stop_token_ids=tuple(fields.stop_token_ids),
        deadline_s=min(fields.max_time or request_timeout_s, request_timeout_s),
        loop_min_repeats=loops.min_repeats if loops else 0,
        loop_max_period=loops.max_period if loops else 0,
    )
