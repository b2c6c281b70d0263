"""What is chosen where the user left it open, and that each choice says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.train.config import RecipeError
from shoal.train.finetune.loop import rate_factor, rows_of_step
from shoal.train.finetune.plan import (
    Choice,
    Plan,
    choose_eval_share,
    choose_seq_len,
    make_plan,
)
from shoal.train.finetune.rows import EncodedRow, LoraSettings
from shoal.train.finetune.settings import FineTuneRequest

LORA = LoraSettings(8, 16.0, ("q", "v"))


def asked(**choices: Any) -> FineTuneRequest:
    return FineTuneRequest(out=Path("out"), data=Path("rows.jsonl"), base=Path("base"), **choices)


def rows(count: int, length: int = 10) -> list[EncodedRow]:
    ids = np.arange(length, dtype=np.int32)
    return [EncodedRow(ids, np.ones(length, np.bool_), f"line {index}") for index in range(count)]


def planned(
    count: int, *, held_out: int = 20, weights: int = 135_000_000, **choices: Any
) -> tuple[Plan, dict[str, Choice]]:
    lora = LORA if "lora_rank" in choices else None
    plan, shown = make_plan(
        asked(**choices),
        rows(count),
        rows(held_out),
        eval_share=0.1,
        seq_len=512,
        num_weights=weights,
        lora=lora,
    )
    return plan, {choice.name: choice for choice in shown}


@pytest.mark.parametrize(
    ("count", "epochs", "batch"),
    [(20, 10, 2), (60, 5, 2), (200, 3, 8), (1000, 3, 16), (2000, 2, 16), (10_000, 1, 16)],
)
def test_length_and_batch_follow_the_number_of_rows(count: int, epochs: int, batch: int) -> None:
    plan, shown = planned(count)
    assert (plan.epochs, plan.batch_size) == (epochs, batch)
    assert plan.steps == -(-count * epochs // batch)
    assert shown["epochs"].reason == f"{count} rows"
    assert 2 <= plan.warmup_steps <= 50


def test_smaller_models_and_adapters_get_higher_rates() -> None:
    whole = planned(200)[0].lr
    assert whole == pytest.approx(1e-4)
    assert planned(200, weights=14_000_000)[0].lr > whole
    assert planned(200, weights=10**10)[0].lr == pytest.approx(2e-5)
    adapter, shown = planned(200, lora_rank=8)
    assert adapter.lr > 2 * whole
    assert adapter.weight_decay == 0
    assert "135 M weights, LoRA" in shown["lr"].reason


def test_what_is_given_is_taken_and_said_to_be_given() -> None:
    plan, shown = planned(200, epochs=0.5, batch_size=3, lr=0.01, seed=7)
    assert (plan.epochs, plan.batch_size, plan.lr, plan.seed) == (0.5, 3, 0.01, 7)
    assert plan.steps == 34  # 100 rows
    for name in ("epochs", "batch-size", "lr", "seed"):
        assert shown[name].reason == "given"


def test_a_length_in_tokens_is_a_part_of_a_pass() -> None:
    plan, _ = planned(100, tokens=250)  # rows of 10
    assert plan.picks == 25


def test_few_rows_hold_none_out_and_many_not_more_than_needed() -> None:
    share, choice = choose_eval_share(asked(), 19)
    assert share == 0
    assert "too few" in choice.reason
    assert choose_eval_share(asked(), 200)[0] == 0.1
    assert choose_eval_share(asked(), 100_000)[0] * 100_000 == pytest.approx(200)
    assert choose_eval_share(asked(eval_share=0.0), 200)[0] == 0


def test_held_out_rows_end_a_run_only_where_they_are_enough() -> None:
    assert planned(200)[0].patience > 0
    plan, shown = planned(25, held_out=2)
    assert plan.patience == 0
    assert "too few" in shown["early stop"].reason
    assert planned(200, held_out=0)[1]["early stop"].reason == "nothing is held out"


def test_rows_are_as_long_as_the_context_allows() -> None:
    assert choose_seq_len(asked(), 512)[0] == 512
    assert choose_seq_len(asked(), 100_000)[0] == 2048
    assert choose_seq_len(asked(seq_len=64), 512)[0] == 64
    with pytest.raises(RecipeError, match="context of 512"):
        choose_seq_len(asked(seq_len=513), 512)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": float("nan")}, "epochs is nan"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lora_rank": 0}, "lora_rank is 0"),
        ({"eval_share": 0.6}, "eval_share is 0.6"),
        ({"seq_len": 1}, "seq_len is 1"),
        ({"epochs": 1.0, "tokens": 10}, "give one of them"),
        ({"merge": True}, "give lora_rank"),
        ({"lora_alpha": 8.0}, "give lora_rank"),
        ({"lora_targets": ("q",)}, "give lora_rank"),
    ],
)
def test_values_that_no_run_can_have_are_refused_by_name(
    choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        asked(**choices)


def test_each_pass_reads_every_row_once_in_an_order_of_its_own() -> None:
    plan, _ = planned(23, epochs=2.0, batch_size=4)
    read = [index for step in range(plan.steps) for index in rows_of_step(plan, step)]
    assert len(read) == 46
    assert sorted(read[:23]) == sorted(read[23:]) == list(range(23))
    assert read[:23] != read[23:]


def test_the_rate_goes_up_and_then_down_to_nothing() -> None:
    plan, _ = planned(200)
    factors = [rate_factor(plan, step, step / plan.steps) for step in range(plan.steps)]
    top = factors.index(max(factors))
    assert top == plan.warmup_steps - 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert 0 < factors[-1] < 0.05


def test_the_identity_of_a_plan_is_json_and_has_every_setting() -> None:
    plan, _ = planned(200, lora_rank=8)
    identity = plan.identity()
    assert identity["lr"] == plan.lr
    assert identity["lora"] == {"rank": 8, "alpha": 16.0, "targets": ["q", "v"]}
