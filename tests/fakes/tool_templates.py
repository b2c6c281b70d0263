"""Chat templates that treat tools as those of well-known models do, in few words of our own."""

_TURNS = "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"
_PROMPT = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"

HERMES = (
    "{% if tools %}<|system|>\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n"
    "{% endif %}<tools>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n"
    "Answer with <tool_call></tool_call>.<|end|>\n"
    "{% elif messages[0].role == 'system' %}<|system|>\n{{ messages[0].content }}<|end|>\n"
    "{% endif %}{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}"
    "<|assistant|>\n{{ m.content }}{% for call in m.tool_calls %}{% set f = call.function %}\n"
    "<tool_call>\n"
    '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|end|>\n{% elif m.role == 'tool' %}<|user|>\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|end|>\n{% elif m.role != 'system' %}"
    + _TURNS
    + "{% endif %}{% endfor %}"
    + _PROMPT
)
"""Qwen 2.5 and Hermes: arguments are objects, results are the user's."""

QWEN3 = HERMES.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m.reasoning_content %}{% set r = 1 %}{% endif %}",
    1,
) + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
"""The same and reasoning, which a variable turns off."""

THINKER = HERMES + "{% if add_generation_prompt %}<think>\n{% endif %}{# </think> #}{{ '' }}"
"""QwQ: the prompt begins the reasoning."""

LLAMA = (
    "{% if tools %}<|system|>\nRespond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.\n'
    "{% for tool in tools %}{{ tool | tojson(indent=4) }}\n{% endfor %}<|end|>\n{% endif %}"
    "{% for m in messages %}{% if m.tool_calls is defined %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}<|assistant|>\n"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}<|end|>\n'
    "{% elif m.role == 'tool' %}<|ipython|>\n{{ m.content | tojson }}<|end|>\n"
    "{% else %}" + _TURNS + "{% endif %}{% endfor %}" + _PROMPT
)
"""Llama 3: a call is a whole message, one at a time."""

MISTRAL = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% if tools and m == asked[-1] %}"
    "[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST] "
    "{{ m.content }}[/INST]"
    "{% elif m.tool_calls is defined %}[TOOL_CALLS][{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have length 9!') }}{% endif %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, '
    '"id": "{{ call.id }}"}{{ ", " if not loop.last }}{% endfor %}]'
    "{% elif m.role == 'tool' %}"
    "{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have length 9!') }}{% endif %}"
    '[TOOL_RESULTS]{"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
"""Mistral: lists behind a mark, ids of nine characters."""

LFM2 = (
    "{% if tools %}<|system|>\nList of tools: [{% for tool in tools %}{{ tool | tojson }}"
    "{% endfor %}]<|end|>\n{% endif %}{% for m in messages %}"
    + _TURNS
    + "{% endfor %}"
    + _PROMPT
    + "{# #}{% if false %}<|tool_call_start|>{% endif %}"
)
"""LFM2: Python, and no place for past calls."""

LFM2_JSON = (
    HERMES.replace("<tool_call>\n", "<|tool_call_start|>[")
    .replace("\n</tool_call>", "]<|tool_call_end|>")
    .replace("<tool_call></tool_call>", "JSON")
)
"""LFM2 where JSON is asked of it."""

PYTHONIC = (
    "{% if tools %}<|system|>\nAnswer as [func_name1(params_name1=params_value1), func_name2()].\n"
    "{{ tools | tojson }}<|end|>\n{% endif %}{% for m in messages %}{% if m.tool_calls %}"
    "<|assistant|>\n[{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in "
    "c.function.arguments.items() %}{{ k }}={{ v | tojson }}{% endfor %}){% endfor %}]<|end|>\n"
    "{% else %}" + _TURNS + "{% endif %}{% endfor %}" + _PROMPT
)
"""Llama 4 on the small side: Python without marks."""

GRANITE = (
    "{% if tools %}<|system|>\nCall with <|tool_call|> and a JSON list.\n{{ tools | tojson }}"
    "<|end|>\n{% endif %}{% for m in messages %}{% if m.tool_calls %}<|assistant|>\n<|tool_call|>["
    "{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}]<|end|>\n{% else %}"
    + _TURNS
    + "{% endif %}{% endfor %}"
    + _PROMPT
)

TEXT_ARGUMENTS = HERMES.replace("{{ f.arguments | tojson }}", "{{ '' + f.arguments }}")
"""A template that joins the arguments as text."""

UNKNOWN = HERMES.replace("<tool_call>", "<function=x>").replace("</tool_call>", "</function>")
"""A format that Shoal does not know."""

PLAIN = "{% for m in messages %}" + _TURNS + "{% endfor %}" + _PROMPT
"""No tools at all, as SmolLM2's."""

ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + _TURNS + "{% endfor %}" + _PROMPT
)
"""As Gemma's: no system message, user and assistant in turn."""

NATIVE = {
    "hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "lfm2": LFM2, "pythonic": PYTHONIC,
    "granite": GRANITE, "lfm2_json": LFM2_JSON,
}  # fmt: skip
"""By the name of their format."""
