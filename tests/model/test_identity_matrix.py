"""One request gets the same token ids and the same float32 log-probabilities, bit for bit, however
it is served: alone or in any batch, in any chunks, cold or warm, put back and computed again, on
one thread or two, in any number format. Whole engine, random weights, every family.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.checkpoint.files import StoredTensor
from shoal.engine.core import EngineCore
from shoal.kernels import native
from shoal.kernels.native import Dtype
from shoal.model.spec import DecoderSpec, Role
from shoal.protocol.messages import EngineConfig, LoadedModel, Submit, TokenLogprobs
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import LoadedRunner
from shoal.runner.backends.native import NativeBackend
from shoal.runner.model_runner import ModelRunner
from shoal.sampling.native import NativeSampler
from tests.fakes.tiny_models import write_tiny_model
from tests.model.driving import load_folder

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels are not built")

NUM_IDS, MAX_TOKENS, NUM_BLOCKS, BLOCK_SIZE = 261, 256, 600, 16
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "int8", "int4")
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_tied_padded_half_turned": {
        "vocab_size": 272,
        "tie_word_embeddings": True,
        "partial_rotary_factor": 0.5,
    },
    "mistral_window": {"kind": "mistral", "sliding_window": 20},
    "qwen2_windows_by_layer": {
        "kind": "qwen2",
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 20,
        "max_window_layers": 1,
    },
    "qwen3": {"kind": "qwen3"},
    "gpt2": {"kind": "gpt2", "scale_attn_by_inverse_layer_idx": True},
    "phi": {"kind": "phi", "qk_layernorm": True, "num_key_value_heads": 2},
    "gemma2": {"kind": "gemma2", "sliding_window": 20},
    "gemma3_two_bases": {"kind": "gemma3_text", "sliding_window": 20},
    "phi3_window": {"kind": "phi3", "sliding_window": 20},
    "smollm3": {"kind": "smollm3"},
    "granite": {"kind": "granite"},
    "cohere": {"kind": "cohere", "use_qk_norm": True},
    "cohere2": {"kind": "cohere2", "sliding_window": 20},
    "stablelm": {"kind": "stablelm", "qk_layernorm": True, "use_parallel_residual": True},
    "ernie4_5": {"kind": "ernie4_5"},
    "hunyuan": {"kind": "hunyuan_v1_dense"},
    "nanochat": {"kind": "nanochat"},
    "gpt_neox": {"kind": "gpt_neox"},
    "gpt_neo": {"kind": "gpt_neo", "window_size": 20},
    "gptj": {"kind": "gptj"},
    "opt": {"kind": "opt"},
    "opt_350m": {"kind": "opt", "do_layer_norm_before": False, "word_embed_proj_dim": 24},
    "bloom": {"kind": "bloom"},
    "falcon_40b": {"kind": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_alibi": {"kind": "falcon", "alibi": True, "num_attention_heads": 6},
    "mpt_clipped": {"kind": "mpt", "attn_config": {"clip_qkv": 0.6}},
    "olmo": {"kind": "olmo", "clip_qkv": 0.6},
    "olmo2": {"kind": "olmo2"},
    "olmo3_window": {"kind": "olmo3", "sliding_window": 20},
    "starcoder2_window": {"kind": "starcoder2", "sliding_window": 20},
    "lfm2": {"kind": "lfm2"},
    "lfm2_kernel_beyond_a_block": {"kind": "lfm2", "conv_L_cache": 19, "conv_bias": True},
    "qwen2_moe": {"kind": "qwen2_moe"},
    "qwen3_moe_window": {"kind": "qwen3_moe", "use_sliding_window": True, "sliding_window": 20},
    "olmoe_clipped": {"kind": "olmoe", "clip_qkv": 0.9, "num_experts": 40},
    "granitemoe": {"kind": "granitemoe"},
    "mixtral": {"kind": "mixtral"},
}
IN_EVERY_FORMAT = {"llama", "gemma2", "gpt2", "lfm2", "qwen3_moe_window"}
"""Of these the fast tests run all number formats, of the others one each."""
WISHES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.0, "logprobs": 0, "prompt_logprobs": 2},
    {"temperature": 1.0, "logprobs": 2},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.3, "min_p": 0.05, "logprobs": 0},
    {"temperature": 0.9, "typical_p": 0.8, "logprobs": 5},
    {"temperature": 0.0, "repetition_penalty": 1.3, "logprobs": 1},
    {"temperature": 0.8, "presence_penalty": 0.7, "frequency_penalty": 0.4, "top_k": 20},
    {"temperature": 0.0, "logit_bias": ((65, 3.0), (66, -100.0)), "logprobs": 1},
    {"temperature": 1.0, "min_tokens": 6, "stop_token_ids": tuple(range(0, 261, 3))},
    {"temperature": 0.0, "min_tokens": 6, "stop_token_ids": tuple(range(0, 261, 3))},
)


@dataclass(frozen=True)
class Serving:
    """One way to serve all requests."""

    name: str
    batch: int = 64
    budget: int = 2048
    """Prompt chunks are as large as this leaves room for."""
    num_requests: int = 24
    num_blocks: int = NUM_BLOCKS
    shuffled: bool = False
    """Requests arrive in another order, some after the others have begun."""
    warm: bool = False
    """All were served before by the same engine, and its prefix cache is read."""
    num_threads: int = 1
    plan_seed: int = 0
    drafts: bool = True

    def __str__(self) -> str:
        return self.name


FAST = [
    Serving("together"),
    Serving("chunks_of_7_shuffled", budget=7, batch=5, shuffled=True),
    Serving("warm", warm=True),
    Serving("preempted", num_blocks=10),
    Serving("two_threads_shuffled", num_threads=2, budget=64, shuffled=True),
]
WHOLE = [
    Serving(f"batch_{batch}_chunk_{budget}_threads_{threads}", batch=batch, budget=budget,
            num_requests=64, shuffled=threads == 2, num_threads=threads, plan_seed=batch)
    for batch in (2, 8, 32, 64)
    for budget in (1, 7, 16, 64, 2048)
    for threads in (1, 2)
    if batch <= max(8, budget)
] + [
    replace(serving, name=f"{serving.name}_{threads}", num_requests=64, num_threads=threads)
    for serving in FAST
    for threads in (1, 2)
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """All that a caller can see."""

    token_ids: list[int]
    reason: str
    logprobs: list[TokenLogprobs]
    prompt_logprobs: list[TokenLogprobs | None]


@cache
def load(model: str) -> tuple[DecoderSpec, Mapping[Role, StoredTensor]]:
    changes = dict(MODELS[model])
    with TemporaryDirectory() as folder:
        path = write_tiny_model(Path(folder) / "tiny", changes.pop("kind", "llama"), **changes)
        return load_folder(path)


@cache
def backend_of(model: str, dtype: Dtype, num_threads: int) -> NativeBackend:
    spec, weights = load(model)
    if missing := native.supports(spec):
        pytest.skip(f"native kernels lack {', '.join(missing)}")
    return NativeBackend(
        spec,
        weights,
        dtype=dtype,
        num_blocks=NUM_BLOCKS,
        max_step_tokens=2048,
        num_threads=num_threads,
        num_token_ids=NUM_IDS,
    )


def make_requests(count: int) -> list[Submit]:
    """Prompts of 1 to 70 tokens; every other one begins like others, so that blocks are shared."""
    rng = np.random.default_rng(5)
    shared = rng.integers(0, NUM_IDS, 80).tolist()
    requests = []
    for index in range(count):
        length = int(rng.choice([1, 2, 9, 15, 16, 17, 33, 48, 70]))
        prompt = rng.integers(0, NUM_IDS, length).tolist()
        if index % 2:
            prompt[: length // 2] = shared[: length // 2]
        wish = dict(WISHES[index % len(WISHES)])
        output = {key: wish.pop(key) for key in ("logprobs", "prompt_logprobs") if key in wish}
        stop = {key: wish.pop(key) for key in ("min_tokens", "stop_token_ids") if key in wish}
        requests.append(
            Submit(
                seq_id=index,
                model="m",
                prompt_token_ids=prompt,
                sampling=SamplingParams(seed=1000 + index, **wish),
                stop=StopParams(max_tokens=int(rng.integers(1, 40)), **stop),
                output=OutputParams(**output),
            )
        )
    return requests


class Engine:
    """A fresh engine over a backend whose cache is full of what earlier engines left there."""

    def __init__(self, model: str, dtype: Dtype, serving: Serving) -> None:
        backend = backend_of(model, dtype, serving.num_threads)
        config = EngineConfig(
            models=(),
            max_batch_size=serving.batch,
            token_budget=serving.budget,
            prefix_cache=serving.warm,
            drafts=serving.drafts,
            draft_weight_bytes=0,
            max_preemptions=10_000,
        )
        runner = ModelRunner(
            backend,
            num_token_ids=NUM_IDS,
            max_rows=serving.batch,
            max_tokens=MAX_TOKENS,
            block_size=BLOCK_SIZE,
            sampler=NativeSampler(NUM_IDS, vocab_size=MODELS[model].get("vocab_size", NUM_IDS)),
        )
        loaded = LoadedModel("m", NUM_IDS, MAX_TOKENS, 0, dtype, "cpu", backend.name, "")
        may_go_back = load(model)[0].may_go_back
        served = LoadedRunner(runner, loaded, serving.num_blocks, may_go_back=may_go_back)
        self.core = EngineCore({"m": served}, config, lambda: 0.0)
        self._rng = np.random.default_rng(serving.plan_seed)
        self._shuffled = serving.shuffled
        self.num_accepted = 0

    def serve(self, requests: list[Submit], first_id: int = 0) -> list[Answer]:
        """Answers in the order of the requests."""
        waiting = [
            msgspec.structs.replace(request, seq_id=first_id + index)
            for index, request in enumerate(requests)
        ]
        answers = {request.seq_id: Answer([], "", [], []) for request in waiting}
        if self._shuffled:
            waiting = [waiting[at] for at in self._rng.permutation(len(waiting)).tolist()]
        while waiting or self.core.has_work:
            at_once = int(self._rng.integers(0, 4)) if self._shuffled else len(waiting)
            for request in waiting[:at_once]:
                self.core.add(request)
            waiting = waiting[at_once:]
            outputs = self.core.step()
            self.core.check()
            if outputs is None:
                continue
            self.num_accepted += outputs.num_accepted
            for seq_id, token_ids in outputs.tokens():
                answers[seq_id].token_ids.extend(token_ids)
            for seq_id, logprobs in outputs.logprobs.items():
                answers[seq_id].logprobs.append(logprobs)
            for seq_id, of_prompt in outputs.prompt_logprobs.items():
                answers[seq_id].prompt_logprobs.extend(of_prompt)
            for seq_id, finished in outputs.finished.items():
                answers[seq_id] = replace(answers[seq_id], reason=finished.reason)
        return [answers[first_id + index] for index in range(len(requests))]


@cache
def alone(model: str, dtype: Dtype, count: int) -> list[Answer]:
    """Each request by itself: one row, whole prompt, a token a step, nothing cached, one
    thread."""
    engine = Engine(model, dtype, Serving("alone", batch=1, drafts=False))
    return [engine.serve([request])[0] for request in make_requests(count)]


def check(model: str, dtype: Dtype, serving: Serving) -> None:
    requests = make_requests(serving.num_requests)
    engine = Engine(model, dtype, serving)
    found = engine.serve(requests)
    if serving.warm:
        found = engine.serve(requests, first_id=len(requests))
    for request, answer, wanted in zip(
        requests, found, alone(model, dtype, serving.num_requests), strict=True
    ):
        assert answer == wanted, f"request {request.seq_id}: {request.sampling} {request.output}"
    if "preempted" in serving.name:
        assert engine.core.stats()[0].num_preemptions > 0


@pytest.mark.parametrize("serving", FAST, ids=str)
@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (model, dtype)
        for row, model in enumerate(MODELS)
        for column, dtype in enumerate(DTYPES)
        if model in IN_EVERY_FORMAT or (column - row) % len(DTYPES) == 0
    ],
)
def test_an_answer_is_the_same_bits_however_it_is_served(
    model: str, dtype: Dtype, serving: Serving
) -> None:
    check(model, dtype, serving)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", MODELS)
def test_an_answer_is_the_same_bits_over_the_whole_matrix(model: str, dtype: Dtype) -> None:
    for serving in WHOLE:
        check(model, dtype, serving)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_reported_about_a_row_changes_neither_its_tokens_nor_its_neighbours(
    dtype: Dtype,
) -> None:
    requests = make_requests(24)
    serving = Serving("together")
    silent = [msgspec.structs.replace(request, output=OutputParams()) for request in requests]
    told = [
        msgspec.structs.replace(request, output=OutputParams(logprobs=2)) for request in requests
    ]
    mixed = [(told if at % 3 else silent)[at] for at in range(len(requests))]
    answers = {
        name: Engine("llama", dtype, serving).serve(wanted)
        for name, wanted in (("silent", silent), ("told", told), ("mixed", mixed))
    }
    tokens = {name: [one.token_ids for one in found] for name, found in answers.items()}
    assert tokens["silent"] == tokens["told"] == tokens["mixed"]
    for at, (one, of_all) in enumerate(zip(answers["mixed"], answers["told"], strict=True)):
        assert one.logprobs == (of_all.logprobs if at % 3 else [])


def test_the_requests_of_the_matrix_cover_every_end_and_differ_from_each_other() -> None:
    answers = alone("llama", "float32", 64)
    assert {answer.reason for answer in answers} == {"stop", "length"}
    assert len({tuple(answer.token_ids) for answer in answers if len(answer.token_ids) > 2}) > 40
    assert sum(bool(answer.prompt_logprobs) for answer in answers) >= 5
