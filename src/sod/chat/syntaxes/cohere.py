"""`<|START_ACTION|>[{"tool_name": ..., "parameters": {...}}]<|END_ACTION|>`: Command R7B and Command A."""

from sod.chat.syntaxes.tagged_json import TaggedJson

COHERE = TaggedJson("cohere", "<|START_ACTION|>", "<|END_ACTION|>", is_list=True, keys=("tool_name", "parameters"))
