"""`<TOOLCALL>[{"name": ..., "arguments": {...}}]</TOOLCALL>`: Nemotron Nano 2 and Nemotron Super. Nemotron 3 writes XML."""

from sod.chat.syntaxes.tagged_json import TaggedJson

NEMOTRON = TaggedJson("nemotron", "<TOOLCALL>", "</TOOLCALL>", is_list=True)
