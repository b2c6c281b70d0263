"""The checks of `family_table.py`: what is measured about one small random model of a family.

Every check returns an `Outcome`. Limits of float32 are those of the tests; limits of quantized
weights only tell wrong numbers from rounded ones, since random weights exaggerate rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.adapter import AdapterFolder
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.kernels import native
from shoal.kernels.native import Dtype
from shoal.model.adapter import ADAPTED_ROLES, load_adapter
from shoal.model.registry import read_model
from shoal.model.spec import expected_weights
from shoal.model.weights import expected_tensors
from shoal.runner.inputs import AdaptableBackend, Backend, Float32
from tests.fakes.tiny_adapters import write_adapter, write_merged
from tests.model.cases import write_case
from tests.model.driving import (
    Batch,
    Sequence,
    greedy,
    load_folder,
    log_probs,
    make_backend,
    make_backend_of,
    random_chunks,
    random_ids,
    reference_logits,
    reference_model,
    whole_logits,
)

MAX_DIFFERENCE = 1e-4
"""Of a log-probability, in float32."""
MAX_DIVERGENCE: dict[Dtype, float] = {"bfloat16": 0.002, "int8": 0.02, "int4": 0.5}
"""Of rounded weights from float32: KL divergence of the median token in nats. Not of the mean:
where rounding makes a router pick another expert, a single token may differ entirely."""
NUM_TOKENS = 150
NUM_PROMPT = 70
NUM_GREEDY = 64
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "int8", "int4")
ROWS = ((30, 1), (17, 0), (41, 1), (1, 0), (12, 1), (50, 0))
"""(tokens, adapter) of the rows that are computed alone and together; 0 = none."""


class Outcome(NamedTuple):
    """Of one check on one model; of several models the table shows the greatest."""

    is_wrong: bool
    size: float
    """How far it is from perfect."""
    text: str


@dataclass(frozen=True)
class Case:
    """A small random model: the folder, and what several checks need of it."""

    folder: Path
    """Holds the model in `base`, and the adapters that the checks write."""

    @classmethod
    def write(cls, folder: Path, family: str, name: str) -> "Case":
        folder.mkdir()
        write_case(folder / "base", family, name)
        return cls(folder)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @cached_property
    def token_ids(self) -> list[int]:
        return random_ids(NUM_TOKENS)

    @cached_property
    def reference(self) -> Any:
        return reference_model(self.base)

    @cached_property
    def lacking(self) -> str:
        """What the native kernels lack; empty when they run the model."""
        return ", ".join(native.supports(load_folder(self.base)[0]))

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        return ("torch",) if self.lacking else ("native", "torch")

    @cached_property
    def logits(self) -> dict[str, Float32]:
        """[NUM_TOKENS, vocab] of each backend in float32, computed in one go."""
        return {kind: whole_logits(self.batch(kind), self.token_ids) for kind in self.kinds}

    def batch(self, kind: str, dtype: Dtype = "float32", num_threads: int = 1) -> Batch:
        return Batch.over(make_backend(self.base, kind, dtype=dtype, num_threads=num_threads))


def max_difference(found: Float32, wanted: Float32) -> float:
    """Of log-probabilities; NaN counts as infinitely far."""
    largest = float(np.abs(log_probs(found) - log_probs(wanted)).max())
    return largest if np.isfinite(largest) else float("inf")


def close(difference: float) -> Outcome:
    return Outcome(difference > MAX_DIFFERENCE, difference, f"{difference:.0e}")


def native_only(check: Callable[[Case], Outcome]) -> Callable[[Case], Outcome]:
    """Says so where the native kernels do not run the model."""

    def checked(case: Case) -> Outcome:
        if case.lacking:
            return Outcome(False, np.inf, f"PyTorch only: native kernels lack {case.lacking}")
        return check(case)

    return checked


def against_transformers(case: Case) -> Outcome:
    """The worse of both backends."""
    wanted = reference_logits(case.reference, case.token_ids)
    assert wanted.std() > 0.5, "the logits are too even to compare"
    return close(max(max_difference(found, wanted) for found in case.logits.values()))


def greedy_text(case: Case) -> Outcome:
    """Tokens up to the first that is not the best one of transformers; the worse backend."""
    prompt = random_ids(NUM_PROMPT, seed=1)
    num_equal = NUM_GREEDY
    for kind in case.kinds:
        found = greedy(case.batch(kind), [prompt], NUM_GREEDY)[0]
        logits = reference_logits(case.reference, prompt + found)[NUM_PROMPT - 1 : -1]
        is_equal = logits.argmax(-1) == np.array(found)
        num_equal = min(num_equal, int(np.logical_and.accumulate(is_equal).sum()))
    num_wrong = NUM_GREEDY - num_equal
    return Outcome(num_wrong > 0, num_wrong, f"{num_equal} of {NUM_GREEDY}")


def chunked_torch(case: Case) -> Outcome:
    rows = [Sequence(case.token_ids)]
    found = in_random_chunks(case.batch("torch"), rows, np.random.default_rng(3))
    return close(max_difference(found[0], case.logits["torch"]))


@native_only
def chunked_native(case: Case) -> Outcome:
    rows = [Sequence(case.token_ids)]
    found = in_random_chunks(case.batch("native"), rows, np.random.default_rng(3))
    return same_bits([(found[0], case.logits["native"])])


@native_only
def native_and_torch(case: Case) -> Outcome:
    return close(max_difference(case.logits["native"], case.logits["torch"]))


def rounded(dtype: Dtype) -> Callable[[Case], Outcome]:
    """The check of weights in that format: mean KL divergence from float32, and how often both
    have the same best token. Shown is the mean, the limit is of the median."""

    @native_only
    def check(case: Case) -> Outcome:
        exact = case.logits["native"]
        found = whole_logits(case.batch("native", dtype), case.token_ids)
        expected, ours = log_probs(exact), log_probs(found)
        divergences = (np.exp(expected) * (expected - ours)).sum(-1)
        same_best = float((exact.argmax(-1) == found.argmax(-1)).mean())
        is_wrong = not float(np.median(divergences)) <= MAX_DIVERGENCE[dtype]
        mean = float(divergences.mean())
        is_finite = bool(np.isfinite(mean))
        text = f"{mean:.1e}, {same_best:.0%}"
        return Outcome(is_wrong or not is_finite, mean if is_finite else np.inf, text)

    return check


def adapted(case: Case) -> Outcome:
    """A random adapter of rank 4 on every matrix that may have one: as merged weights compute it,
    and rows with and without it in one batch the same bits as alone. One that also names other
    matrices must be refused."""
    targets, others = adaptable(case.base)
    adapter = write_adapter(case.folder / "adapter", case.base, targets=targets, rank=4)
    merged = write_merged(case.folder / "merged", case.base, adapter)
    wanted = reference_logits(reference_model(merged), case.token_ids)
    assert max_difference(wanted, case.logits["torch"]) > 0.1, "the adapter changes nothing"
    difference = 0.0
    for kind in case.kinds:
        batch = Batch.over(with_adapter(make_backend(case.base, kind), case.base, adapter))
        found = whole_logits(batch, case.token_ids, adapter_id=1)
        difference = max(difference, max_difference(found, wanted))
    outcomes = [close(difference)]
    if not case.lacking:
        alone, mixed = (
            with_adapter(make_backend(case.base, "native", num_threads=n), case.base, adapter)
            for n in (1, 2)
        )
        outcomes.append(alone_and_mixed([(alone, mixed)], ROWS))
    text = "; ".join(outcome.text for outcome in outcomes)
    if others:
        outcomes.append(refused(case, [*targets, *others]))
        text += f"; {outcomes[-1].text}"
    is_wrong = any(outcome.is_wrong for outcome in outcomes)
    return Outcome(is_wrong, outcomes[0].size, text)


def refused(case: Case, targets: list[str]) -> Outcome:
    """`targets` holds matrices that may have no adapter: it must not load."""
    spec = load_folder(case.base)[0]
    roles = {
        role.name.split(".")[0]
        for role, shape in expected_weights(spec).items()
        if role.layer is not None and len(shape) == 2 and "norm" not in role.name
    }
    kinds = ", ".join(sorted(roles - ADAPTED_ROLES))
    adapter = write_adapter(case.folder / "refused", case.base, targets=targets)
    try:
        with_adapter(make_backend(case.base), case.base, adapter)
    except ModelFolderError as error:
        is_reason = "Shoal adapts linear layers" in str(error)
        return Outcome(not is_reason, 0.0, f"refused: {kinds if is_reason else error}")
    return Outcome(True, np.inf, f"not refused: {kinds}")


def adaptable(base: Path) -> tuple[list[str], list[str]]:
    """Names of the linear modules of all layers: those that may have adapters, and others."""
    files = open_model(base)
    description = read_model(files.config, files.config_file)
    found: tuple[list[str], list[str]] = ([], [])
    for name, (shape, source, layer) in expected_tensors(
        description.architecture, description.spec
    ).items():
        roles = {role.removesuffix(".weight") for role in source.roles}
        if layer is None or len(shape) != 2 or any("norm" in role for role in roles):
            continue
        found[not roles <= ADAPTED_ROLES].append(name.removesuffix(".weight"))
    return found


def with_adapter(backend: Backend, base: Path, adapter: Path) -> Backend:
    """Adapter 1 of it."""
    assert isinstance(backend, AdaptableBackend)
    files = open_model(base)
    description = read_model(files.config, files.config_file)
    matrices = load_adapter(AdapterFolder(adapter), description.architecture, description.spec)
    backend.load_adapter(1, matrices)
    return backend


@native_only
def identity(case: Case) -> Outcome:
    """Rows alone in one go on one thread, and shuffled together in chunks on two."""
    spec, weights = load_folder(case.base)
    pairs = []
    for dtype in DTYPES:
        alone, mixed = (
            make_backend_of(spec, weights, "native", dtype=dtype, num_threads=n) for n in (1, 2)
        )
        pairs.append((alone, mixed))
    return alone_and_mixed(pairs, tuple((length, 0) for length, _ in ROWS))


def alone_and_mixed(
    backends: list[tuple[Backend, Backend]], rows: tuple[tuple[int, int], ...]
) -> Outcome:
    """Of each pair the first computes each row alone, the second all of them in one batch."""
    pairs = []
    for alone, mixed in backends:
        seqs = [Sequence(random_ids(length, length), adapter_id=who) for length, who in rows]
        found = in_random_chunks(Batch.over(mixed), seqs, np.random.default_rng(5))
        for seq, logits in zip(seqs, found, strict=True):
            batch = Batch.over(alone, seed=1)
            pairs.append((logits, whole_logits(batch, seq.token_ids, seq.adapter_id)))
    return same_bits(pairs)


def in_random_chunks(batch: Batch, seqs: list[Sequence], rng: np.random.Generator) -> list[Float32]:
    """All logits of each sequence; each step computes chunks of some of them in any order."""
    left = [random_chunks(len(seq.token_ids), rng) for seq in seqs]
    found: list[list[Float32]] = [[] for _ in seqs]
    while open_rows := [row for row, chunks in enumerate(left) if chunks]:
        chosen = [row for row in open_rows if rng.random() < 0.7] or open_rows[:1]
        rng.shuffle(chosen)
        parts = [(seqs[row], left[row].pop()) for row in chosen]
        logits = batch.step(parts, every_logit=True)
        for row, (_, count) in zip(chosen, parts, strict=True):
            found[row].append(logits[:count])
            logits = logits[count:]
    return [np.concatenate(parts) for parts in found]


def same_bits(pairs: list[tuple[Float32, Float32]]) -> Outcome:
    """Counts the values that differ in any bit."""
    num_wrong = sum(int((bits(one) != bits(other)).sum()) for one, other in pairs)
    of_all = sum(one.size for one, _ in pairs)
    is_finite = all(np.isfinite(one).all() for one, _ in pairs)
    text = f"{num_wrong} of {of_all} values differ" if num_wrong else "bit-equal"
    return Outcome(num_wrong > 0 or not is_finite, num_wrong, text if is_finite else "not finite")


def bits(values: Float32) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


CHECKS: dict[str, Callable[[Case], Outcome]] = {
    "float32": against_transformers,
    "greedy": greedy_text,
    "chunks, native": chunked_native,
    "chunks, PyTorch": chunked_torch,
    "native = PyTorch": native_and_torch,
    "bf16": rounded("bfloat16"),
    "int8": rounded("int8"),
    "int4": rounded("int4"),
    "LoRA": adapted,
    "identity": identity,
}
"""Columns of the table."""
