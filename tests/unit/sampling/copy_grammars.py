"""Grammars with copies: as the server writes them, and with the words of the prompt as a part; a
vocabulary whose tokens begin, end and cross them."""

import json
import re
from typing import Any

from shoal.text.grammar.copying import copy_rules
from shoal.text.grammar.source import compact

COPY = {"type": "string", "x-copy": "prompt"}
END_ID = 256
WORDS = ['":"', '","', '":', '"}', '{"', '"]', '["', '":"r', '"r', '"re', "red", " red", "red ",
         "re", "ed", "blue", " blue", "ue", 'ue"', 'red"', 'red","', '","r', '","red","', " a",
         "a a", '\\"', '\\"r', 'd\\"', "\\n", "d\\n", "\\nb", "nul", "1", '"."', '"a"', 'a"]', "é",
         " é", "😀", "\u00a0"]  # fmt: skip
TOKENS = [*(bytes([byte]) for byte in range(256)), b"<end>", *(word.encode() for word in WORDS),
          b"\xc3", b"\xa9a", b"red", b"", b"\xa9 r", b"\x9f\x98\x80\""]  # fmt: skip
TEXTS = [
    "red and blue", 'say "re", or\n"red"', "a a a b", "don't re-do", "réd é a", "red",
    "\u00a0red\u2003blue\n ", "C:\\new \\ n", "😀red 😀 a", '"."r', "\x0bred\x1cblue\x01",
    "red  \n blue",
]  # fmt: skip


def encode(text: str) -> list[int]:
    """The longest token first."""
    data, ids = text.encode(), []
    while data:
        token = max((t for t in TOKENS if t and data.startswith(t)), key=len)
        ids.append(TOKENS.index(token))
        data = data[len(token) :]
    return ids


def copy_grammar(schema: Any) -> str:
    """As an engine gets it."""
    return _lark(copy_rules(schema, compact))


def whole_grammar(schema: Any, text: str) -> str:
    """The reference: llguidance finds the runs of whole pieces of the text, of which those that
    begin or end with spaces, tabs or line breaks are left out."""
    pieces = re.findall(r"\w+|\s+|[^\w\s]", text)
    chunks = [json.dumps(piece, ensure_ascii=False)[1:-1] for piece in pieces]
    substring = json.dumps({"substring_chunks": chunks}, ensure_ascii=False)
    edge = r"/([^ \\]|\\[^nrt])(([^\\]|\\.)*([^ \\]|\\[^nrt]))?/"
    copy = f'copy: "\\"" COPIED "\\""\nPART: %regex {substring}\nCOPIED: PART & {edge}'
    rules = copy_rules(schema, compact).split("\n")
    return _lark("\n".join([*(rule for rule in rules if not rule.startswith("copy:")), copy]))


def _lark(lark: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": lark}]}, ensure_ascii=False)
