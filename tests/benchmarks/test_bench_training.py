"""What the comparison of trainers counts, and how its other side fills up rows."""

import random

from tests.benchmarks.bench_training import OURS, Measured, from_log, table
from tests.benchmarks.transformers_training import (
    NOT_LEARNED,
    Example,
    batches,
    num_learned,
    padded,
)


def test_speed_and_loss_are_read_from_a_log() -> None:
    lines = [
        {"step": 0, "tokens": 0, "held_out_loss": 3.0},
        {"step": 1, "tokens": 100, "loss": 4.0, "tokens_per_s": 50.0},
        {"step": 2, "tokens": 300, "loss": 2.0, "tokens_per_s": 100.0},
        {"step": 2, "tokens": 300, "held_out_loss": 3.0},
        {"step": 3, "tokens": 400, "loss": 1.0, "tokens_per_s": 25.0},
        {"step": 4, "tokens": 500, "loss": 0.5, "tokens_per_s": 50.0},
    ]
    found = from_log(lines, epochs=2, wall_s=20.0, peak_mib=900.0)
    assert (found.steps, found.tokens, found.loop_s) == (4, 500, 2.0 + 2.0 + 4.0 + 2.0)
    assert found.tokens_per_s == 50
    assert found.last_loss == 0.75


def test_the_table_has_medians_and_the_ratio_of_the_same_way() -> None:
    def measured(speed: float) -> Measured:
        return Measured(75, int(speed), 1.0, 0.5, 80.0, 1000.0)

    results = {
        ("lora", OURS): [measured(s) for s in (300, 900, 310)],
        ("lora", "transformers, float32"): [measured(s) for s in (100, 155, 200)],
    }
    ours, theirs = table(results).splitlines()[2:]
    assert ours == "| lora, shoal train | 75 | 310 | 2.00 | 0.500 | 80 | 1000 |"
    assert theirs == "| lora, transformers, float32 | 75 | 155 | 1.00 | 0.500 | 80 | 1000 |"


def test_rows_are_padded_to_the_longest_of_their_step_and_padding_is_not_learned() -> None:
    batch = [Example([5, 6, 7], [NOT_LEARNED, 6, 7]), Example([8, 9], [8, 9])]
    inputs = {name: tensor.tolist() for name, tensor in padded(batch).items()}
    assert inputs == {
        "input_ids": [[5, 6, 7], [8, 9, 0]],
        "labels": [[NOT_LEARNED, 6, 7], [8, 9, NOT_LEARNED]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
    }
    assert num_learned(batch) == 3, "a row's first token is not predicted"


def test_a_pass_has_every_row_once() -> None:
    rows = [Example([number], [number]) for number in range(7)]
    found = list(batches(rows, 3, random.Random(0)))
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert sorted(row.ids[0] for batch in found for row in batch) == list(range(7))
