"""Token ids of a rendered chat: exactly those of `transformers`' apply_chat_template, except that
no text of a caller becomes a control token.

**Control tokens** are all special tokens, and of the other added tokens those that the chat
template writes (as `transformers` counts them for sanitize_control_tokens): they begin turns and
tool calls in vocabularies that forgot to call them special. Every other added token, such as a run
of spaces or a word of a later vocabulary, stays usable in a message.

**Where a control token comes from** is known by marks, put only into text that spells one or could
spell one together with what a template writes around it. A text without marks, nearly every one,
is tokenized as a whole. Only when the tokenizer takes a caller's text for a control token is the
chat tokenized again, by a copy in which control tokens have names that nobody can write.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer as HfTokenizer

from shoal.text.template_language import MARKS
from shoal.text.tokenizer import Tokenizer

_START, _END, _BREAK, _TAG = MARKS
_MAX_PATTERN_DEPTH = 20
_MARK_OR_ALIAS = re.compile("[\ufdd0-\ufddf]")
CONTINUE_TAG = f"{_TAG} "
"""Stands behind a message that the model continues. The space tells whether it was trimmed."""


class Span(NamedTuple):
    """A control token's name in a text, code points."""

    start: int
    end: int


Offset = tuple[int, int]
"""Where a token's text begins and ends, code points."""


class _Place(NamedTuple):
    """A part of an aliased text: where it begins there, where in the chat's text, its size there
    in code points."""

    in_aliased: int
    in_text: int
    size: int


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A chat's text, and the control tokens in it that the template wrote."""

    text: str
    controls: Sequence[Span] = ()
    has_marks: bool = False
    """A caller's text spells control tokens, or parts of them."""


