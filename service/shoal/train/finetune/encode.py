"""Rows as token ids: rendered by the base's own template and tokenized as the server does, so that
at serving the model sees the very prefix that it was taught with.

- **Chats** (and pairs, where the base has a chat template): `turns.py` says what is learned.
- **Pairs without a template**: the prompt as /v1/completions feeds it, then the completion and the
  end token, which are learned.
- **Texts**: as /v1/completions feeds them, then the end token; all is learned. What is longer than
  the model may read is cut into windows, of which each begins with the last token of the one
  before, so that every token is learned once.

Where a tokenizer would join the end of a prompt and the beginning of an answer in one token, the
prompt's ids are the server's and the answer goes on behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from shoal.errors import InvalidRequest, NotSupportedByModel
from shoal.text.chat_tokens import RenderedChat
from shoal.text.text_model import TextModel
from shoal.train.config import RecipeError
from shoal.train.finetune.rows import EncodedRow, Row
from shoal.train.finetune.shapes import Kind
from shoal.train.finetune.turns import ChatDrafts, Draft, Turn, cut, cut_front, joined

_BATCH_ROWS = 128
_SHOWN = 3
_MAX_SAMPLE_CHARS = 400
_SHOWN_PROBLEMS = 5
_ANCHOR = "\n"
"""Stands before a text that goes on, while it is tokenized: no tokenizer joins it to a word, and a
space that one puts before a text's first word goes before it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as token ids, in order, and what was left out."""

    rows: list[EncodedRow]
    notes: tuple[str, ...]
    """A sentence each, for the user."""


Rest = TypeVar("Rest", str, RenderedChat)


class _Answer(NamedTuple):
    """What is learned of a row, token positions, and the end token that is to be added to it."""

    start: int
    end: int
    added: tuple[int, ...] = ()


@dataclass(slots=True)
class _LeftOut:
    """What is not learned."""

    refused: list[str] = field(default_factory=list)
    """By the template: where, and its words."""
    too_long: list[str] = field(default_factory=list)
    num_answers: int = 0
    """Of chats that are too long, but not up to an earlier answer."""
    num_unanswered: int = 0


