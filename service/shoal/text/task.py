"""The validated request, as `text/generator.py` and the engine need it.

`make_task` in `api/*/schema.py` builds it and rejects what cannot be served; later code does not
validate it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from shoal.errors import ContextLengthExceeded, InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.text.beam import BeamParams
from shoal.text.message import MakeParser, PlainParser
from shoal.text.reasoning import MakeCounter
from shoal.text.text_model import TextModel

_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one prompt, and its text if it was given as text."""

    token_ids: list[int]
    text: str | None = None
    num_truncated: int = 0
    """Tokens that were cut from its start, because the request asked for it."""
    logprobs_start: int = 0
    """The first of its tokens whose log-probability is reported, if any are."""


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """One HTTP request. Choice `prompt_index * n + sample_index` is one sample of one prompt."""

    request_id: str
    model: TextModel
    prompts: tuple[Prompt, ...]
    sampling: SamplingParams
    """With the seed of sample 0; the seeds of other samples are derived from it."""
    stop: StopParams
    """`max_tokens` is the same for every prompt."""
    output: OutputParams
    n: int = 1
    best_of: int = 1
    """Candidates per prompt; the n with the highest mean logprob are returned."""
    stop_strings: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    echo: bool = False
    priority: int = 0
    tenant: str = ""
    weight: float = 1.0
    cache_salt: str = ""
    use_prefix_cache: bool = True
    beam: BeamParams | None = None
    """Search the best sequences instead of sampling them."""
    make_parser: MakeParser = PlainParser
    """Of a chat: finds the parts of each choice's message."""
    shown_tokens: Mapping[int, str] = field(default_factory=dict)
    """Special tokens that the parser looks for, by id: in the text even where others are not."""
    make_counter: MakeCounter | None = None
    """Counts the tokens of reasoning of each sequence."""

    @property
    def num_sequences(self) -> int:
        return len(self.prompts) * self.best_of

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(prompt.token_ids) for prompt in self.prompts)

    def sampling_of(self, sample_index: int) -> SamplingParams:
        """Sample 0 uses the request's seed, so its result does not depend on n."""
        if sample_index == 0:
            return self.sampling
        seed = (self.sampling.seed + sample_index * 0x9E3779B97F4A7C15) & _MASK_64
        return msgspec.structs.replace(self.sampling, seed=seed)

    def output_of(self, prompt_index: int) -> OutputParams:
        """What the sequences of this prompt report."""
        start = self.prompts[prompt_index].logprobs_start
        if start == 0:
            return self.output
        return msgspec.structs.replace(self.output, prompt_logprobs_start=start)


def fit_max_tokens(
    loaded: LoadedModel, prompts: tuple[Prompt, ...], max_tokens: int | None, *, param: str
) -> int:
    """Returns max_tokens if every prompt leaves room for it; for None, all the room that is left.
    Raises ContextLengthExceeded when a prompt is too long."""
    limit = loaded.max_model_len
    longest = max(len(prompt.token_ids) for prompt in prompts)
    requested = 1 if max_tokens is None else max_tokens
    if longest + requested > limit:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limit} tokens. However, you requested "
            f"{longest + requested} tokens ({longest} in the {param}, "
            f"{requested} for the completion). Please reduce the length of the {param} "
            "or the completion.",
            param=param,
            hint="shorten the prompt or lower max_tokens",
        )
    return limit - longest if max_tokens is None else max_tokens


def keep_last(prompt: Prompt, num_tokens: int) -> Prompt:
    """The prompt's last tokens; the same prompt if it has no more."""
    num_truncated = max(0, len(prompt.token_ids) - num_tokens)
    if num_truncated == 0:
        return prompt
    return Prompt(prompt.token_ids[num_truncated:], num_truncated=num_truncated)


def check_token_ids(token_ids: list[int], loaded: LoadedModel, *, param: str) -> None:
    """Raises InvalidRequest for an id outside the vocabulary."""
    limit = loaded.vocab_size
    if token_ids and (min(token_ids) < 0 or max(token_ids) >= limit):
        first = next(token_id for token_id in token_ids if not 0 <= token_id < limit)
        raise InvalidRequest(
            f"{param} holds token id {first}; ids of this model go from 0 to {limit - 1}",
            param=param,
        )


def start_prompt(model: TextModel, token_ids: list[int], *, param: str) -> list[int]:
    """Returns `token_ids`, or the BOS or EOS token for an empty prompt. Raises InvalidRequest when
    the model has neither."""
    if token_ids:
        return token_ids
    if model.start_token_id is None:
        raise InvalidRequest(
            f"{param} is empty and model {model.name} has no token to start from", param=param
        )
    return [model.start_token_id]
