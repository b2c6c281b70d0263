# client: huggingface_hub
"""huggingface_hub's InferenceClient.text_generation, as with text-generation-inference."""

import json
import re

from checks import WEATHER, Server, raises, report
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError


def client(server: Server) -> InferenceClient:
    return InferenceClient(server.url)


def plain(server: Server) -> None:
    text = client(server).text_generation("Once", max_new_tokens=12)
    full = client(server).text_generation("Once", max_new_tokens=12, return_full_text=True)
    assert full == "Once" + text


def details(server: Server) -> None:
    answer = client(server).text_generation(
        "Once", max_new_tokens=12, details=True, decoder_input_details=True, top_n_tokens=2
    )
    assert answer.details.generated_tokens == len(answer.details.tokens)
    assert answer.details.finish_reason in ("length", "eos_token")
    assert [token.text for token in answer.details.prefill] == list("Once")
    assert answer.details.prefill[0].logprob is None


def streamed(server: Server) -> None:
    plain = client(server).text_generation("Once", max_new_tokens=12)
    pieces = list(client(server).text_generation("Once", max_new_tokens=12, stream=True))
    assert "".join(pieces) == plain


def streamed_details(server: Server) -> None:
    chunks = list(
        client(server).text_generation("Once", max_new_tokens=12, stream=True, details=True)
    )
    assert chunks[-1].details.generated_tokens == len(chunks)
    assert chunks[-1].generated_text == "".join(chunk.token.text for chunk in chunks)


def sampled(server: Server) -> None:
    asked = {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "seed": 4, "max_new_tokens": 8}
    texts = {client(server).text_generation("Once", **asked) for _ in range(2)}
    assert len(texts) == 1
    best = client(server).text_generation("Once", **asked, best_of=2, details=True)
    assert len(best.details.best_of_sequences) == 1


def errors(server: Server) -> None:
    ask = client(server).text_generation
    error = raises(ValidationError, lambda: ask("Once", max_new_tokens=10**6))
    assert "maximum context length" in str(error)
    raises(ValidationError, lambda: ask("Once", watermark=True))


def grammar(server: Server) -> None:
    text = client(server).text_generation(
        "Once", max_new_tokens=200, grammar={"type": "json", "value": WEATHER}
    )
    assert set(json.loads(text)) == {"city", "days"}
    date = client(server).text_generation(
        "Once", grammar={"type": "regex", "value": "[0-9]{4}-[0-9]{2}"}
    )
    assert re.fullmatch("[0-9]{4}-[0-9]{2}", date)


report(
    {
        "plain": plain,
        "details": details,
        "streamed": streamed,
        "streamed details": streamed_details,
        "sampled": sampled,
        "errors": errors,
        "grammar": grammar,
    }
)