class Encoder:
    """Makes token ids of rows for one base."""

    def __init__(self, model: TextModel, max_len: int) -> None:
        """`max_len`: most tokens of a row, at least 2."""
        if max_len < 2:
            raise RecipeError(f"{max_len} tokens hold no text and its end: use a larger length")
        self._model = model
        self._tokenizer = model.tokenizer
        self._max_len = max_len
        self._end_ids = frozenset(model.end_token_ids)
        self._end = model.end_token_ids[:1]
        """The token that ends texts; none where the base names none."""
        self._chats = ChatDrafts(model)
        self._has_template = model.chat.source is not None

    def describe(self, kind: Kind = "chat") -> str:
        """How rows of this kind are made into text, one line."""
        end = "".join(self._tokenizer.token_name(token_id) for token_id in self._end)
        if kind == "text":
            return f"texts as /v1/completions feeds them, each ended by {end or 'no token'}"
        if not self._has_template:
            problem = "".join(f" ({remark})" for remark in self._model.chat.remarks)
            return (
                f"no chat template{problem}: prompt and completion joined, then {end or 'no end'}"
            )
        sample = Row("", messages=_pair_messages("{prompt}", "{answer}"))
        try:
            [draft] = self._chats.drafts(sample)
        except InvalidRequest as error:
            return f"the base's chat template, which refuses a plain question: {error.message}"
        text = draft.text.text
        if draft.spans:
            learned = "".join(text[start:stop] for start, stop in draft.spans)
        else:
            turn = draft.turns[-1]
            learned = text[len(turn.prompt.text) :] + ("" if turn.has_end else end)
            text += "" if turn.has_end else end
        dated = "; it holds today's date" * ("strftime_now" in (self._model.chat.source or ""))
        if len(text) > _MAX_SAMPLE_CHARS:
            text = f"{text[: _MAX_SAMPLE_CHARS // 2]} ... {text[-_MAX_SAMPLE_CHARS // 2 :]}"
        return f"the base's chat template: {text!r}, learned is {learned!r}{dated}"

    def encode(self, row: Row) -> list[EncodedRow]:
        """One row; several where a text is cut, or where an answer of a chat needs a row of its
        own; none where it is too long. Raises RecipeError where the template refuses the row."""
        left_out = _LeftOut()
        encoded = self._encode([row], left_out)
        _check_refused(left_out.refused)
        return encoded

    def encode_all(
        self, rows: Sequence[Row], on_rows: Callable[[int], None] = lambda done: None
    ) -> Encoded:
        """Many rows, quicker. `on_rows`: told how many are done. Raises RecipeError that names up
        to five refused rows, or where nothing is left to learn."""
        left_out = _LeftOut()
        encoded: list[EncodedRow] = []
        for at in range(0, len(rows), _BATCH_ROWS):
            batch = rows[at : at + _BATCH_ROWS]
            encoded += self._encode(batch, left_out)
            on_rows(at + len(batch))
        _check_refused(left_out.refused)
        notes = tuple(self._notes(left_out))
        if rows and not encoded:
            raise RecipeError(f"nothing is left to learn: {'; '.join(notes)}")
        return Encoded(encoded, notes)

    # --- rows -----------------------------------------------------------------------------------

    def _encode(self, rows: Sequence[Row], left_out: _LeftOut) -> list[EncodedRow]:
        drafts = [self._drafts(row, left_out) for row in rows]
        ids_of = self._tokenized(draft for found in drafts for draft in found or ())
        encoded: list[EncodedRow] = []
        for row, found in zip(rows, drafts, strict=True):
            if row.text is not None:
                made = list(self._windows(row))
            elif found is None:
                made = self._from_pair(row, left_out)
            elif found:
                made = list(self._from_drafts(found, ids_of, left_out))
            else:  # counted already
                continue
            if not made:
                left_out.too_long.append(row.where)
            encoded += made
        return encoded

    def _drafts(self, row: Row, left_out: _LeftOut) -> list[Draft] | None:
        """The row as chats; None where it is none for this base."""
        chat = row
        if row.prompt is not None and row.completion is not None and self._has_template:
            chat = Row(row.where, messages=_pair_messages(row.prompt, row.completion))
        if not chat.messages:
            return None
        try:
            found = list(self._chats.drafts(chat))
        except NotSupportedByModel as error:
            raise RecipeError(
                f"{row.where} is a chat, but {error.message}; use pairs of prompt and "
                "completion, or texts"
            ) from error
        except InvalidRequest as error:
            left_out.refused.append(f"{row.where}: {error.message}")
            return []
        left_out.num_unanswered += not found
        return found

    def _from_pair(self, row: Row, left_out: _LeftOut) -> list[EncodedRow]:
        prompt, completion = row.prompt or "", row.completion or ""
        fed = self._tokenizer.encode(prompt) or self._start()
        alone, both = self._ids(prompt), self._ids(prompt + completion)
        if both[: len(alone)] == alone:
            answer = both[len(alone) :]
        else:
            answer = self._continued(fed, completion, self._ids)
        added = () if answer[-1:] == list(self._end) else self._end
        ids = [*fed, *answer, *added]
        return self._finished(row.where, ids, [_Answer(len(fed), len(ids))], left_out)

    def _windows(self, row: Row) -> Iterator[EncodedRow]:
        ids = self._tokenizer.encode(row.text or "")
        start = self._tokenizer.special_id(self._model.bos_token)
        if start is not None and ids[:2] == [start, start]:
            del ids[0]  # the text spells it too
        if row.is_end and ids[-1:] != list(self._end):
            ids += self._end
        if len(ids) < 2:
            ids = [*self._start(), *ids]
        for at in range(0, max(len(ids) - 1, 1), self._max_len - 1):
            window = np.array(ids[at : at + self._max_len], np.int32)
            in_loss = np.arange(len(window)) > 0
            yield EncodedRow(window, in_loss, row.where)

    def _start(self) -> list[int]:
        """What an empty prompt starts from."""
        start = self._model.start_token_id
        return [] if start is None else [start]

    # --- chats ----------------------------------------------------------------------------------

    def _tokenized(self, drafts: Iterable[Draft]) -> dict[int, list[int]]:
        """Ids of every text of the drafts, by id() of the text."""
        drafts = [draft for draft in drafts if not draft.spans]
        chats = {id(draft.text): draft.text for draft in drafts}
        found: dict[int, list[int]] = {}
        for has_marks in (False, True):  # those without are tokenized on all cores
            some = {key: chat for key, chat in chats.items() if chat.has_marks == has_marks}
            ids = self._model.chat.encode_batch([*some.values()])
            found.update(zip(some, ids, strict=True))
        for draft in drafts:
            prompts = [turn.prompt for turn in draft.turns]
            ids = self._model.chat.encode_beginnings(draft.text, found[id(draft.text)], prompts)
            found.update(zip(map(id, prompts), ids, strict=True))
        return found

    def _from_drafts(
        self, drafts: Sequence[Draft], ids_of: dict[int, list[int]], left_out: _LeftOut
    ) -> Iterator[EncodedRow]:
        for draft in drafts:
            if draft.spans:
                yield from self._from_blocks(draft, left_out)
            else:
                yield from self._from_turns(draft, ids_of, left_out)

    def _from_turns(
        self, draft: Draft, ids_of: dict[int, list[int]], left_out: _LeftOut
    ) -> Iterator[EncodedRow]:
        ids = ids_of[id(draft.text)]
        answers: list[_Answer] = []
        for turn in draft.turns:
            prompt = ids_of[id(turn.prompt)]
            if ids[: len(prompt)] == prompt:
                answers.append(self._answer(turn, ids, len(prompt), turn is draft.turns[-1]))
                continue
            rest = cut_front(turn.through, len(turn.prompt.text))
            whole = prompt + self._continued(prompt, rest, self._chat_ids)
            answer = self._answer(turn, whole, len(prompt), is_last=True)
            yield from self._finished(draft.where, whole, [answer], left_out)
        if answers:
            yield from self._finished(draft.where, ids, answers, left_out)

    def _answer(self, turn: Turn, ids: list[int], start: int, is_last: bool) -> _Answer:
        if turn.has_end:
            at = next((i for i in range(start, len(ids)) if ids[i] in self._end_ids), len(ids) - 1)
            return _Answer(start, at + 1)
        if is_last:
            return _Answer(start, len(ids), self._end)
        return _Answer(start, min(len(ids), len(self._model.chat.encode(turn.through))))

    def _from_blocks(self, draft: Draft, left_out: _LeftOut) -> Iterator[EncodedRow]:
        """By generation blocks. An end token right behind a block is learned with it."""
        ids, offsets = self._model.chat.encode_with_offsets(draft.text)
        answers: list[_Answer] = []
        for span in draft.spans:
            is_last = span is draft.spans[-1]
            inside = [
                i for i, (a, b) in enumerate(offsets) if a < span.end and b > max(a, span.start)
            ]
            if not inside:
                continue
            end = inside[-1] + 1
            ends = any(ids[i] in self._end_ids for i in inside)
            if not ends and end < len(ids) and ids[end] in self._end_ids:
                end, ends = end + 1, True
            added = self._end if is_last and not ends else ()
            if offsets[inside[0]][0] >= span.start:
                answers.append(_Answer(max(inside[0], 1), end, added))
                continue
            prompt = self._model.chat.encode(cut(draft.text, span.start))
            rest = cut_front(cut(draft.text, offsets[end - 1][1]), span.start)
            whole = prompt + self._continued(prompt, rest, self._chat_ids)
            alone = _Answer(len(prompt), len(whole), added)
            yield from self._finished(draft.where, whole, [alone], left_out)
        if answers:
            yield from self._finished(draft.where, ids, answers, left_out)

    def _finished(
        self, where: str, ids: list[int], answers: list[_Answer], left_out: _LeftOut
    ) -> list[EncodedRow]:
        """The row up to the end of its last answer that the model can read whole."""
        fitting = [each for each in answers if each.end + len(each.added) <= self._max_len]
        if not fitting:
            return []
        left_out.num_answers += len(answers) - len(fitting)
        last = fitting[-1]
        whole = np.array([*ids[: last.end], *last.added], np.int32)
        in_loss = np.zeros(len(whole), np.bool_)
        for answer in fitting:
            in_loss[answer.start : answer.end] = True
        in_loss[last.end :] = True
        in_loss[0] = False
        return [EncodedRow(whole, in_loss, where)]

    # --- borders --------------------------------------------------------------------------------

    def _continued(
        self, prompt: list[int], rest: Rest, encode: Callable[[Rest, str], list[int]]
    ) -> list[int]:
        """Ids of a text that goes on behind the prompt: those that the server would show as it.
        `encode`: ids of the rest with a text before it."""
        text = rest if isinstance(rest, str) else rest.text
        anchor = self._ids(_ANCHOR)
        behind, alone = encode(rest, _ANCHOR), encode(rest, "")
        if behind[: len(anchor)] != anchor:
            return alone
        behind = behind[len(anchor) :]
        for ids in (alone, behind):
            shown = self._tokenizer.detokenizer(prompt, skip_special_tokens=False)
            if "".join(map(shown.push, ids)) + shown.finish() == text:
                return ids
        return behind

    def _ids(self, text: str, before: str = "") -> list[int]:
        return self._tokenizer.encode(before + text, add_special_tokens=False)

    def _chat_ids(self, chat: RenderedChat, before: str) -> list[int]:
        return self._model.chat.encode(joined(RenderedChat(before), chat))

    # --- words ----------------------------------------------------------------------------------

    def _notes(self, left_out: _LeftOut) -> Iterator[str]:
        limit = f"{self._max_len:,} tokens"
        if long := left_out.too_long:
            more = f"; and {len(long) - _SHOWN:,} more" if len(long) > _SHOWN else ""
            places = "; ".join(long[:_SHOWN]) + more
            yield f"left out, longer than {limit}: {_rows(len(long))} ({places})"
        if left_out.num_answers:
            yield f"left out: {left_out.num_answers:,} answers of chats that end behind {limit}"
        if left_out.num_unanswered:
            yield f"left out: {left_out.num_unanswered:,} chats in which no message is answered"
        if not self._end:
            yield "the base names no end token: answers are taught without an end"


def _pair_messages(prompt: str, answer: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _check_refused(refused: list[str]) -> None:
    if not refused:
        return
    more = len(refused) - _SHOWN_PROBLEMS
    lines = "".join(f"\n  {problem}" for problem in refused[:_SHOWN_PROBLEMS])
    rest = f"\n  and {more:,} more" if more > 0 else ""
    raise RecipeError(
        f"the base's chat template refuses {_rows(len(refused))}, as the server would:{lines}{rest}"
    )
