"""A key and a prompt that must show up nowhere: every server process of the tests is given them
before it ends, and all that it wrote is searched."""

import json
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

KEY = "canary-key-7f3a91c2"
PROMPT = "canary-prompt-5be0d417"
BODIES = {
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 1},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1, "n": PROMPT,
    },
    "/v1/embeddings": {"input": PROMPT},
}  # fmt: skip
PAGES = ("/metrics", "/load", "/openapi.json", "/v1/models")


def seen_in(text: str) -> list[str]:
    """What of the canaries a text has."""
    return [canary for canary in (KEY, PROMPT) if canary in text]


def show(url: str) -> list[str]:
    """Sends the canaries to a server that runs; where its refusals and its pages repeat them."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    found = []
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        for path, body in BODIES.items():
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status >= 400 and seen_in(text):
                found.append(path)
        for path in PAGES:
            connection.request("GET", path, headers=headers)
            if seen_in(connection.getresponse().read().decode()):
                found.append(path)
    except (OSError, HTTPException):  # it is on its way out
        pass
    finally:
        connection.close()
    return found
