"""`"x-copy": "prompt"` in a schema: a string that must occur in the user's own words.

The value is a run of whole words of the text, with the punctuation between them; it neither begins
nor ends with a space. Of a schema, the parts that lead to such a string become rules of Lark, the
rest stays JSON schema. Those parts may be objects of listed properties or of `propertyNames`
with an `enum`, arrays, `anyOf` and references that do not lead back to themselves.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.protocol.grammar import COPY_TOKEN
from shoal.text.grammar.errors import SchemaProblem
from shoal.text.grammar.spec import Schema

KEYWORD = "x-copy"
_PIECE = re.compile(r"\w+|\s+|[^\w\s]")
_ANNOTATIONS = {"title", "description", "default", "examples", "$comment", "$defs", "definitions"}
_STRING = {"type", KEYWORD} | _ANNOTATIONS
_OBJECT = {"type", "properties", "required", "additionalProperties"} | _ANNOTATIONS | {"$schema"}
_MAP = _ANNOTATIONS | {
    "type", "propertyNames", "properties", "additionalProperties", "maxProperties",
}  # fmt: skip
_ARRAY = {"type", "items", "minItems", "maxItems"} | _ANNOTATIONS
_MAX_PIECES = 20_000
_MAX_ITEMS = 1000


def has_copies(schema: object) -> bool:
    """Is any of its strings a copy?"""
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get(KEYWORD), str | bool | int | float):
                return True
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    return False


def copy_rules(schema: Schema, compact: Callable[[Schema], dict[str, Any]]) -> str:
    """Its grammar, in Lark. What is copied is a single token there. Raises SchemaProblem."""
    assert isinstance(schema, Mapping), "true and false have no copies"
    builder = _Builder(schema, compact)
    start = builder.rule_of(schema, "", ())
    rules = {"start": start, "copy": rf'"\"" {COPY_TOKEN} "\""'}
    rules |= {name: body for body, name in builder.rules.items()}
    return "\n".join(f"{name}: {body}" for name, body in rules.items())


def check_copy_text(text: str | None) -> None:
    """May strings be copied from it? Raises SchemaProblem."""
    if text is None:
        raise SchemaProblem(f"{KEYWORD} needs a single prompt to copy from")
    if not text.strip():
        raise SchemaProblem(f"{KEYWORD} needs a prompt with words or signs to copy")
    if len(text) <= _MAX_PIECES:
        return
    num_pieces = sum(1 for _ in _PIECE.finditer(text))
    if num_pieces > _MAX_PIECES:
        raise SchemaProblem(
            f"{KEYWORD}: the text to copy from has {num_pieces} words, signs and spaces, "
            f"at most {_MAX_PIECES} are possible"
        )


@dataclass(slots=True)
class _Builder:
    """Collects the rules; each method returns the name or the body of one."""

    root: Mapping[str, Any]
    compact: Callable[[Schema], dict[str, Any]]
    rules: dict[str, str] = field(default_factory=dict)
    """[body] name"""

    def rule_of(self, schema: Schema, path: str, seen: tuple[str, ...]) -> str:
        """`path`: where it stands in the schema, for errors. `seen`: references on the way."""
        if isinstance(schema, bool) or not self._leads_to_copy(schema, frozenset()):
            return self._plain(schema)
        if KEYWORD in schema:
            return self._copied(schema, path)
        if "$ref" in schema:
            return self._referenced(schema, path, seen)
        if "anyOf" in schema:
            _only(schema, {"anyOf"} | _ANNOTATIONS, path)
            options = [
                self.rule_of(option, f"{path}.anyOf.{index}", seen)
                for index, option in enumerate(schema["anyOf"])
            ]
            return self._add(" | ".join(options))
        if "propertyNames" in schema:
            return self._map(schema, path, seen)
        if "properties" in schema:
            return self._object(schema, path, seen)
        if "items" in schema:
            return self._array(schema, path, seen)
        raise SchemaProblem(f"{KEYWORD} cannot stand below these keywords", path)

    def _add(self, body: str) -> str:
        return self.rules.setdefault(body, f"rule_{len(self.rules)}")

    def _plain(self, schema: Schema) -> str:
        """A part without copies."""
        match schema:
            case {"const": str(value), **others} if not others:
                return _literal(value)  # quicker to compile than as a schema
        return self._add(f"%json {self._json(schema)}")

    def _json(self, schema: Schema) -> str:
        """A part that stays a schema, with the definitions it may refer to."""
        if isinstance(schema, Mapping):
            kept = {key: self.root[key] for key in ("$defs", "definitions") if key in self.root}
            schema = {**kept, **schema}
        return json.dumps(self.compact(schema), ensure_ascii=False)

    def _leads_to_copy(self, part: object, seen: frozenset[str]) -> bool:
        if isinstance(part, list):
            return any(self._leads_to_copy(item, seen) for item in part)
        if not isinstance(part, Mapping):
            return False
        if isinstance(part.get(KEYWORD), str | bool | int | float):
            return True
        reference = part.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            target = self._resolve(reference)
            if self._leads_to_copy(target, seen | {reference}):
                return True
        rest = (value for key, value in part.items() if key not in ("$defs", "definitions"))
        return any(self._leads_to_copy(value, seen) for value in rest)

    def _resolve(self, reference: str) -> object:
        part: object = self.root
        for name in reference.removeprefix("#").strip("/").split("/"):
            part = part.get(name) if isinstance(part, Mapping) else None
        return part

    def _copied(self, schema: Mapping[str, Any], path: str) -> str:
        _only(schema, _STRING, path)
        if schema[KEYWORD] != "prompt":
            raise SchemaProblem(f'{KEYWORD} must be "prompt"', path)
        if schema.get("type", "string") != "string":
            raise SchemaProblem(f"{KEYWORD} needs type string", path)
        return "copy"

    def _referenced(self, schema: Mapping[str, Any], path: str, seen: tuple[str, ...]) -> str:
        _only(schema, {"$ref"} | _ANNOTATIONS, path)
        reference = str(schema["$ref"])
        target = self._resolve(reference)
        if reference in seen or not isinstance(target, Mapping):
            raise SchemaProblem(f"{KEYWORD} cannot stand below this reference", f"{path}.$ref")
        return self.rule_of(target, path, (*seen, reference))

    def _object(self, schema: Mapping[str, Any], path: str, seen: tuple[str, ...]) -> str:
        """Properties in their order; the optional ones may be left out."""
        _only(schema, _OBJECT, path)
        required = set(schema.get("required", ()))
        if schema.get("additionalProperties", False) is not False or (
            required - schema["properties"].keys()
        ):
            raise SchemaProblem(
                f"an object that holds {KEYWORD} has only the properties it lists", path
            )
        members = [
            (f"{_key(name)} {self.rule_of(value, f'{path}.properties.{name}', seen)}",
             name in required)
            for name, value in schema["properties"].items()
        ]  # fmt: skip
        return self._add(f'"{{" {self._members(members)} "}}"')

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """What follows a member begins with a comma: `first` has none before it, `later` has."""
        later, first = '""', '""'
        for member, is_required in reversed(members):
            after = self._add(f'"," {member} {later}' + ("" if is_required else f" | {later}"))
            first = self._add(f"{member} {later}" + ("" if is_required else f" | {first}"))
            later = after
        return first

    def _map(self, schema: Mapping[str, Any], path: str, seen: tuple[str, ...]) -> str:
        """Members in any order, those in `properties` with values of their own. That no name occurs
        twice is not enforced."""
        _only(schema, _MAP, path)
        names = schema["propertyNames"]
        names = names.get("enum") if isinstance(names, Mapping) and len(names) == 1 else None
        most = schema.get("maxProperties")
        if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
            raise SchemaProblem('propertyNames must be {"enum": [...]} here', path)
        if most is not None and not (isinstance(most, int) and 1 <= most <= _MAX_ITEMS):
            raise SchemaProblem(f"maxProperties must be 1 to {_MAX_ITEMS} here", path)
        own = schema.get("properties", {})
        keys: dict[str, list[str]] = {}  # by their value's rule
        for name in names:
            part = f"properties.{name}" if name in own else "additionalProperties"
            value = own[name] if name in own else schema["additionalProperties"]
            keys.setdefault(self.rule_of(value, f"{path}.{part}", seen), []).append(_key(name))
        member = self._add(" | ".join(f"({' | '.join(k)}) {value}" for value, k in keys.items()))
        return self._add(f'"{{" ({_list(member, 1, most)})? "}}"')

    def _array(self, schema: Mapping[str, Any], path: str, seen: tuple[str, ...]) -> str:
        _only(schema, _ARRAY, path)
        fewest, most = schema.get("minItems", 0), schema.get("maxItems")
        if not isinstance(fewest, int) or not (most is None or isinstance(most, int)):
            raise SchemaProblem("minItems and maxItems must be integers", path)
        if not 0 <= fewest <= (fewest if most is None else most) <= _MAX_ITEMS:
            raise SchemaProblem(f"arrays have 0 to {_MAX_ITEMS} items here", path)
        item = self.rule_of(schema["items"], f"{path}.items", seen)
        if most == 0:
            return self._add('"[" "]"')
        items = _list(item, max(fewest, 1), most)
        return self._add(f'"[" {items} "]"' if fewest else f'"[" ({items})? "]"')


def _list(item: str, fewest: int, most: int | None) -> str:
    """With commas between them, at least one."""
    if most == 1:
        return item
    return f'{item} ("," {item}){{{fewest - 1},{"" if most is None else most - 1}}}'


def _key(name: str) -> str:
    """A property's name and its colon, as they stand in Lark."""
    return _literal(name, ":")


def _literal(text: str, behind: str = "") -> str:
    """A string of JSON, as it stands in Lark."""
    return json.dumps(json.dumps(text, ensure_ascii=False) + behind, ensure_ascii=False)


def _only(schema: Mapping[str, Any], known: set[str], path: str) -> None:
    if others := sorted(schema.keys() - known):
        raise SchemaProblem(f"{others[0]} cannot stand beside or above {KEYWORD}", path)
