"""Rows of every shape that people give them: pairs under other names, chats, calls, tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.train.finetune.read import read_rows
from tests.train.finetune.reading import HELLO, PAIR, as_table, read, write


@pytest.mark.parametrize(
    ("record", "prompt", "completion"),
    [
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, "Add.\n\n1, 2", "3"),
        ({"instruction": "Say hi.", "input": "", "output": "hi"}, "Say hi.", "hi"),
        ({"instruction": "Sum.", "context": "Long.", "response": "Few."}, "Sum.\n\nLong.", "Few."),
        ({"question": "1+1?", "answer": "2"}, "1+1?", "2"),
        ({"query": "1+1?", "response": "2"}, "1+1?", "2"),
        ({"prompt": "1+1?", "response": "2"}, "1+1?", "2"),
        ({"input": "1+1?", "output": "2"}, "1+1?", "2"),
        ({"Prompt": "a", "Completion": "b"}, "a", "b"),
    ],
)  # fmt: skip
def test_pairs_under_other_names(
    tmp_path: Path, record: dict[str, str], prompt: str, completion: str
) -> None:
    path = write(tmp_path, "a.csv", as_table([record], ","))
    [row] = read_rows(path).rows
    assert (row.prompt, row.completion) == (prompt, completion)


def test_how_columns_are_understood_is_told(tmp_path: Path) -> None:
    alpaca = {"instruction": "a", "input": "b", "output": "c", "text": "d", "id": 7}
    found = read(tmp_path, alpaca, {**alpaca, "input": ""})
    assert found.notes == (
        "1 row read as prompt `instruction` + `input`, answer `output`",
        "1 row read as prompt `instruction`, answer `output`",
        "not used: `id`, `text`",
    )
    assert read(tmp_path, {"text": "a"}).notes == (
        "there is one row only: none can be held out to measure on",
    )


def test_a_system_text_makes_a_pair_a_chat(tmp_path: Path) -> None:
    found = read(tmp_path, {**PAIR, "system": "Be a pirate."})
    assert found.kind == "pairs"
    assert found.rows[0].messages == (
        {"role": "system", "content": "Be a pirate."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ahoy"},
    )


def test_sharegpt_and_openai_chats_are_alike(tmp_path: Path) -> None:
    theirs = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Ahoy"},
    ]
    ours = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *HELLO]
    found = read(
        tmp_path,
        {"conversations": theirs, "source": "x"},
        {"messages": ours},
        {"messages": json.dumps(ours)},
        {"conversations": theirs[1:], "system": "Be brief."},
        {"conversations": ours},
    )
    assert found.kind == "chat"
    assert len({row.digest() for row in found.rows}) == 1
    assert found.rows[0].messages[0] == {"role": "system", "content": "Be brief."}
    assert "not used: `source`" in found.notes


def test_of_prompts_that_are_lists_only_the_completion_is_learned(tmp_path: Path) -> None:
    [row] = read(tmp_path, {"prompt": [*HELLO, HELLO[0]], "completion": HELLO[1:]}).rows
    assert row.messages == (*HELLO, *HELLO)
    assert row.context_only == {1}
    weighted = [HELLO[0], {**HELLO[1], "weight": 0}, HELLO[0], {**HELLO[1], "weight": 1}]
    assert read(tmp_path, {"messages": weighted}).rows[0].digest() == row.digest()


def test_calls_and_tools_are_written_as_the_server_takes_them(tmp_path: Path) -> None:
    call = {"name": "find", "arguments": {"city": "Köln"}}
    function = {"name": "find", "description": "Finds.", "parameters": {"type": "object"}}
    openai = [
        HELLO[0],
        {"role": "assistant", "content": None, "tool_calls": [{"function": call}]},
        {"role": "tool", "content": "42", "name": "find"},
        HELLO[1],
    ]
    sharegpt = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "42"},
        {"from": "gpt", "value": "Ahoy"},
    ]
    first, second = read(
        tmp_path,
        {"messages": openai, "tools": [{"type": "function", "function": function}]},
        {"conversations": sharegpt, "tools": json.dumps([function])},
    ).rows
    assert first.tools == second.tools == ({"type": "function", "function": function},)
    assert (
        first.messages[1]
        == second.messages[1]
        == {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call00000",
                    "type": "function",
                    "function": {"name": "find", "arguments": '{"city": "Köln"}'},
                }
            ],
        }
    )
    assert second.messages[2] == {"role": "tool", "content": "42", "tool_call_id": "call00000"}


def test_reasoning_and_template_variables_are_kept(tmp_path: Path) -> None:
    messages = [HELLO[0], {**HELLO[1], "reasoning_content": "A greeting."}]
    record = {"messages": messages, "chat_template_kwargs": {"enable_thinking": False, "a": None}}
    [row] = read(tmp_path, record).rows
    assert row.messages[1]["reasoning_content"] == "A greeting."
    assert row.variables == {"enable_thinking": False}


def test_fields_of_messages_that_are_not_used_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, {"messages": [HELLO[0], {**HELLO[1], "time": "noon"}]})
    assert "not used: `messages[].time`" in found.notes
