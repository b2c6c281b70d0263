# client: ollama
"""ollama-python: chat, generate, list, show, ps, pull."""

import json

import ollama
from checks import WEATHER, Server, raises, report
from ollama import Client

HI = [{"role": "user", "content": "Hi"}]
SHORT = {"num_predict": 12, "temperature": 0}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather.", "parameters": WEATHER},
}


def chat(server: Server) -> None:
    answer = Client(server.url).chat(server.model, HI, options=SHORT)
    assert answer.done
    assert answer.message.role == "assistant"
    assert answer.eval_count <= 12
    assert answer.total_duration > 0


def streamed_chat(server: Server) -> None:
    client = Client(server.url)
    plain = client.chat(server.model, HI, options=SHORT)
    chunks = list(client.chat(server.model, HI, options=SHORT, stream=True))
    assert "".join(chunk.message.content for chunk in chunks) == plain.message.content
    assert chunks[-1].done_reason == plain.done_reason


def generate(server: Server) -> None:
    client = Client(server.url)
    plain = client.generate(server.model, "Hi", system="Be short", options=SHORT)
    chunks = client.generate(server.model, "Hi", system="Be short", options=SHORT, stream=True)
    assert "".join(chunk.response for chunk in chunks) == plain.response
    assert client.generate(server.model, "Hi", raw=True, options=SHORT).prompt_eval_count == 2


def models(server: Server) -> None:
    client = Client(server.url)
    names = [model.model for model in client.list().models]
    assert server.model + ":latest" in names
    shown = client.show(server.model)
    assert "completion" in shown.capabilities
    assert shown.details.parameter_size
    assert client.ps().models[0].expires_at is not None
    assert client.pull(server.model).status == "success"


def load(server: Server) -> None:
    assert Client(server.url).generate(server.model).done_reason == "load"


def logprobs(server: Server) -> None:
    answer = Client(server.url).chat(server.model, HI, options=SHORT, logprobs=True, top_logprobs=2)
    assert len(answer.logprobs) == answer.eval_count
    assert len(answer.logprobs[0].top_logprobs) == 2


def errors(server: Server) -> None:
    client = Client(server.url)
    assert raises(ollama.ResponseError, lambda: client.chat("other", HI)).status_code == 404
    raises(ollama.ResponseError, lambda: client.embed(server.model, "Hi"))
    raises(ollama.ResponseError, lambda: list(client.chat("other", HI, stream=True)))


def json_answer(server: Server) -> None:
    answer = Client(server.url).chat(server.model, HI, format=WEATHER)
    assert set(json.loads(answer.message.content)) == {"city", "days"}


def tool_result(server: Server) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Kiel", "days": 1}}}
    messages = [
        *HI,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Sun", "tool_name": "weather"},
    ]
    answer = Client(server.url).chat(server.model, messages, tools=[TOOL], options=SHORT)
    assert answer.done


report(
    {
        "chat": chat,
        "streamed chat": streamed_chat,
        "generate": generate,
        "models": models,
        "load": load,
        "log-probabilities": logprobs,
        "errors": errors,
        "answer by a schema": json_answer,
        "tools and a result": tool_result,
    }
)
