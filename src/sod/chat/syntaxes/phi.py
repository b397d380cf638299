"""`<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>`, or `functools[...]`: Phi-4-mini."""

from sod.chat.syntaxes.tagged_json import TaggedJson

PHI = TaggedJson("phi", "<|tool_call|>", "<|/tool_call|>", is_list=True)
FUNCTOOLS = TaggedJson("functools", "functools", "", is_list=True)
