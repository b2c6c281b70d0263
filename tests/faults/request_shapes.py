"""Request bodies whose parts are many, long or deep: what a body of any size may cost a server."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MIB = 1 << 20
Outcome = Literal["served", "refused"]


@dataclass(frozen=True)
class Shape:
    """A kind of body for one route, of any size."""

    name: str
    route: str
    build: Callable[[int], str]
    """The body of about so many bytes."""
    outcome: Outcome
    """Of `size` and of twice that, on a model with a context of 512 tokens."""
    size: int = MIB

    def body(self, times: int = 1) -> bytes:
        """Of `times` the size, never above the server's limit."""
        return self.build(min(self.size * times, 2 * MIB - 1000)).encode()


def _row(item: str, size: int) -> str:
    """As many of one item in a row as have the size, with commas."""
    return ",".join([item] * max(1, size // (len(item) + 1)))


def _array(name: str, item: str, rest: str = "") -> Callable[[int], str]:
    return lambda size: f'{{{rest}"{name}":[{_row(item, size)}]}}'


def _text(name: str, unit: str, rest: str) -> Callable[[int], str]:
    def build(size: int) -> str:
        return f'{{{rest}"{name}":"{unit * (size // len(unit.encode()))}"}}'

    return build


def _fields(rest: str, open_: str = "", close: str = "") -> Callable[[int], str]:
    """Many fields with names of their own."""

    def build(size: int) -> str:
        names = ",".join(f'"u{number:06}":1' for number in range(size // 12))
        return f"{{{rest}{open_}{names}{close}}}"

    return build


def _messages(message: str, num: int | None = None) -> Callable[[int], str]:
    """Many messages, or `num` that fill the size by unknown fields."""

    def build(size: int) -> str:
        if num is None:
            return f'{{"max_tokens":1,"messages":[{_row(message, size)}]}}'
        extras = "".join(f',"u{number:02}":1' for number in range(size // num // 8))
        filled = ",".join([message[:-1] + extras + "}"] * num)
        return f'{{"max_tokens":1,"messages":[{filled}]}}'

    return build


def _blocks(size: int) -> str:
    blocks = _row('{"type":"text","text":"some words"}', size)
    return f'{{"max_tokens":1,"messages":[{{"role":"user","content":[{blocks}]}}]}}'


def _calls(size: int) -> str:
    """Calls of one name, and results that name another tool."""
    call = '{"function":{"name":"f"}}'
    turn = '{"role":"assistant","tool_calls":[' + ",".join([call] * 100) + "]}"
    results = _row('{"role":"tool","content":"","tool_name":"g"}', size // 4)
    return f'{{"model":"MODEL","messages":[{_row(turn, size * 3 // 4)},{results}]}}'


def _prompts(unit: str, num: int) -> Callable[[int], str]:
    rest = '{"max_tokens":1,"truncate_prompt_tokens":8,"prompt":['

    def build(size: int) -> str:
        return rest + ",".join(['"' + unit * (size // num // len(unit)) + '"'] * num) + "]}"

    return build


def _choices(size: int) -> str:
    """A prompt that just fits, with as many choices as a request may have."""
    return f'{{"prompt":"{"a " * 120}","choices":[{_row(chr(34) + " b" + chr(34), size)}]}}'


def _tools(size: int) -> str:
    numbers = _row("1", size)
    function = f'{{"name":"f","parameters":{{"properties":{{"a":{{"enum":[{numbers}]}}}}}}}}'
    tool = f'{{"type":"function","function":{function}}}'
    return f'{{"messages":[{{"role":"user","content":"x"}}],"tools":[{tool}]}}'


def _schema(size: int) -> str:
    schema = f'{{"name":"s","schema":{{"enum":[{_row("1", size)}]}}}}'
    return f'{{"prompt":"x","response_format":{{"type":"json_schema","json_schema":{schema}}}}}'


def _nested(size: int) -> str:
    return '{"prompt":"x","zoo":' + "[" * (size // 2) + "]" * (size // 2) + "}"


CUT = '"max_tokens":1,"truncate_prompt_tokens":8,'
ONE = '"prompt":"x","max_tokens":1,'
USER = '{"role":"user","content":""}'

SHAPES = [
    # --- those of the fault list ---
    Shape("unknown fields", COMPLETIONS, _fields(ONE), "served", 350_000),
    Shape("very many unknown fields", COMPLETIONS, _fields(ONE), "refused"),
    Shape("wrong token ids", COMPLETIONS, _array("prompt", "999999999"), "refused"),
    Shape("token ids that are fractions", COMPLETIONS, _array("prompt", "1.5"), "refused"),
    Shape("token ids, cut", COMPLETIONS, _array("prompt", "1", CUT), "served"),
    Shape("prompts of one id", COMPLETIONS, _array("prompt", "[1]"), "refused", MIB // 2),
    Shape("256 texts", COMPLETIONS, _prompts("ab ", 256), "served", MIB // 2),
    Shape("empty messages", CHAT, _messages(USER), "refused", MIB // 2),
    Shape("messages with unknown fields", CHAT, _messages(USER, 1024), "refused", 120_000),
    Shape("unknown arrays", COMPLETIONS, _array("zoo", "[]", ONE), "refused", MIB // 2),
    Shape("fewer unknown arrays", COMPLETIONS, _array("zoo", "[]", ONE), "served", 48_000),
    Shape("one letter", COMPLETIONS, _text("prompt", "a", CUT), "served", 600_000),
    Shape("no spaces", COMPLETIONS, _text("prompt", "abcdefghij", CUT), "served", 600_000),
    Shape("combining marks", COMPLETIONS, _text("prompt", "e\u0301\u0302", CUT), "served", 600_000),
    Shape("emoji", COMPLETIONS, _text("prompt", "🎉", CUT), "served", 600_000),
    Shape("escapes", COMPLETIONS, _text("prompt", "\\n\\\"", CUT), "served", 600_000),
    Shape("long prompt", COMPLETIONS, _text("prompt", "words and ", ""), "refused"),
    Shape("long message", CHAT, lambda size: _messages(
        '{"role":"user","content":"' + "a b" * (size // 3) + '"}')(1), "refused"),
    Shape("deep", COMPLETIONS, _nested, "refused", 500),
    Shape("very deep", COMPLETIONS, _nested, "refused"),
    Shape("digits", COMPLETIONS, lambda size: '{"prompt":[' + "1" * size + "]}", "refused"),
    Shape("long integers", COMPLETIONS, _array("prompt", "1" * 19, CUT), "refused"),
    Shape("one name twice among many", COMPLETIONS, lambda size: _fields(ONE, "", ',"u000000":1')(
        size), "refused", 350_000),
    # --- further ones ---
    Shape("stop strings", COMPLETIONS, _array("stop", '"a"', ONE), "refused", 120_000),
    Shape("biases", COMPLETIONS, _fields(ONE, '"logit_bias":{', "}"), "refused", 350_000),
    Shape("allowed ids", COMPLETIONS, _array("allowed_token_ids", "1", ONE), "served"),
    Shape("allowed ids that are texts", CHAT, _array("allowed_token_ids", '"1"'), "refused",
          120_000),
    Shape("stop ids", COMPLETIONS, _array("stop_token_ids", '"a"', ONE), "refused", 120_000),
    Shape("variables of the template", CHAT, _fields(
        f'"messages":[{USER}],', '"chat_template_kwargs":{', "}"), "refused", 350_000),
    Shape("calls in a message", CHAT, _messages('{"role":"assistant","tool_calls":[' + _row(
        "{}", 3000) + "]}"), "refused", 48_000),
    Shape("a tool with a long list", CHAT, _tools, "refused"),
    Shape("tools", CHAT, _array("tools", "{}", f'"messages":[{USER}],'), "refused", 48_000),
    Shape("a schema with a long list", COMPLETIONS, _schema, "refused"),
    Shape("brackets in a schema's text", COMPLETIONS, _text("guided_json", "[],", ONE), "refused"),
    Shape("choices of an answer", COMPLETIONS, _array("guided_choice", '"abc"', ONE), "refused",
          180_000),
    Shape("a long pattern", COMPLETIONS, _text("guided_regex", "(a|b)*", ONE), "refused"),
    Shape("text to ids", "/tokenize", _text("prompt", "a b", '"return_token_strs":true,'),
          "refused"),
    Shape("ids to text", "/detokenize", _array("tokens", "65"), "refused"),
    Shape("choices to score", "/v1/score_choices", _choices, "refused", 120_000),
    Shape("windows of one token", "/v1/perplexity", _array("input", "5", '"stride":1,'),
          "refused"),
    Shape("texts to score", "/v1/perplexity", _array("input", '"ab"'), "refused", 150_000),
    Shape("blocks of a message", "/v1/messages", _blocks, "refused", 400_000),
    Shape("messages that are numbers", "/v1/messages", _array("messages", "1", '"max_tokens":1,'),
          "refused"),
    Shape("input items", "/v1/responses", _array("input", "{}"), "refused", 48_000),
    Shape("metadata of numbers", "/v1/responses", _fields('"input":"x",', '"metadata":{', "}"),
          "refused", 350_000),
    Shape("options", "/api/chat", _fields(
        f'"model":"MODEL","messages":[{USER}],"stream":false,', '"options":{"num_predict":1,',
        "}"), "served", 350_000),
    Shape("calls and results", "/api/chat", _calls, "refused", 250_000),
    Shape("images that are numbers", "/api/generate", _array(
        "images", "1", '"model":"MODEL","prompt":"x",'), "refused"),
    Shape("parameters", "/generate", _fields(
        '"inputs":"x",', '"parameters":{"max_new_tokens":1,', "}"), "served", 350_000),
    Shape("stop strings of TGI", "/generate", _array(
        "inputs", '"a"'), "refused", 120_000),
    Shape("texts to embed", "/v1/embeddings", _array("input", '"a"'), "refused", 120_000),
    Shape("a long name of a model", CHAT, _text("model", "m", ""), "refused"),
]  # fmt: skip
IN_DEFAULT_SUITE = (
    "unknown fields", "wrong token ids", "256 texts", "messages with unknown fields",
    "fewer unknown arrays", "one letter", "blocks of a message", "windows of one token",
    "parameters", "a schema with a long list",
)  # fmt: skip
