"""What a task refuses and what it derives: lengths at their limits, ids, empty prompts, seeds."""

from pathlib import Path

import pytest

from shoal.errors import ContextLengthExceeded, InvalidRequest
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.text.task import (
    GenerationTask,
    Prompt,
    check_token_ids,
    fit_max_tokens,
    start_prompt,
)
from tests.fakes.fake_runner import loaded_model
from tests.unit.text.building import byte_level, text_model

LOADED = loaded_model(vocab_size=100, max_model_len=32)


def prompts(*lengths: int) -> tuple[Prompt, ...]:
    return tuple(Prompt([1] * length) for length in lengths)


@pytest.mark.parametrize(("prompt", "wanted"), [(31, 1), (30, 1), (1, 31), (16, 16), (32, 0)])
def test_up_to_the_context_length_fits(prompt: int, wanted: int) -> None:
    assert fit_max_tokens(LOADED, prompts(prompt), wanted, param="prompt") == wanted


@pytest.mark.parametrize(("prompt", "wanted"), [(32, 1), (16, 17), (33, 0), (1, 10**12)])
def test_one_more_is_refused_in_the_words_that_gateways_match(prompt: int, wanted: int) -> None:
    with pytest.raises(ContextLengthExceeded) as refusal:
        fit_max_tokens(LOADED, prompts(prompt), wanted, param="messages")
    assert refusal.value.message.startswith("This model's maximum context length is 32 tokens.")
    assert (refusal.value.code, refusal.value.param, refusal.value.status) == (
        "context_length_exceeded", "messages", 400,
    )  # fmt: skip


@pytest.mark.parametrize(("prompt", "room"), [(1, 31), (30, 2), (31, 1)])
def test_without_a_wish_all_room_is_given(prompt: int, room: int) -> None:
    assert fit_max_tokens(LOADED, prompts(prompt), None, param="prompt") == room


def test_a_prompt_without_room_for_one_token_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        fit_max_tokens(LOADED, prompts(32), None, param="prompt")


def test_the_longest_prompt_counts() -> None:
    assert fit_max_tokens(LOADED, prompts(1, 20, 3), None, param="prompt") == 12


@pytest.mark.parametrize("token_id", [0, 99])
def test_ids_of_the_vocabulary_pass(token_id: int) -> None:
    check_token_ids([token_id], LOADED, param="prompt")


@pytest.mark.parametrize("token_id", [-1, 100, 2**31, 2**63, -(2**63)])
def test_other_ids_are_refused(token_id: int) -> None:
    with pytest.raises(InvalidRequest, match="0 to 99"):
        check_token_ids([5, token_id], LOADED, param="prompt")


def test_an_empty_prompt_starts_from_the_models_start_token(tmp_path: Path) -> None:
    model = text_model(byte_level(tmp_path), start_token_id=7)
    assert start_prompt(model, [], param="prompt") == [7]
    assert start_prompt(model, [1, 2], param="prompt") == [1, 2]


def test_an_empty_prompt_is_refused_without_a_start_token(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no token to start from"):
        start_prompt(text_model(byte_level(tmp_path)), [], param="prompt")


def test_sample_zero_has_the_requests_seed_and_every_sample_its_own(tmp_path: Path) -> None:
    task = GenerationTask(
        request_id="r",
        model=text_model(byte_level(tmp_path)),
        prompts=prompts(1),
        sampling=SamplingParams(seed=2**64 - 1, temperature=0.5, logit_bias=((3, 1.0),)),
        stop=StopParams(4),
        output=OutputParams(),
        n=16,
        best_of=16,
    )
    seeds = [task.sampling_of(index).seed for index in range(16)]
    assert seeds[0] == 2**64 - 1
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert task.sampling_of(3).temperature == 0.5
    assert task.sampling_of(3).logit_bias == ((3, 1.0),)
