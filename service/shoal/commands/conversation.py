"""A conversation with a model: its turns, its settings, and how long the last answer took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.sampling import Sampling
from shoal.commands.terminal import writes_text

if TYPE_CHECKING:
    from shoal import Client

ROLES = ("system", "user", "assistant")


@dataclass(slots=True)
class Speed:
    """Of one answer. Times in seconds; `num_tokens` is None where the server did not say."""

    first_token_s: float
    total_s: float
    num_tokens: int | None
    prompt_tokens: int | None

    def __str__(self) -> str:
        parts = [f"first token {self.first_token_s * 1000:,.0f} ms"]
        if self.num_tokens is not None:
            parts.insert(0, f"{self.num_tokens:,} tokens")
            if self.num_tokens > 1 and (rest_s := self.total_s - self.first_token_s) > 0:
                parts.insert(1, f"{(self.num_tokens - 1) / rest_s:,.0f} tokens/s")
        if self.prompt_tokens is not None:
            parts.append(f"prompt {self.prompt_tokens:,} tokens")
        return " · ".join(parts)


@dataclass(slots=True)
class Conversation:
    """The turns so far and the parameters of the requests. `can_chat` False: the model has no chat
    template, and each message is a text that it continues, without memory."""

    client: Client
    model: str | None = None
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    can_chat: bool = True
    turns: list[dict[str, str]] = field(default_factory=list)
    show_reasoning: Callable[[str], None] = lambda text: None
    speed: Speed | None = None
    """Of the last answer."""
    finish_reason: str | None = None
    """Why the last answer ended; None if it was stopped."""

    @property
    def messages(self) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.turns

    def ask(self, text: str) -> Generator[str]:
        """Yields the answer in pieces. A partial answer stays in the conversation; a message that
        got no answer is removed, so that roles keep alternating. Raises shoal.Error."""
        self.turns.append({"role": "user", "content": text})
        self.speed = self.finish_reason = None
        pieces: list[str] = []
        first_s: float | None = None
        began_s = time.monotonic()
        try:
            with self._stream(text) as stream:
                for chunk in stream:
                    if chunk.choices:
                        self.finish_reason = chunk.choices[0].finish_reason or self.finish_reason
                    reasoning = chunk.reasoning_of(0) if self.can_chat else ""
                    self.show_reasoning(reasoning)
                    delta = chunk.text_of(0)
                    if first_s is None and (delta or reasoning):
                        first_s = time.monotonic() - began_s
                    if delta:
                        pieces.append(delta)
                        yield delta
            if first_s is not None:
                usage = stream.usage
                self.speed = Speed(
                    first_s,
                    time.monotonic() - began_s,
                    usage.completion_tokens if usage else None,
                    usage.prompt_tokens if usage else None,
                )
        finally:
            if pieces:
                self.turns.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self.turns.pop()

    def _stream(self, text: str) -> Any:
        params = self.sampling.given()
        if not self.can_chat:
            return self.client.completions.create(text, stream=True, model=self.model, **params)
        return self.client.chat.create(self.messages, stream=True, model=self.model, **params)

    def use_model(self, name: str) -> None:
        """Goes on with another model. Raises ValueError if the server does not have it, or if it
        writes no text."""
        models = self.client.models.list().data
        found = next((model for model in models if model.id == name), None)
        if found is None:
            raise ValueError(f"no model {name}; there are {', '.join(m.id for m in models)}")
        if not writes_text(found):
            raise ValueError(f"model {name} writes no text; it makes embeddings")
        self.model = name
        self.can_chat = not found.capabilities or "chat" in found.capabilities

    def take_back(self) -> str:
        """Removes the last message and its answer, and returns the message. Raises ValueError if
        there is none."""
        while self.turns:
            turn = self.turns.pop()
            if turn["role"] == "user":
                return turn["content"]
        raise ValueError("there is no message yet")

    def new(self) -> None:
        """Forgets the turns."""
        self.turns.clear()

    def save(self, file: Path) -> None:
        """Writes the model's name and the messages as JSON. Raises OSError."""
        saved = {"model": self.model, "messages": self.messages}
        text = json.dumps(saved, indent=2, ensure_ascii=False) + "\n"
        file.write_text(text, encoding="utf-8")

    def load(self, file: Path) -> None:
        """Goes on with what `save` wrote, but with the present model. Raises OSError, and
        ValueError for a file of another form; then the conversation stays as it was."""
        try:
            system, turns = _parse(json.loads(file.read_text(encoding="utf-8")))
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        self.system, self.turns = system, turns


def _parse(saved: object) -> tuple[str, list[dict[str, str]]]:
    """The system message and the turns. Raises ValueError."""
    if not isinstance(saved, dict) or saved.keys() != {"model", "messages"}:
        raise ValueError("it must be an object with model and messages")
    messages = saved["messages"]
    if not isinstance(messages, list):
        raise ValueError("messages must be a list")
    for number, message in enumerate(messages, 1):
        is_message = isinstance(message, dict) and message.keys() == {"role", "content"}
        if not is_message or not isinstance(message["content"], str):
            raise ValueError(f"message {number} must have a role and a text as content")
        if message["role"] not in ROLES:
            raise ValueError(f"message {number} has role {message['role']!r}")
        if message["role"] == "system" and number > 1:
            raise ValueError(f"message {number} is a system message: only the first may be")
    has_system = bool(messages) and messages[0]["role"] == "system"
    return (messages[0]["content"], messages[1:]) if has_system else ("", messages)
