"""Converts validated request fields to SamplingParams and StopParams, with model defaults."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import SamplingParams, StopParams
from shoal.server.api.generation.fields import GenerationFields
from shoal.text.task import check_token_ids
from shoal.text.text_model import TextModel

INLINE_CHARS = 4096
"""Shorter texts are tokenized on the event loop: cheaper than switching threads."""

_workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")
Result = TypeVar("Result")


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """Runs work on `size` characters: inline if small, else in the worker thread."""
    if size <= INLINE_CHARS:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_workers, work)


def check_prompt_chars(num_chars: int, loaded: LoadedModel, *, param: str) -> None:
    """Rejects a text that cannot fit the context, before tokenizing it. Raises InvalidRequest."""
    limit = loaded.max_model_len * 16
    if num_chars > limit:
        raise InvalidRequest(
            f"This model's maximum context length is {loaded.max_model_len} tokens. However, the "
            f"{param} has {num_chars} characters, more than the {limit} that could ever fit.",
            code="context_length_exceeded",
            param=param,
        )


def sampling_params(
    fields: GenerationFields, model: TextModel, loaded: LoadedModel
) -> SamplingParams:
    """The request's values, else the model's defaults, else neutral ones. Raises
    InvalidRequest for a token id outside the vocabulary."""
    defaults = model.defaults

    def pick(name: str, neutral: float) -> float:
        given = getattr(fields, name)
        return float(defaults.get(name, neutral) if given is None else given)

    for token_id in fields.logit_bias:
        check_token_ids([token_id], loaded, param="logit_bias")
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
        logit_bias=tuple(sorted(fields.logit_bias.items())),
    )


def _top_k(top_k: float, loaded: LoadedModel) -> int:
    """Returns 0 (off) if top_k covers the whole vocabulary."""
    return int(top_k) if 0 < top_k < loaded.vocab_size else 0


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
    return StopParams(
        max_tokens=max_tokens,
        min_tokens=fields.min_tokens,
        end_token_ids=() if fields.ignore_eos else model.end_token_ids,
        stop_token_ids=tuple(fields.stop_token_ids),
        deadline_s=min(fields.max_time or request_timeout_s, request_timeout_s),
    )
