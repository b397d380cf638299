"""Tiny chat templates of our own, one for each way in which published ones write calls, results and thoughts."""

CHATML = """
{%- if tools -%}{{- '<|im_start|>system\\n' + (tools | tojson) + 'HINT<|im_end|>\\n' -}}{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'tool' -%}
    {{- '<|im_start|>tool\\n' -}}RESULT{{- '<|im_end|>\\n' -}}
  {%- elif m.role == 'assistant' -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if m.reasoning_content -%}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' -}}{%- endif -%}
    {{- m.content -}}
    {%- set calls = m.tool_calls or [] -%}
    CALLS
    {{- '<|im_end|>\\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
EACH = "{%- for c in calls -%}{%- set f = c.function -%}CALL{%- endfor -%}"
LISTED = """
    {%- if calls -%}{{- 'OPEN[' -}}{%- for c in calls -%}
    {%- set f = c.function -%}{{- ', ' if not loop.first -}}CALL{%- endfor -%}
    {{- ']CLOSE' -}}{%- endif -%}
"""
OBJECT = """{{- '{"NAME": "' + f.name + '", "ARGUMENTS": ' + (f.arguments | tojson) + '}' -}}"""
PAIRS = "{%- for k, v in f.arguments.items() -%}PAIR{%- endfor -%}"
VALUE = "(v if v is string else v | tojson)"
XML = (
    "{{- ('\\n' if m.content or not loop.first else '') + '<tool_call>\\n<function=' + f.name + '>\\n' -}}"
    + PAIRS.replace("PAIR", "{{- '<parameter=' + k + '>\\n' + VALUE + '\\n</parameter>\\n' -}}".replace("VALUE", VALUE))
)
XML += "{{- '</function>\\n</tool_call>' -}}"
GLM = "{{- ('\\n' if m.content or not loop.first else '') + '<tool_call>' + f.name + '\\n' -}}" + PAIRS.replace(
    "PAIR",
    "{{- '<arg_key>' + k + '</arg_key>\\n<arg_value>' + VALUE + '</arg_value>\\n' -}}".replace("VALUE", VALUE),
)
GLM += "{{- '</tool_call>' -}}"
PYTHON = (
    "{{- f.name + '(' -}}"
    + PAIRS.replace("PAIR", "{{- ', ' if not loop.first -}}{{- k + '=' + TEXT -}}")
    + "{{- ')' -}}"
)
ESCAPED, RAW = "(v | tojson)", """("'" + v + "'" if v is string else v | tojson)"""
ARGUMENTS = "(f.arguments | tojson)"
GEMMA = """
{%- macro value(v) -%}
  {%- if v is string -%}{{- 'QUOTE' + v + 'QUOTE' -}}
  {%- elif v is mapping -%}{{- '{' -}}
    {%- for k, each in v.items() -%}{{- ',' if not loop.first -}}
      {{- 'QUOTE' + k + 'QUOTE:' + value(each) -}}{%- endfor -%}{{- '}' -}}
  {%- elif v is iterable -%}{{- '[' -}}
    {%- for each in v -%}{{- ',' if not loop.first -}}{{- value(each) -}}{%- endfor -%}{{- ']' -}}
  {%- else -%}{{- v | tojson -}}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}{{- '<|turn>system\\n' + (tools | tojson) + '<turn|>\\n' -}}{%- endif -%}
{%- set last = namespace(tool=false) -%}
{%- for m in messages -%}
  {%- if m.role == 'tool' -%}
    {{- ('<|tool_response>' if last.tool else '') + 'response:' + m.name + '{value:' + value(m.content) + '}<tool_response|>' -}}
    {%- set last.tool = true -%}
  {%- else -%}
    {%- if not (m.role == 'assistant' and last.tool) -%}
      {{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' -}}
    {%- endif -%}
    {%- set last.tool = false -%}
    {{- m.content -}}
    {%- for c in m.tool_calls or [] -%}
      {{- 'OPENcall:' + c.function.name + '{' -}}
      {%- for k, v in c.function.arguments.items() -%}{{- ',' if not loop.first -}}{{- k + ':' + value(v) -}}{%- endfor -%}
      {{- '}CLOSE' -}}
    {%- endfor -%}
    {{- '<|tool_response>' if m.tool_calls else '<turn|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and not last.tool -%}{{- '<|turn>model\\n' -}}{%- endif -%}
"""
HARMONY = """
{%- if tools -%}{{- '<|start|>developer<|message|>' + (tools | tojson) + '<|end|>' -}}{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {%- if m.reasoning_content -%}
      {{- '<|start|>assistant<|channel|>analysis<|message|>' + m.reasoning_content + '<|end|>' -}}
    {%- endif -%}
    {%- if m.tool_calls -%}
      {%- if m.tool_calls | length > 1 -%}{{- raise_exception('One call a message!') -}}{%- endif -%}
      {%- if m.content -%}{{- '<|start|>assistant<|channel|>commentary<|message|>' + m.content + '<|end|>' -}}{%- endif -%}
      {{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name + '<|channel|>commentary json<|message|>' -}}
      {{- (m.tool_calls[0].function.arguments | tojson) + '<|call|>' -}}
    {%- else -%}
      {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' -}}
    {%- endif -%}
  {%- elif m.role == 'tool' -%}
    {{- '<|start|>functions.' + m.name + ' to=assistant<|channel|>commentary<|message|>' + (m.content | tojson) + '<|end|>' -}}
  {%- else -%}
    {{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""
ONE_CALL = "{%- if calls | length > 1 -%}{{- raise_exception('One call a message!') -}}{%- endif -%}"


def chatml(calls: str, *, result: str = "{{- m.content -}}", hint: str = "") -> str:
    return CHATML.replace("CALLS", calls).replace("RESULT", result).replace("HINT", hint)


def each(call: str) -> str:
    return chatml(EACH.replace("CALL", call))


def listed(call: str, opening: str, closing: str = "") -> str:
    return chatml(LISTED.replace("CALL", call).replace("OPEN", opening).replace("CLOSE", closing))


def json_object(name: str = "name", arguments: str = "arguments") -> str:
    return OBJECT.replace("NAME", name).replace("ARGUMENTS", arguments)


def gemma(opening: str, closing: str, quote: str) -> str:
    return GEMMA.replace("OPEN", opening).replace("CLOSE", closing).replace("QUOTE", quote)


TEMPLATES = {
    "hermes": each("{{- '\\n<tool_call>\\n' -}}" + json_object() + "{{- '\\n</tool_call>' -}}"),
    "xml": each(XML),
    "seed": each(XML.replace("<tool_call>", "<seed:tool_call>").replace("</tool_call>", "</seed:tool_call>")),
    "glm": each(GLM),
    "lfm": listed(PYTHON.replace("TEXT", ESCAPED), "<|tool_call_start|>", "<|tool_call_end|>"),
    "lfm_raw": listed(PYTHON.replace("TEXT", RAW), "<|tool_call_start|>", "<|tool_call_end|>"),
    "llama_4": listed(PYTHON.replace("TEXT", ESCAPED), "<|python_start|>", "<|python_end|>"),
    "olmo": chatml(
        "{%- if calls -%}{{- '<function_calls>' -}}{%- for c in calls -%}{%- set f = c.function -%}"
        "{{- '\\n' if not loop.first -}}"
        + PYTHON.replace("TEXT", ESCAPED)
        + "{%- endfor -%}{{- '</function_calls>' -}}{%- endif -%}"
    ),
    "phi": listed(json_object(), "<|tool_call|>", "<|/tool_call|>"),
    "granite": listed(json_object(), "<|tool_call|>"),
    "granite_tag": listed(json_object(), "<tool_call>"),
    "functools": listed(json_object(), "functools"),
    "nemotron": listed(json_object(), "<TOOLCALL>", "</TOOLCALL>"),
    "cohere": listed(json_object("tool_name", "parameters"), "<|START_ACTION|>", "<|END_ACTION|>"),
    "mistral": listed(json_object(), "[TOOL_CALLS]"),
    "mistral_args": each("{{- '[TOOL_CALLS]' + f.name + '[ARGS]' + " + ARGUMENTS + " -}}"),
    "deepseek": each(
        "{{- '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + f.name + '\\n```json\\n' + "
        + ARGUMENTS
        + " + '\\n```<｜tool▁call▁end｜>' -}}"
    ),
    "function_gemma": gemma("<start_function_call>", "<end_function_call>", "<escape>"),
    "gemma": gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
    "harmony": HARMONY,
    "llama": chatml(
        ONE_CALL
        + "{%- if calls -%}{%- set f = calls[0].function -%}{{- '\\n' if m.content or m.reasoning_content -}}"
        + json_object(arguments="parameters")
        + "{%- endif -%}",
        result="{{- m.content | tojson -}}",
    ),
    "python_list": listed("{{- '' -}}" + PYTHON.replace("TEXT", ESCAPED), ""),
}
"""By the syntax's name: a template that writes calls so."""
TEMPLATES["python_list"] = TEMPLATES["python_list"].replace(
    "{{- '[' -}}", "{{- '\\n[' if m.content or m.reasoning_content else '[' -}}"
)
ENDS = {"harmony": "<|return|>", "gemma": "<turn|>", "function_gemma": "<turn|>"}
TOKENS = {
    "harmony": ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|call|>", "<|return|>", "<|constrain|>"),
    "gemma": ("<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'),
    "function_gemma": (
        "<|turn>",
        "<turn|>",
        "<start_function_call>",
        "<end_function_call>",
        "<|tool_response>",
        "<escape>",
    ),
    "lfm": ("<|tool_call_start|>", "<|tool_call_end|>"),
    "lfm_raw": ("<|tool_call_start|>", "<|tool_call_end|>"),
    "phi": ("<|tool_call|>", "<|/tool_call|>"),
    "granite": ("<|tool_call|>",),
    "mistral": ("[TOOL_CALLS]",),
    "mistral_args": ("[TOOL_CALLS]", "[ARGS]"),
    "llama": ("<|python_tag|>", "<|eom_id|>"),
}
"""Special tokens of such a model, beside those of the lab's tokenizer."""
