"""`[TOOL_CALLS][{"name": ..., "arguments": {...}}]` (Mistral 7B v0.3, Nemo), or `[TOOL_CALLS]NAME[ARGS]{...}` (Ministral 3)."""

from sod.chat.syntaxes.named_json import NamedJson
from sod.chat.syntaxes.tagged_json import TaggedJson

MISTRAL = TaggedJson("mistral", "[TOOL_CALLS]", "", is_list=True)
MISTRAL_ARGS = NamedJson(
    "mistral_args",
    before=r"\[TOOL_CALLS\]",
    between=r"(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]",
    after="",
    example="[TOOL_CALLS]%s[ARGS]%s",
)
