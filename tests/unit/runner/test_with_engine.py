"""The real scheduler drives the real runner: random arrivals, aborts, failed steps and tiny pools,
and every request gets what it gets alone.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engine.core import EngineCore
from shoal.protocol.messages import EngineConfig, Finished, Submit, TokenLogprobs
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import LoadedRunner, StepPlan, StepResult
from shoal.protocol.trace import TokenTrace
from shoal.runner.model_runner import ModelRunner
from tests.fakes.fake_runner import loaded_model
from tests.unit.runner.building import BLOCK_SIZE, VOCAB, EchoBackend, EchoBestBackend

MAX_TOKENS = 64
_OUTPUT = ("logprobs", "prompt_logprobs", "trace")
WISHES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0},
    {"temperature": 3.0},
    {"temperature": 3.0, "top_k": 9, "logprobs": 1},
    {"temperature": 0.0, "repetition_penalty": 9.0, "logprobs": 0},
    {"temperature": 2.0, "frequency_penalty": 1.5, "logit_bias": ((4, 2.0), (5, -100.0))},
    {"temperature": 1.0, "min_tokens": 9, "stop_token_ids": tuple(range(0, VOCAB, 2))},
    {"temperature": 0.0, "prompt_logprobs": 1},
    {"temperature": 0.0, "trace": 2},
    {"temperature": 2.0, "top_p": 0.9, "presence_penalty": 1.0, "trace": 1, "prompt_logprobs": 0},
]


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    traces: list[TokenTrace] = field(default_factory=list)
    finished: Finished | None = None


@dataclass
class Disturbed:
    """A runner whose steps fail when told: before or after the real one has computed them."""

    runner: ModelRunner
    fails: dict[int, str]
    """Number of the step -> "before" or "after"."""
    num_steps: int = 0
    num_continued: int = 0
    num_accepted: int = 0

    def run(self, plan: StepPlan) -> StepResult:
        self.num_steps += 1
        self.num_continued += plan.continues
        when = self.fails.get(self.num_steps)
        if when == "before":
            raise RuntimeError("before the runner saw the plan")
        result = self.runner.run(plan)
        if when == "after":
            raise RuntimeError("after the runner computed it")
        return result


def make_submit(seq_id: int, prompt: list[int], max_tokens: int, kind: int) -> Submit:
    wish = dict(WISHES[kind])
    output = {key: wish.pop(key) for key in _OUTPUT if key in wish}
    stop = {key: wish.pop(key) for key in ("min_tokens", "stop_token_ids") if key in wish}
    return Submit(
        seq_id=seq_id,
        model="echo",
        prompt_token_ids=prompt,
        sampling=SamplingParams(seed=seq_id, **wish),
        stop=StopParams(max_tokens=max_tokens, **stop),
        output=OutputParams(**output),
    )


def serve(
    arrivals: list[tuple[int, Submit]],
    *,
    backend: EchoBackend,
    aborts: dict[int, int] | None = None,
    fails: dict[int, str] | None = None,
    num_blocks: int = 200,
    **config: Any,
) -> tuple[dict[int, Answer], Disturbed]:
    engine_config = EngineConfig(
        models=(), block_size=BLOCK_SIZE, max_preemptions=1000, draft_weight_bytes=0, **config
    )
    runner = ModelRunner(
        backend,
        num_token_ids=VOCAB,
        max_rows=engine_config.max_batch_size,
        max_tokens=MAX_TOKENS,
        block_size=BLOCK_SIZE,
    )
    disturbed = Disturbed(runner, fails or {})
    loaded = loaded_model("echo", VOCAB, MAX_TOKENS)
    core = EngineCore(
        {"echo": LoadedRunner(disturbed, loaded, num_blocks)},
        engine_config,
        lambda: 0.0,
        lambda: 0.0,
    )
    answers = {submit.seq_id: Answer() for _, submit in arrivals}
    last_arrival = max(step for step, _ in arrivals)
    for step in range(3000):
        for _, submit in (pair for pair in arrivals if pair[0] == step):
            core.add(submit)
        if aborts and step in aborts:
            core.abort([aborts[step]])
        if not core.has_work and step > last_arrival:
            return answers, disturbed
        if (outputs := core.step()) is None:
            continue
        core.check()
        disturbed.num_accepted += outputs.num_accepted
        for seq_id, token_ids in outputs.tokens():
            answers[seq_id].tokens += token_ids
        for seq_id, logprobs in outputs.logprobs.items():
            answers[seq_id].logprobs.append(logprobs)
        for seq_id, trace in outputs.traces.items():
            answers[seq_id].traces.append(trace)
        for seq_id, of_prompt in outputs.prompt_logprobs.items():
            answers[seq_id].prompt_logprobs += of_prompt
        for seq_id, finished in outputs.finished.items():
            answers[seq_id].finished = finished
    raise AssertionError("the engine does not come to an end")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_request_gets_what_it_gets_alone(data: Any) -> None:
    backend_class = data.draw(st.sampled_from([EchoBackend, EchoBestBackend]), "backend")
    num_said = data.draw(st.sampled_from([VOCAB, 3]), "best tokens")  # few repeat themselves
    numbers = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 25),
                st.lists(st.integers(0, 5), min_size=1, max_size=20),
                st.integers(0, 40),
                st.integers(0, len(WISHES) - 1),
            ),
            min_size=1,
            max_size=8,
        ),
        "arrival, prompt, output length and kind",
    )
    arrivals = [
        (step, make_submit(seq_id, prompt, max_tokens, kind))
        for seq_id, (step, prompt, max_tokens, kind) in enumerate(numbers)
    ]
    answers, _ = serve(
        arrivals,
        backend=backend_class(num_said=num_said),
        aborts=data.draw(st.dictionaries(st.integers(0, 50), st.integers(0, 7), max_size=2)),
        fails=data.draw(
            st.dictionaries(st.integers(1, 50), st.sampled_from(["before", "after"]), max_size=2)
        ),
        num_blocks=data.draw(st.sampled_from([16, 24, 200]), "blocks"),
        max_batch_size=data.draw(st.sampled_from([1, 3, 8]), "rows"),
        token_budget=data.draw(st.sampled_from([3, 16, 64]), "budget"),
        prefix_cache=data.draw(st.booleans(), "prefix cache"),
        drafts=data.draw(st.sampled_from([True, True, False]), "drafts"),
    )
    for _, submit in arrivals:
        alone = serve(
            [(0, submit)], backend=EchoBackend(num_said=num_said), token_budget=64, drafts=False
        )[0][submit.seq_id]
        answer = answers[submit.seq_id]
        if answer.finished is not None and answer.finished.error_code is None:
            assert answer == alone
        else:  # aborted, or in a step that failed
            assert answer.tokens == alone.tokens[: len(answer.tokens)]
            assert answer.logprobs == alone.logprobs[: len(answer.logprobs)]
            assert answer.traces == alone.traces[: len(answer.traces)]


def test_steps_that_only_decode_continue_and_outgrow_the_spare_blocks() -> None:
    arrivals = [(0, make_submit(i, [i], 60, i)) for i in range(4)]
    answers, runner = serve(arrivals, backend=EchoBestBackend())
    assert runner.num_continued == 59  # of 60 steps
    for _, submit in arrivals:
        alone = serve([(0, submit)], backend=EchoBackend())[0]
        assert answers[submit.seq_id] == alone[submit.seq_id]
