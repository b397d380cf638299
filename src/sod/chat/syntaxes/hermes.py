"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen2.5, Qwen3, Granite 4, SmolLM3."""

from sod.chat.syntaxes.tagged_json import TaggedJson

HERMES = TaggedJson("hermes", "<tool_call>", "</tool_call>")