class ControlTokens:
    """The control tokens of one tokenizer under one template."""

    def __init__(self, tokenizer: Tokenizer, template_texts: Iterable[str]) -> None:
        """`template_texts`: what the template writes by itself."""
        written = "\0".join(template_texts)
        self._tokenizer = tokenizer
        self._ids = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens.items()
            if token_id in tokenizer.special_ids
            or (token.content in written and not token.content.isspace())
        }
        self._id_set = frozenset(self._ids.values())
        self._pattern = re.compile(_longest_of(self._ids) or "(?!)")
        cuts = [(name, at) for name in self._ids for at in range(1, len(name))]
        self._beginnings = frozenset(name[:at] for name, at in cuts)
        self._endings = frozenset(name[at:] for name, at in cuts)
        self._first_chars = frozenset(name[:1] for name in self._ids)
        self._last_chars = frozenset(name[-1:] for name in self._ids)
        self._all_names = _BREAK.join(self._ids)
        self._longest_part = max(map(len, self._ids), default=1) - 1

    def is_control(self, text: str) -> bool:
        """Is it the name of one?"""
        return text in self._ids

    # --- marks ---------------------------------------------------------------------------------

    def mark(self, text: str) -> str:
        """A caller's text, marked where it spells control tokens. Our marks do not pass."""
        text = _MARK_OR_ALIAS.sub("\ufffd", text)
        before, after = self._open_ends(text)
        marked = self._pattern.sub(f"{_START}\\g<0>{_END}", text)
        return _BREAK * before + marked + _BREAK * after

    def locate(self, plain: str, marked: str) -> RenderedChat:
        """The control tokens of the template in a chat rendered twice: from the messages as they
        are, and from marked ones."""
        if plain == marked:
            spans = [Span(*match.span()) for match in self._pattern.finditer(plain)]
            return RenderedChat(plain, spans)
        text, names, spans, is_own = self._unmarked(marked)
        matches = list(self._pattern.finditer(plain))
        # A template that strips, splits or compares may do otherwise where it meets a mark. The
        # plain text is the right one, unless it has other control tokens.
        is_like_plain = all(is_own) or _squeezed(text) == _squeezed(plain)
        if is_like_plain and names == [match[0] for match in matches]:
            text, spans = plain, [Span(*match.span()) for match in matches]
        own = [span for span, template_wrote in zip(spans, is_own, strict=True) if template_wrote]
        return RenderedChat(text, own, has_marks=True)

    def _unmarked(self, marked: str) -> tuple[str, list[str], list[Span], list[bool]]:
        """(text, names of control tokens in it, where, whether the template wrote them)."""
        names, spans, is_own = list[str](), list[Span](), list[bool]()
        num_marks = end = 0
        for match in self._pattern.finditer(marked):
            num_marks += _count_marks(marked, end, match.start())
            end = match.end()
            names.append(match[0])
            spans.append(Span(match.start() - num_marks, end - num_marks))
            # One of the two marks is enough: a template may have cut the other off.
            before, after = marked[match.start() - 1 : match.start()], marked[end : end + 1]
            is_own.append(before != _START and after != _END)
        return _MARK_OR_ALIAS.sub("", marked), names, spans, is_own

    def _open_ends(self, text: str) -> tuple[bool, bool]:
        """Could the beginning of the text end a control token, its end (or all of it) lie
        inside one?"""
        longest = min(self._longest_part, len(text))
        lengths = range(1, longest + 1)
        before = not self._last_chars.isdisjoint(text[:longest]) and any(
            text[:length] in self._endings for length in lengths
        )
        after = not self._first_chars.isdisjoint(text[len(text) - longest :]) and any(
            text[-length:] in self._beginnings for length in lengths
        )
        return before, after or (bool(text) and text in self._all_names)

    # --- ids -----------------------------------------------------------------------------------

    def encode(self, chat: RenderedChat) -> list[int]:
        """Token ids; the template writes BOS itself where the model wants it."""
        if not chat.has_marks and not self._normalizes_into_controls:
            return self._tokenizer.encode(chat.text, add_special_tokens=False)
        found = self._tokenizer.library.encode_batch([chat.text], add_special_tokens=False)[0]
        if self._are_all_written(chat, found.ids, found.offsets):
            ids: list[int] = found.ids
            return ids
        return self._encode_with_aliases(chat)

    def encode_batch(self, chats: Sequence[RenderedChat]) -> list[list[int]]:
        """The same of many, on all cores where no text has marks."""
        if self._normalizes_into_controls or any(chat.has_marks for chat in chats):
            return [self.encode(chat) for chat in chats]
        texts = [chat.text for chat in chats]
        found = self._tokenizer.library.encode_batch_fast(texts, add_special_tokens=False)
        return [each.ids for each in found]

    def encode_beginnings(
        self, chat: RenderedChat, ids: Sequence[int], beginnings: Sequence[RenderedChat]
    ) -> list[list[int]]:
        """Token ids of beginnings of a chat's text, whose own ids are `ids`.

        A tokenizer looks for added tokens first, and at what stands between them piece by piece.
        So up to the last control token that both have, which is found in the chat's ids, the ids
        are the same; only the rest of each beginning is tokenized."""
        if self._normalizes_into_controls or any(x.has_marks for x in (chat, *beginnings)):
            return [self.encode(each) for each in beginnings]
        places = self._places(chat, ids)
        known: list[Sequence[int]] = []
        rests: list[str] = []
        for each in beginnings:
            last = len(each.controls) - 1
            is_found = 0 <= last < len(places) and each.controls[last] == chat.controls[last]
            known.append(ids[: places[last]] if is_found else [])
            rests.append(each.text[each.controls[last].start :] if is_found else each.text)
        different = list(dict.fromkeys(rests))
        found = dict(
            zip(different, self.encode_batch([*map(RenderedChat, different)]), strict=True)
        )
        return [[*head, *found[rest]] for head, rest in zip(known, rests, strict=True)]

    def _places(self, chat: RenderedChat, ids: Sequence[int]) -> list[int]:
        """Where in the ids each control token of a chat without marks is; none where the tokenizer
        makes others of the text, or something else of them."""
        places = [place for place, token_id in enumerate(ids) if token_id in self._id_set]
        names = (chat.text[start:end] for start, end in chat.controls)
        is_clear = [ids[place] for place in places] == [self._ids[name] for name in names]
        return places if is_clear else []

    def encode_with_offsets(self, chat: RenderedChat) -> tuple[list[int], list[Offset]]:
        """The same ids, and of which code points of the text each token is."""
        found = self._tokenizer.library.encode_batch([chat.text], add_special_tokens=False)[0]
        is_plain = not chat.has_marks and not self._normalizes_into_controls
        if is_plain or self._are_all_written(chat, found.ids, found.offsets):
            return found.ids, found.offsets
        text, places = self._with_aliases(chat)
        [found] = self._aliased.encode_batch([text], add_special_tokens=False)
        begins = [place.in_aliased for place in places]

        def original(at: int) -> int:
            place = places[bisect_right(begins, at) - 1]
            return place.in_text + min(at - place.in_aliased, place.size)

        ids = [self._id_of_aliased.get(token_id, token_id) for token_id in found.ids]
        return ids, [(original(start), original(end)) for start, end in found.offsets]

    def _are_all_written(
        self, chat: RenderedChat, ids: Sequence[int], offsets: Sequence[tuple[int, int]]
    ) -> bool:
        """Does every control token among the ids stand where the template wrote one? (A token may
        take the spaces around its name with it.)"""
        spans = iter(chat.controls)
        span = next(spans, None)
        for token_id, (start, end) in zip(ids, offsets, strict=True):
            if token_id not in self._id_set:
                continue
            if token_id in self._unknown_ids and not self._pattern.search(chat.text, start, end):
                continue  # a character that the vocabulary lacks
            while span is not None and span.start < start:
                span = next(spans, None)
            if span is None or span.end > end:
                return False
        return True

    def _encode_with_aliases(self, chat: RenderedChat) -> list[int]:
        text, _ = self._with_aliases(chat)
        # One of a batch, which releases the GIL.
        [found] = self._aliased.encode_batch_fast([text], add_special_tokens=False)
        return [self._id_of_aliased.get(token_id, token_id) for token_id in found.ids]

    def _with_aliases(self, chat: RenderedChat) -> tuple[str, list[_Place]]:
        """The copy's text, and where its parts stand in the chat's."""
        parts, places, at, length = list[str](), list[_Place](), 0, 0
        ends = (*chat.controls, Span(len(chat.text), len(chat.text)))
        for start, end in ends:
            name = chat.text[start:end]
            for begin, part, size in (
                (at, _MARK_OR_ALIAS.sub("\ufffd", chat.text[at:start]), start - at),
                (start, self._aliases[name] if name else "", len(name)),
            ):
                parts.append(part)
                places.append(_Place(length, begin, size))
                length += len(part)
            at = end
        return "".join(parts), places

    @cached_property
    def _normalizes_into_controls(self) -> bool:
        """May text that does not spell a control token become one? By a normalizer, or because
        the model's own vocabulary has it."""
        normalizes = self._tokenizer.library.normalizer is not None
        return any(
            (normalizes and self._tokenizer.added_tokens[token_id].normalized)
            or token_id in self._tokenizer.model_ids(name)
            for name, token_id in self._ids.items()
        )

    @cached_property
    def _unknown_ids(self) -> frozenset[int]:
        """What a character that no vocabulary has becomes, where that is a control token."""
        found = self._tokenizer.library.encode(_BREAK, add_special_tokens=False).ids
        return self._id_set.intersection(found)

    # --- the copy ------------------------------------------------------------------------------

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Names made of noncharacters, which nobody else gets into the copy's text."""
        digits = "0123456789"
        code = str.maketrans(digits, "".join(chr(0xFDD4 + int(digit)) for digit in digits))
        return {
            name: f"\ufdde{str(index).translate(code)}\ufddf"
            for index, name in enumerate(self._ids)
        }

    @cached_property
    def _aliased(self) -> HfTokenizer:
        definition = json.loads(self._tokenizer.library.to_str())
        definition.update(post_processor=None, truncation=None, padding=None)
        _rename(definition["model"], self._aliases)
        definition["added_tokens"] = [
            {
                "id": token_id,
                "content": self._aliases.get(token.content, token.content),
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                # So that no normalizer changes an alias.
                "normalized": token.normalized and token.content not in self._aliases,
                "special": token.special,
            }
            for token_id, token in sorted(self._tokenizer.added_tokens.items())
        ]
        return HfTokenizer.from_str(json.dumps(definition))

    @cached_property
    def _id_of_aliased(self) -> dict[int, int]:
        """The copy may number added tokens anew."""
        added = self._tokenizer.added_tokens.items()
        names = {i: self._aliases.get(token.content, token.content) for i, token in added}
        pairs = ((self._aliased.token_to_id(name), i) for i, name in names.items())
        return {alias_id: i for alias_id, i in pairs if alias_id is not None}


