"""Vectors of prompts: whole or in chunks, beside others, never from a cache of an encoder."""

from functools import partial
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, rule

from shoal.protocol.messages import Submit
from shoal.protocol.params import FinishReason, OutputParams
from shoal.protocol.step import StepPlan
from tests.fakes.fake_runner import FakeRunner, solo_embedding
from tests.unit.engine.building import Engine, make_submit
from tests.unit.engine.test_properties import MODELS, PROMPTS, WEIGHTS, EngineMachine

SIZE = 3
encoder_runner = partial(FakeRunner, embedding_size=SIZE, is_encoder=True)
decoder_runner = partial(FakeRunner, embedding_size=SIZE)


def embed(seq_id: int = 1, prompt: Any = (1, 2, 3), **fields: Any) -> Submit:
    return make_submit(seq_id, prompt, 0, output=OutputParams(embedding=True), **fields)


def vector_of(prompt: Any) -> bytes:
    return solo_embedding(list(prompt), SIZE)


def encoder(num_blocks: int = 256, **options: Any) -> Engine:
    return Engine(num_blocks, runner=encoder_runner, is_encoder=True, **options)


def test_a_sequence_ends_with_its_vector() -> None:
    heard = encoder().run(embed())
    assert heard.embeddings == {1: vector_of((1, 2, 3))}
    assert heard.finished[1].reason is FinishReason.LENGTH
    assert heard.tokens == {}
    assert heard.started[1].num_cached_tokens == 0


def test_short_prompts_share_a_step_and_a_long_one_is_whole() -> None:
    engine = encoder(token_budget=16, max_model_len=100, max_batch_size=16)
    prompts = [range(30), range(40), range(40), range(60)]
    engine.add(*(embed(i, prompt) for i, prompt in enumerate(prompts)))
    engine.run()
    assert [frame.num_tokens for frame in engine.heard.frames] == [70, 100]
    assert engine.heard.embeddings == {i: vector_of(p) for i, p in enumerate(prompts)}


def test_a_prompt_that_does_not_fit_a_step_is_not_overtaken() -> None:
    engine = encoder(token_budget=16, max_model_len=100)
    engine.add(embed(1, range(60)), embed(2, range(60)), embed(3, (1,)))
    engine.step()
    assert list(engine.heard.embeddings) == [1]
    engine.step()
    assert sorted(engine.heard.embeddings) == [1, 2, 3]


def test_an_encoder_neither_reads_nor_writes_the_prefix_cache() -> None:
    engine = encoder()
    for seq_id in (1, 2):
        engine.run(embed(seq_id, range(20)))
        assert engine.core.reset_cache("") == 0
    assert engine.heard.started[2].num_cached_tokens == 0
    assert [frame.num_tokens for frame in engine.heard.frames] == [20, 20]


def test_a_decoder_computes_vectors_in_chunks_and_from_the_cache() -> None:
    engine = Engine(64, runner=decoder_runner, token_budget=8, max_batch_size=4)
    engine.run(embed(1, range(20)), make_submit(2, (7, 8), 3))
    engine.run(embed(3, range(20)))
    assert engine.heard.embeddings == {1: vector_of(range(20)), 3: vector_of(range(20))}
    assert engine.heard.started[3].num_cached_tokens == 16
    assert len(engine.heard.tokens[2]) == 3
    assert engine.heard.tokens.keys() == {2}


def test_a_runner_without_a_vector_fails_the_sequence_only() -> None:
    engine = Engine(64, runner=FakeRunner)
    heard = engine.run(embed(1), make_submit(2, (1, 2), 2))
    assert heard.finished[1].error_code == "internal_error"
    assert len(heard.tokens[2]) == 2


def test_a_flood_of_one_tenant_leaves_steps_to_another() -> None:
    """A prompt of the heavy tenant is more than its eighth of a step."""
    engine = encoder(1024, token_budget=64, max_model_len=64, max_batch_size=16)
    engine.add(*(embed(i, range(20), tenant="heavy") for i in range(40)))
    engine.step()
    engine.add(*(embed(100 + i, range(10), tenant="light") for i in range(3)))
    engine.step()
    engine.step()
    assert {100, 101, 102} <= engine.heard.embeddings.keys()
    engine.run()
    assert len(engine.heard.embeddings) == 43


class EncoderMachine(EngineMachine):
    """The same arrivals, aborts, faults and tiny pools, of a model that computes prompts whole."""

    @initialize(
        num_blocks=st.integers(2, 24),
        block_size=st.sampled_from([1, 2, 4]),
        max_batch_size=st.integers(1, 8),
        token_budget=st.integers(1, 24),
        prefix_cache=st.booleans(),
    )
    def build(self, num_blocks: int, **config: Any) -> None:
        super().build(num_blocks, 64, is_encoder=True, **config)

    def make_runner(self, num_blocks: int, block_size: int) -> FakeRunner:
        return encoder_runner(
            num_blocks, block_size, before_step=self.before_step, row_error=self.row_error
        )

    def most_tokens(self) -> int:
        return max(self.context, self.engine.config.token_budget)

    @rule(
        prompt=PROMPTS,
        copies=st.sampled_from([1, 1, 3, 8]),
        model=st.sampled_from(MODELS),
        priority=st.integers(-2, 2),
        tenant=st.sampled_from("abc"),
        deadline_s=st.sampled_from([None, None, 5.0]),
    )
    def submit(self, copies: int, tenant: str, **fields: Any) -> None:
        for _ in range(copies):
            seq_id = len(self.asked)
            submit = embed(seq_id, tenant=tenant, weight=WEIGHTS[tenant], **fields)
            self.asked[seq_id] = submit
            self.engine.add(submit)

    def check_answer(self, seq_id: int) -> None:
        prompt, heard = self.asked[seq_id].prompt_token_ids, self.engine.heard
        if (finished := heard.finished.get(seq_id)) is None:
            return
        if finished.reason is FinishReason.ERROR:
            self.check_error(seq_id, finished.error_code, max(0, self.context - len(prompt)))
        else:
            assert heard.embeddings[seq_id] == vector_of(prompt), "not its vector"


TestEncoder = EncoderMachine.TestCase
TestEncoder.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_plan_never_divides_a_prompt() -> None:
    seen: list[StepPlan] = []
    engine = Engine(
        256, runner=partial(encoder_runner, before_step=seen.append), is_encoder=True,
        token_budget=16, max_model_len=64,
    )  # fmt: skip
    engine.run(*(embed(i, range(i % 60 + 1)) for i in range(120)))
    assert all(start == 0 for plan in seen for start in plan.num_computed_tokens)
    assert sum(plan.num_tokens for plan in seen) == sum(i % 60 + 1 for i in range(120))
