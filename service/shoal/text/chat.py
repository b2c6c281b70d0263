"""A model's chats: from messages to the text and the token ids of a prompt."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from shoal.errors import InvalidRequest, ModelFolderError, NotSupportedByModel
from shoal.text.chat_template import ChatTemplate, OverLimit
from shoal.text.chat_tokens import CONTINUE_TAG, ControlTokens, Offset, RenderedChat, Span
from shoal.text.own_text import OwnText
from shoal.text.reasoning import ReasoningMarks, reasoning_marks
from shoal.text.template_language import GENERATED_MARKS
from shoal.text.tokenizer import Tokenizer
from shoal.text.tools.history import TemplateInput, template_input
from shoal.text.tools.support import ToolSupport, find_support
from shoal.text.tools.table import format_of
from shoal.text.tools.tool import Tool

_PLAIN_KEY = re.compile("[A-Za-z0-9_-]*")
_SAMPLE_ROLES = (("user", "assistant", "user"), ("system", "user"), ("tool",))


class Chat:
    """The chat templates of one model, and its control tokens."""

    def __init__(
        self,
        name: str,
        templates: Mapping[str, str],
        tokenizer: Tokenizer,
        *,
        problem: str | None = None,
    ) -> None:
        """`templates`: Jinja sources by name; `problem`: why there are none. A template that is
        not valid makes no error before a chat needs it: the model serves everything else."""
        self._name = name
        self._problems = {"default": problem} if problem else {}
        self._variables: dict[str, Any] = dict(tokenizer.special_tokens)
        if tokenizer.additional_special_tokens:
            self._variables["additional_special_tokens"] = tokenizer.additional_special_tokens
        self._templates: dict[str, ChatTemplate] = {}
        for template_name, source in templates.items():
            try:
                self._templates[template_name] = ChatTemplate(source)
            except ModelFolderError as error:
                self._problems[template_name] = f"chat template {template_name!r}: {error.message}"
        self._added_tokens = [token.content for token in tokenizer.added_tokens.values()]
        self._control = ControlTokens(tokenizer, self._template_texts())
        if self._templates.keys() & {"default", "tool_use"}:
            _ = self.tool_support  # renders, for which no request should wait

    @property
    def remarks(self) -> tuple[str, ...]:
        """Templates that cannot be used and why, for the operator."""
        return tuple(f"cannot be used: {problem}" for problem in self._problems.values())

    @property
    def source(self) -> str | None:
        """The template that chats without tools use."""
        template = self._templates.get("default")
        return template.source if template else None

    @cached_property
    def reasoning(self) -> ReasoningMarks | None:
        """The marks of the model's reasoning, where its templates or its tokens show some."""
        sources = (template.source for template in self._templates.values())
        return reasoning_marks("\0".join((*sources, *self._added_tokens)))

    @cached_property
    def tool_support(self) -> ToolSupport:
        """What the template makes of tools. Raises NotSupportedByModel without a template."""
        template = self._templates.get("tool_use") or self._template(has_tools=False)

        def render(
            messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
        ) -> str:
            return template.render(
                self._all_variables(messages, tools, {}, True), max_chars=100_000
            )

        return find_support(render, format_of(template.source, self._added_tokens))

    def prepare(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> TemplateInput:
        """Messages with calls, results and tools as `render` takes them."""
        try:
            return template_input(messages, tools, self.tool_support)
        except RecursionError as error:
            raise _too_deep() from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        given: Mapping[str, Any],
        add_generation_prompt: bool,
        continue_final_message: bool,
        max_chars: int,
        tools: Sequence[Mapping[str, Any]] | None = None,
        may_wait: bool = True,
        is_watched: bool = True,
        spells_controls: bool | None = None,
    ) -> RenderedChat:
        """The prompt. `given`: further variables of the caller, which cannot replace ours. Roles
        are trusted: the caller has checked them. `spells_controls`: what the method of that name
        says of these texts, where it is known. Raises NotSupportedByModel without a template,
        InvalidRequest when it refuses the messages; `may_wait`, `is_watched` and MustWait are those
        of `ChatTemplate.render`."""
        template = self._template(has_tools=bool(tools))

        def rendered(inputs: Mapping[str, Any]) -> str:
            messages = inputs["messages"]
            if continue_final_message:
                final = {**messages[-1], "content": messages[-1]["content"] + CONTINUE_TAG}
                messages = [*messages[:-1], final]
            variables = self._all_variables(
                messages, inputs["tools"], inputs["given"], add_generation_prompt
            )
            text = template.render(
                variables, max_chars=max_chars, may_wait=may_wait, is_watched=is_watched
            )
            return _cut_at_tag(text) if continue_final_message else text

        inputs = _inputs(messages, given, tools)
        plain = rendered(inputs)
        if continue_final_message and messages[-1]["content"].strip() not in plain:
            raise _changes_final_message()
        marked = plain
        if (
            spells_controls is not False
            and (marked_inputs := self._marked_inputs(inputs)) != inputs
        ):
            marked = rendered(marked_inputs)
        return self._control.locate(plain, marked)

    def spells_controls(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        given: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> bool:
        """Does a text in them spell a control token, or a part that a template could complete?"""
        inputs = _inputs(messages, given, tools)
        return self._marked_inputs(inputs) != inputs

    def generated(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        given: Mapping[str, Any],
        max_chars: int,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[str, list[Span]] | None:
        """The text that `render` makes without the beginning of an answer, and what of it stands
        in generation blocks; None where the template has none of them. Raises as `render`."""
        template = self._template(has_tools=bool(tools))
        if not template.has_generation_blocks:
            return None
        variables = self._all_variables(list(messages), list(tools or ()) or None, given, False)
        marked = template.render(variables, max_chars=max_chars, marks_generated=True)
        begin, end = GENERATED_MARKS
        text, spans, start = "", list[Span](), 0
        for part in re.split(f"([{begin}{end}])", marked):
            if part == begin:
                start = len(text)
            elif part == end:
                spans.append(Span(start, len(text)))
            else:
                text += part
        return text, spans

    def encode(self, chat: RenderedChat) -> list[int]:
        """Token ids of the prompt."""
        return self._control.encode(chat)

    def encode_batch(self, chats: Sequence[RenderedChat]) -> list[list[int]]:
        """Token ids of many."""
        return self._control.encode_batch(chats)

    def encode_beginnings(
        self, chat: RenderedChat, ids: Sequence[int], beginnings: Sequence[RenderedChat]
    ) -> list[list[int]]:
        """Token ids of beginnings of a chat's text, whose own ids are `ids`: only what they do not
        share with it is tokenized."""
        return self._control.encode_beginnings(chat, ids, beginnings)

    def encode_with_offsets(self, chat: RenderedChat) -> tuple[list[int], list[Offset]]:
        """Token ids, and of which code points of the text each is."""
        return self._control.encode_with_offsets(chat)

    def is_control(self, text: str) -> bool:
        """Is it the name of a control token?"""
        return self._control.is_control(text)

    def _all_variables(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        given: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> dict[str, Any]:
        return {
            **given,
            **self._variables,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }

    def _marked_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            marked = {name: self._marked(value) for name, value in inputs.items()}
        except RecursionError as error:
            raise _too_deep() from error
        for marked_message, message in zip(marked["messages"], inputs["messages"], strict=True):
            marked_message["role"] = message["role"]  # no free text: one of a few words
            for call in marked_message.get("tool_calls") or ():
                call["type"] = "function"
        for tool in marked["tools"] or ():
            tool["type"] = "function"
        return marked

    def _marked(self, value: Any) -> Any:
        """Every string in the value, marked; of the keys those that are no plain names, which only
        a caller can have written."""
        if isinstance(value, OwnText):
            return value.marked(self._control.mark)
        if isinstance(value, str):
            return self._control.mark(value)
        if isinstance(value, list):
            return [self._marked(item) for item in value]
        if isinstance(value, Mapping):
            return {
                key if _PLAIN_KEY.fullmatch(key) else self._control.mark(key): self._marked(item)
                for key, item in value.items()
            }
        return value

    def _template(self, *, has_tools: bool) -> ChatTemplate:
        for name in ("tool_use", "default") if has_tools else ("default",):
            if name in self._templates:
                return self._templates[name]
            if name in self._problems:
                raise NotSupportedByModel(
                    f"model {self._name} cannot chat: {self._problems[name]}"[:500],
                    param="messages",
                    hint="use /v1/completions, or correct the template in the model's folder",
                )
        others = f", only {', '.join(sorted(self._templates))}" if self._templates else ""
        raise NotSupportedByModel(
            f"model {self._name} has no chat template{' named default' * bool(others)}{others}",
            param="messages",
            hint="use /v1/completions with a plain prompt",
        )

    def _template_texts(self) -> list[str]:
        """What the templates write by themselves: their own text, and what they make of small
        chats, since some put names together ("<" + role + ">")."""
        texts: list[str] = []
        for name, template in list(self._templates.items()):
            texts += template.literals
            for roles in _SAMPLE_ROLES:
                messages = [{"role": role, "content": ""} for role in roles]
                variables = self._all_variables(messages, None, {}, True)
                try:
                    texts.append(template.render(variables, max_chars=100_000))
                except OverLimit as error:  # nor will it do with a larger chat
                    self._problems[name] = f"chat template {name!r}: {error.message}"
                    del self._templates[name]
                    break
                except InvalidRequest:
                    continue  # not a chat for this template
        return texts


def _inputs(
    messages: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """What a caller gives to a template."""
    return {"messages": list(messages), "given": given, "tools": list(tools or ()) or None}


def _cut_at_tag(text: str) -> str:
    """The prompt up to the end of the message that is continued."""
    at = text.rfind(CONTINUE_TAG.rstrip())
    if at < 0:
        raise _changes_final_message()
    is_trimmed = not text.startswith(CONTINUE_TAG, at)
    text = text[:at].replace(CONTINUE_TAG, "")  # a template may write the message twice
    return text.rstrip() if is_trimmed else text


def _too_deep() -> InvalidRequest:
    return InvalidRequest("arguments of a call are nested too deep", param="messages")


def _changes_final_message() -> InvalidRequest:
    return InvalidRequest("the template changes the final message", param="messages")