def _rename(model: dict[str, Any], aliases: dict[str, str]) -> None:
    """Renames vocabulary entries, so that the model cannot make them out of text."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {aliases.get(token, token): i for token, i in vocab.items()}
    else:  # Unigram: pairs of token and score
        model["vocab"] = [(aliases.get(token, token), score) for token, score in vocab]
    if "unk_token" in model:
        model["unk_token"] = aliases.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = (pair if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"])
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b}.intersection(aliases)]


def _longest_of(names: Collection[str], depth: int = 0) -> str:
    """A pattern of the longest name at a place. Common beginnings are looked at once, so that a
    text of many beginnings costs no more with many names."""
    rest = [name for name in names if name]
    is_optional = len(rest) < len(names)
    if depth == _MAX_PATTERN_DEPTH:
        branches = [re.escape(name) for name in sorted(rest, key=len, reverse=True)]
    else:
        groups: dict[str, list[str]] = {}
        for name in rest:
            groups.setdefault(name[0], []).append(name)
        branches = []
        for group in groups.values():
            size = _common(min(group), max(group))
            branches.append(
                re.escape(group[0][:size]) + _longest_of([n[size:] for n in group], depth + 1)
            )
    if not branches:
        return ""
    pattern = "|".join(branches)
    return f"(?:{pattern}){'?' * is_optional}" if is_optional or len(branches) > 1 else pattern


def _common(first: str, second: str) -> int:
    """Length of the beginning that two texts share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def _count_marks(text: str, start: int, end: int) -> int:
    return sum(text.count(mark, start, end) for mark in MARKS)


def _squeezed(text: str) -> str:
    return "".join(text.split())
