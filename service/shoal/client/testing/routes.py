"""A plausible reply to every route, for programs whose tests care about few of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import bodies
from .server import DONE, Canned, Part, SeenRequest, json_reply

TEXT = "Hello!"
_FIXED: Mapping[tuple[str, str], Any] = {
    ("GET", "/v1/models"): bodies.models_json(["test"]),
    ("GET", "/v1/usage"): {"object": "list", "data": []},
    ("GET", "/health"): {"status": "ok", "models": {}},
    ("GET", "/readyz"): {"status": "ok", "models": {}},
    ("GET", "/version"): {"version": "test", "models": {}},
    ("GET", "/load"): {"models": {}},
    ("GET", "/metrics"): b"",
    ("POST", "/tokenize"): {"count": 3, "tokens": [1, 2, 3], "max_model_len": 2048},
    ("POST", "/detokenize"): {"prompt": TEXT},
    ("POST", "/v1/perplexity"): bodies.perplexity_json(8.0, 10, 40),
    ("POST", "/admin/cache/reset"): {},
    ("POST", "/admin/drain"): {},
}


def answer_anything(seen: SeenRequest) -> Canned:
    """A success for every call of the SDK: `MockServer(answer_anything)`."""
    body, path = seen.json or {}, seen.path
    if (seen.method, path) in _FIXED:
        return json_reply(_FIXED[seen.method, path])
    if path == "/v1/completions":
        text = bodies.completion_event(TEXT), bodies.completion_event("", finish_reason="stop")
        return _generated(body, bodies.completion_json(TEXT), text)
    if path == "/v1/chat/completions":
        first = bodies.chat_event({"role": "assistant", "content": TEXT})
        return _generated(
            body, bodies.chat_json(TEXT), (first, bodies.chat_event({}, finish_reason="stop"))
        )
    if path == "/v1/score_choices":
        return json_reply(bodies.scores_json([-1.0 - i for i in range(len(body["choices"]))]))
    if path == "/v1/embeddings":
        given = body["input"]
        is_one = isinstance(given, str) or all(isinstance(part, int) for part in given)
        num_inputs = 1 if is_one else len(given)
        return json_reply(bodies.embeddings_json([[1.0, 0.0]] * num_inputs))
    if re.fullmatch(r"/v1/requests/[^/]+/cancel", path):
        return json_reply({"cancelled": True, "tokens_generated": 1})
    if found := re.fullmatch(r"/v1/models/(.+)", path):
        return json_reply(bodies.model_json(found[1]))
    if re.fullmatch(r"/admin/(models|lora)/load", path):
        return json_reply(bodies.model_json(body["name"]))
    if re.fullmatch(r"/admin/(models|lora)/unload", path):
        return json_reply({"id": body["name"], "object": "model", "unloaded": True})
    error = {"message": f"no route {path}", "type": "invalid_request_error", "code": "unknown_url"}
    return json_reply({"error": error}, status=404)


def _generated(body: Mapping[str, Any], whole: Any, events: tuple[Any, ...]) -> Canned:
    if not body.get("stream"):
        return json_reply(whole)
    usage = {**events[-1], **bodies.usage_of((TEXT,))}
    parts: tuple[Part, ...] = (*events, usage, DONE)
    return Canned(headers={"content-type": "text/event-stream; charset=utf-8"}, parts=parts)
