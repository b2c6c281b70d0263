"""Plans to tokens: what is kept between steps, what is sampled, what is reported, what fails."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.protocol.params import OutputParams
from shoal.runner.inputs import Float32, StepInputs
from tests.unit.runner.building import (
    BLOCK_SIZE,
    VOCAB,
    EchoBackend,
    EchoBestBackend,
    make_runner,
    new_row,
    next_token,
    plan,
)


def solo_text(prompt: list[int], count: int) -> list[int]:
    known = list(prompt)
    for _ in range(count):
        known.append(next_token(known))
    return known[len(prompt) :]


def test_a_prompt_and_its_continuation_over_scattered_blocks() -> None:
    runner = make_runner(EchoBackend())
    first = runner.run(plan((1, 0, 5), new=[new_row(1, [3, 1, 4, 1, 5], [9, 2])]))
    tokens = [first.token_ids[0]]
    for computed in range(5, 10):
        blocks = {1: [6]} if computed == 8 else None
        tokens.append(runner.run(plan((1, computed, 1), blocks=blocks)).token_ids[0])
    assert tokens == solo_text([3, 1, 4, 1, 5], 6)


def test_no_token_is_sampled_while_known_tokens_are_left() -> None:
    backend = EchoBackend()
    runner = make_runner(backend)
    prompt = [7, 8, 9, 10, 11]
    first = runner.run(plan((1, 0, 2), new=[new_row(1, prompt, [0, 1])]))
    assert first.token_ids == [None]
    assert backend.seen[-1].logit_indices.tolist() == []
    assert runner.run(plan((1, 2, 2))).token_ids == [None]
    assert runner.run(plan((1, 4, 1))).token_ids == solo_text(prompt, 1)


def test_a_prefix_that_is_already_cached_is_not_computed_again() -> None:
    backend = EchoBackend()
    runner = make_runner(backend)
    prompt = [5, 6, 7, 8, 9, 10]
    runner.run(plan((1, 0, 6), new=[new_row(1, prompt, [3, 4])]))
    again = runner.run(plan((2, 4, 2), new=[new_row(2, prompt, [3, 5])]))
    assert again.token_ids == solo_text(prompt, 1)
    assert backend.seen[-1].token_ids.tolist() == [9, 10]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_arrivals_chunks_releases_and_preemptions_leave_each_text_as_it_is_alone(
    data: Any,
) -> None:
    """Plays the scheduler: rows come, advance by any number of tokens, and are put back."""
    runner = make_runner(EchoBackend(), max_rows=4)
    free = list(data.draw(st.permutations(range(40)), "blocks"))
    prompts = data.draw(
        st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14), max_size=7),
        "prompts",
    )
    known = {seq_id: list(prompt) for seq_id, prompt in enumerate(prompts)}
    target = {seq_id: len(prompt) + 6 for seq_id, prompt in enumerate(prompts)}
    computed = dict.fromkeys(known, 0)
    held: dict[int, list[int]] = {}
    released: list[int] = []

    def put_back(seq_id: int) -> None:
        free.extend(held.pop(seq_id))
        released.append(seq_id)
        computed[seq_id] = 0

    while any(len(known[seq_id]) < target[seq_id] for seq_id in known):
        if held and data.draw(st.integers(0, 5), "preempt") == 0:
            put_back(data.draw(st.sampled_from(sorted(held)), "victim"))
        waiting = [i for i in known if i not in held and len(known[i]) < target[i]]
        arrived = waiting[: data.draw(st.integers(0 if held else 1, 4), "arrive")]
        arrived = arrived[: 4 - len(held)]
        for seq_id in arrived:
            held[seq_id] = []
        parts, blocks = [], {}
        for seq_id in data.draw(st.permutations(sorted(held)), "order"):
            left = len(known[seq_id]) - computed[seq_id]
            count = data.draw(st.sampled_from([1, left, (left + 1) // 2]), "count")
            parts.append((seq_id, computed[seq_id], count))
            while len(held[seq_id]) * BLOCK_SIZE < computed[seq_id] + count:
                blocks.setdefault(seq_id, []).append(free.pop())
                held[seq_id].append(blocks[seq_id][-1])
        new = [
            new_row(
                seq_id,
                list(known[seq_id]),
                blocks.pop(seq_id),
                num_prompt_tokens=len(prompts[seq_id]),
            )
            for seq_id in arrived
        ]
        result = runner.run(plan(*parts, new=new, blocks=blocks, released=released))
        released = []
        for (seq_id, start, count), token_id in zip(parts, result.token_ids, strict=True):
            computed[seq_id] = start + count
            assert (token_id is not None) == (start + count == len(known[seq_id]))
            if token_id is not None:
                known[seq_id].append(token_id)
                if len(known[seq_id]) == target[seq_id]:
                    put_back(seq_id)
    for seq_id, prompt in enumerate(prompts):
        assert known[seq_id][len(prompt) :] == solo_text(prompt, 6)


def test_a_row_of_nan_fails_alone_and_the_others_get_their_tokens() -> None:
    runner = make_runner(EchoBackend(spoil={50}))
    rows = [new_row(1, [1, 2], [0]), new_row(2, [3, 50], [1]), new_row(3, [4], [2])]
    result = runner.run(plan((1, 0, 2), (2, 0, 2), (3, 0, 1), new=rows))
    assert result.errors == {2: "numerical_error"}
    assert result.token_ids == [*solo_text([1, 2], 1), None, *solo_text([4], 1)]


def test_columns_beyond_the_tokenizer_are_never_sampled_or_reported() -> None:
    runner = make_runner(EchoBackend())
    output = OutputParams(logprobs=VOCAB + 3, prompt_logprobs=2)
    rows = [
        new_row(i, [1, 2, 3], [i], temperature=t, output=output) for i, t in [(0, 0.0), (1, 2.0)]
    ]
    result = runner.run(plan((0, 0, 3), (1, 0, 3), new=rows))
    assert all(token_id is not None and token_id < VOCAB for token_id in result.token_ids)
    report = result.logprobs[0]
    assert sorted(report.top_ids) == list(range(VOCAB))
    # They are part of the distribution: 3 columns of 100 against one of 5, the others 0.
    assert report.top_logprobs[0] == pytest.approx(5.0 - 100.0 - np.log(3.0), abs=1e-4)


def test_end_tokens_are_banned_until_the_minimum_and_allowed_after_it() -> None:
    prompt = [1, 2, 3]
    best = solo_text(prompt, 1)[0]
    for min_tokens, is_banned in [(1, True), (0, False)]:
        runner = make_runner(EchoBackend())
        row = new_row(1, prompt, [0], min_tokens=min_tokens, stop_token_ids=(best,))
        token_id = runner.run(plan((1, 0, 3), new=[row])).token_ids[0]
        assert (token_id != best) == is_banned
    # A preempted row knows how many output tokens it has.
    runner = make_runner(EchoBackend())
    row = new_row(1, prompt, [0], num_prompt_tokens=2, min_tokens=1, stop_token_ids=(best,))
    assert runner.run(plan((1, 0, 3), new=[row])).token_ids == [best]


def test_penalties_count_prompt_and_output_also_after_a_preemption() -> None:
    wishes = {"repetition_penalty": 100.0, "frequency_penalty": 3.0}
    runner = make_runner(EchoBackend())
    prompt = [1, 2, 3]
    known = list(prompt)
    for step in range(5):
        new = [new_row(1, prompt, [0, 1], **wishes)] if step == 0 else None
        part = (1, 0, 3) if step == 0 else (1, len(known) - 1, 1)
        token_id = runner.run(plan(part, new=new)).token_ids[0]
        assert token_id is not None
        known.append(token_id)
    again = make_runner(EchoBackend())
    row = new_row(1, known[:-1], [0, 1], num_prompt_tokens=3, **wishes)
    assert again.run(plan((1, 0, 7), new=[row])).token_ids == [known[-1]]


def test_the_draw_after_a_preemption_is_the_draw_without_one() -> None:
    prompt = list(range(6))
    wishes = {"temperature": 1.5, "seed": 11}
    runner = make_runner(EchoBackend())
    known = list(prompt)
    for step in range(8):
        new = [new_row(1, prompt, [0, 1, 2, 3], **wishes)] if step == 0 else None
        part = (1, 0, 6) if step == 0 else (1, len(known) - 1, 1)
        token_id = runner.run(plan(part, new=new)).token_ids[0]
        assert token_id is not None
        known.append(token_id)
    row = new_row(1, known[:10], [7, 6, 5, 4], num_prompt_tokens=6, **wishes)
    result = runner.run(plan((1, 0, 10), new=[row], released=[1]))
    assert result.token_ids == [known[10]]


def test_prompt_logprobs_over_chunks_are_one_entry_less_than_the_prompt() -> None:
    prompt = [5, 9, 2, 6, 5, 3]
    output = OutputParams(prompt_logprobs=1)

    def entries(chunks: list[int]) -> list[Any]:
        runner = make_runner(EchoBackend())
        found, start = [], 0
        for chunk in chunks:
            new = [new_row(1, prompt, [0, 1], output=output)] if start == 0 else None
            result = runner.run(plan((1, start, chunk), new=new))
            found += result.prompt_logprobs.get(1, [])
            start += chunk
        assert result.token_ids == solo_text(prompt, 1)
        return found

    whole = entries([6])
    assert [entry.token_id for entry in whole] == prompt[1:]
    assert [entry.top_ids for entry in whole] == [[next_token(prompt[: i + 1])] for i in range(5)]
    assert entries([1, 3, 2]) == entries([5, 1]) == whole


def test_logprobs_are_of_the_raw_distribution() -> None:
    runner = make_runner(EchoBackend())
    prompt = [1, 2, 3]
    best = solo_text(prompt, 1)[0]
    row = new_row(
        1, prompt, [0], output=OutputParams(logprobs=1), logit_bias=((best, -100.0), (4, 9.0))
    )
    result = runner.run(plan((1, 0, 3), new=[row]))
    assert result.token_ids == [4]
    report = result.logprobs[1]
    assert report.token_id == 4
    assert report.top_ids == [best]
    total = 100.0 + np.log(3.0)  # the padded columns are nearly all of the distribution
    assert report.logprob == pytest.approx(-total, abs=1e-4)
    assert report.top_logprobs == pytest.approx([5.0 - total], abs=1e-4)


def test_only_rows_that_ask_get_logprobs() -> None:
    runner = make_runner(EchoBackend())
    asked = OutputParams(logprobs=0)
    rows = [new_row(1, [1], [0]), new_row(2, [2], [1], output=asked), new_row(3, [3], [2])]
    result = runner.run(plan((1, 0, 1), (2, 0, 1), (3, 0, 1), new=rows))
    assert list(result.logprobs) == [2]
    assert result.logprobs[2].token_id == result.token_ids[1]
    assert result.logprobs[2].top_ids == []


@pytest.mark.parametrize("backend_class", [EchoBackend, EchoBestBackend])
def test_rows_with_a_trace_look_through_the_lens_at_their_last_token(backend_class: Any) -> None:
    """Wherever it lies in the step; no other row is looked at."""
    runner = make_runner(backend := backend_class())
    traced = OutputParams(trace=2)
    rows = [
        new_row(1, [9, 8, 7], [0]),
        new_row(2, [5, 6], [1], output=traced),
        new_row(3, [4, 4, 4, 2], [2], output=traced),
        new_row(4, [1, 2, 3, 4], [3], output=traced),
    ]
    first = runner.run(plan((1, 0, 3), (2, 0, 2), (3, 0, 4), (4, 0, 2), new=rows))
    assert sorted(first.traces) == [2, 3]  # the fourth has tokens left to compute
    assert first.traces[2].lens_ids == [601, 602]
    assert first.traces[3].lens_ids == [203, 204]
    assert first.traces[3].lens_logprobs == [-203 / 8, -204 / 8]
    assert first.traces[2].token_id == first.token_ids[1]
    assert first.traces[2].top_ids[0] == first.token_ids[1]
    assert len(first.traces[2].top_ids) == 2
    backend.spoil = {int(first.token_ids[1] or 0)}
    steps = plan((1, 3, 1), (2, 2, 1), (3, 4, 1), (4, 2, 2), blocks={3: [4], 4: []})
    second = runner.run(steps)
    assert sorted(second.traces) == [3, 4]  # the second failed
    assert second.errors == {2: "numerical_error"}
    assert second.traces[4].lens_ids == [403, 404]


def test_a_backend_without_a_lens_gives_a_trace_without_one() -> None:
    class Blind:
        name = "blind"

        def forward(self, inputs: StepInputs) -> Float32:
            return np.zeros((len(inputs.logit_indices), VOCAB + 3), np.float32)

    result = make_runner(Blind()).run(  # type: ignore[arg-type]
        plan((1, 0, 1), new=[new_row(1, [9], [0], output=OutputParams(trace=1))])
    )
    assert (result.traces[1].lens_ids, result.traces[1].rank) == ([], 1)
