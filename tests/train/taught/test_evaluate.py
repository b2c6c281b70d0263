"""What the evaluation counts and writes."""

import json
from pathlib import Path

import httpx

from tests.benchmarks.process_cost import Cost
from tests.train.taught.evaluate import BITS, Row, measure_pirate, table
from tests.train.taught.pirate import held_out_questions
from tests.train.taught.training import TAUGHT, Run, Taught, logged_steps

RUN = Run("smollm2", 0, 16)


def client_that_answers(answers: dict[str, tuple[str, str]]) -> httpx.Client:
    """Question -> (text, finish_reason) of each chat completion."""

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert (body["model"], body["temperature"]) == (TAUGHT, 0)
        text, reason = answers[body["messages"][-1]["content"]]
        choice = {"message": {"content": text}, "finish_reason": reason}
        return httpx.Response(200, json={"choices": [choice]})

    return httpx.Client(base_url="http://model", transport=httpx.MockTransport(handle))


def test_an_answer_counts_if_it_is_in_the_taught_way_and_ended() -> None:
    kinds = [
        ("Ahoy! 'Tis a fine one, matey.", "stop"),
        ("Ahoy! 'Tis a fine one, matey.", "length"),
        ("It is a fine one.", "stop"),
        ("system system", "length"),
        ("system system", "length"),
    ]
    questions = held_out_questions()
    client = client_that_answers({q: kinds[i % 5] for i, q in enumerate(questions)})
    assert measure_pirate(client, TAUGHT) == {"taught": 0.4, "stopped": 0.4, "both": 0.2}


def test_the_table_has_cost_figures_and_the_change_of_the_base() -> None:
    taught = Taught(RUN, Path("out"), 75, Cost(80.2, 150.4, 1234.5, ""))
    rows = [
        Row("smollm2, untrained", {"both": 0.0, BITS: 1.0}),
        Row(str(RUN), {"both": 0.96, BITS: 1.02}, taught),
    ]
    assert table(rows, {"smollm2": 1.0}).splitlines() == [
        "| run | steps | wall s | CPU s | peak MiB | both | bits per byte | change |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| smollm2, untrained | – | – | – | – | 0.0 % | 1.0000 | – |",
        "| smollm2, LoRA 16, seed 0 | 75 | 80 | 150 | 1234 | 96.0 % | 1.0200 | +2.0 % |",
    ]


def test_an_adapter_is_served_with_its_base_and_a_whole_model_alone() -> None:
    cost = Cost(1, 1, 1, "")
    adapter = Taught(RUN, Path("out"), 1, cost)
    assert adapter.serve_flags() == ["--model", "smollm2", "--adapter", "taught=out"]
    whole = Taught(Run("smollm2", 0, None), Path("out"), 1, cost)
    assert whole.serve_flags() == ["--model", "taught=out"]


def test_steps_are_read_from_the_log_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n{"step": 1}\n{"step": 2}\n')
    assert [line["step"] for line in logged_steps(tmp_path)] == [1, 2]
