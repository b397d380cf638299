"""`<|tool_call|>[{"name": ..., "arguments": {...}}]` up to the end of the turn: Granite 3. Granite 4 writes Hermes calls."""

from sod.chat.syntaxes.tagged_json import TaggedJson

GRANITE = TaggedJson("granite", "<|tool_call|>", "", is_list=True)
GRANITE_TAG = TaggedJson("granite_tag", "<tool_call>", "", is_list=True)
"""Granite 3.0 and 3.1, whose tag is no special token."""
