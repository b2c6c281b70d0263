"""Grammars with copies: as the server writes them, and with the words of the prompt as a part."""

import json
import re
from typing import Any

from shoal.text.grammar.copying import copy_rules
from shoal.text.grammar.source import compact


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
