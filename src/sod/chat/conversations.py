"""Convert published conversations to one format. No content is lost: messages that cannot be converted raise DataError.

| published as | becomes |
|---|---|
| `reasoning_content`, `reasoning`, `thinking`, `thought` or `thoughts` of an assistant message | `reasoning_content` |
| `reasoning_details` or `thinking_blocks`, if every part of the list is text | `reasoning_content` |
| `train`, `trainable`, `loss` or `loss_mask` of an assistant message | `weight`, 0 or 1 |
| a `weight` that is null | no `weight`: the message is learnt |
| `function_call`, role `function` | `tool_calls`, role `tool` |
| role `developer` | role `system` |
| in demonstrations, a user's or tool's message of `<tool_response>` blocks alone | messages of role `tool` |
| content that is a list of one part of text | that text |
| `parameters` of a call without `arguments` | `arguments` |
| arguments that are JSON text, null or missing | an object |
| a null among arguments that are an object | nothing: some file formats write every key of every call |
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from sod.chat.calls import THOUGHT_CLOSE, THOUGHT_OPEN, as_arguments, parse_calls
from sod.errors import DataError
from sod.types import MalformedCall, Message, ToolCall

ROLES = ("system", "user", "assistant", "tool")
RENAMED = {"developer": "system", "function": "tool"}
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Keys of an assistant message with its thought as text."""
BLOCKS = ("reasoning_details", "thinking_blocks")
"""Keys of an assistant message with its thought as a list of parts (OpenRouter, LiteLLM)."""
WEIGHTS = ("weight", "train", "trainable", "loss", "loss_mask")
"""Keys of an assistant message with 0 or false if it is excluded from the loss, and 1 or true otherwise."""
KNOWN = {"role", "content", "name", "id", "type", "index", "tool_calls", "tool_call_id", "function_call"}
"""All other keys of a message that are read, or that hold nothing to learn."""
_SUSPECT = re.compile(r"reason|think|thought|mask|loss|train|weight|(?:^|_)cot(?:_|$)", re.IGNORECASE)
"""Part of the name of an unknown key that may hold a thought or a loss mask."""
MEDIA = ("image", "images", "image_url", "video", "videos", "audio", "audios", "files")
"""Keys of a message with a part of it that is no text."""
_BESIDE = {"id", "type", "index"}
"""Keys of a call that hold nothing to learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A conversation to imitate, and its tools."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    unread: frozenset[str] = frozenset()
    """Keys of its published messages that have content and are not read."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Columns of its row that tell its problem from others of equal text: environment, setting, files."""

    @property
    def prompt(self) -> list[Message]:
        """Return the messages before the first one to learn from, such as examples and the question."""
        return list(takewhile(lambda each: each["role"] != "assistant" or not each.get("weight", 1), self.messages))

    @property
    def called(self) -> list[str]:
        """Return the names of the tools called in messages to learn from, in order."""
        turns = [message for message in self.messages if message["role"] == "assistant" and message.get("weight", 1)]
        return [call.name for turn in turns for call in calls_of(turn) if isinstance(call, ToolCall)]

    @property
    def malformed(self) -> list[str]:
        """What is wrong with the calls, in the messages to learn from, that cannot be read."""
        turns = [message for message in self.messages if message["role"] == "assistant" and message.get("weight", 1)]
        return [call.complaint for turn in turns for call in calls_of(turn) if isinstance(call, MalformedCall)]

    @property
    def listed(self) -> list[str]:
        """Return the names of its tools."""
        return [_name(tool) for tool in self.tools]


def as_messages(messages: Any) -> list[Message]:
    """Return messages in one format. Raise DataError for content that a chat template cannot render or would ignore."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise DataError("its messages are not a list of objects with `role` and `content`.")
    return [_as_message(message) for message in messages]


def parse_conversation(messages: Any, tools: Any = None, functions: Any = None) -> Demonstration:
    """Return a conversation in the format of a rollout. Raise DataError if that is impossible.

    `tools`, `functions`: schemas in OpenAI's new format and in the older one, or JSON text of them.
    """
    if tools and functions:
        raise DataError("it has both `functions` and `tools`; keep one of them.")
    unread = _unread(messages)
    messages = [each for message in as_messages(messages) for each in _taken_apart(message)]
    if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
        raise DataError("it has no assistant message to learn from; add one, or give one a `weight` other than 0.")
    if messages[0]["role"] == "assistant":
        raise DataError("its first message is the assistant's, so it answers no prompt; remove it, or add a prompt.")
    if not any(message["content"].strip() for message in takewhile(lambda m: m["role"] != "assistant", messages)):
        raise DataError("its prompt is empty: no message before the assistant's first one has text; add the question.")
    for message in messages:
        if message["role"] == "assistant" and message.get("weight", 1):
            _check_learnable(message)
    listed = _as_tools(tools) or [{"type": "function", "function": each} for each in _as_tools(functions)]
    made = Demonstration(messages=_answered(messages), tools=listed, unread=unread)
    unlisted = [name for name in made.called if name not in made.listed] if made.tools else []
    if unlisted:
        raise DataError(
            f"it calls {unlisted[0]!r}, which is not in its `tools` ({', '.join(made.listed)}). Add the tool, or give that "
            'message "weight": 0.'
        )
    return made


def calls_of(message: Message) -> list[Any]:
    """Return the calls of an assistant message: those in its content, then its `tool_calls`."""
    listed = [call["function"] for call in message.get("tool_calls") or ()]
    return [*parse_calls(message["content"]), *(ToolCall(name=f["name"], arguments=f["arguments"]) for f in listed)]


class CallStatistics:
    """Statistics of the tool calls and unread keys in a file's demonstrations, which are added one by one."""

    def __init__(self) -> None:
        self._count = self._bare = 0
        self._names = Counter[str]()
        self._unread = Counter[str]()

    def add(self, demonstration: Demonstration) -> None:
        self._count += 1
        self._bare += bool(demonstration.called) and not demonstration.tools
        if "environment" not in demonstration.about:  # an environment has tools of its own
            self._names.update({*demonstration.called, *demonstration.listed})
        self._unread.update(demonstration.unread)

    def warnings(self, tools: Collection[str], *, shown: bool = True) -> Iterator[str]:
        """Yield warnings about differences from rollouts.

        `tools`: names of a rollout's tools. `shown`: whether its prompts show them.
        """
        if self._bare and shown:
            yield (
                f"{self._bare} of {self._count} demonstrations call a tool but have no `tools`, so their prompts show none, "
                "unlike those of rollouts. Add a column `tools` with the schemas."
            )
        if self._unread:
            keys = ", ".join(f"`{key}` ({number})" for key, number in self._unread.most_common())
            yield (
                f"messages have keys that are not read, with the number of demonstrations: {keys}. Move what must be learnt "
                "to `content`, `reasoning_content` or `tool_calls`."
            )
        others = [f"{name!r} ({number})" for name, number in self._names.most_common() if name not in tools]
        if others:
            yield (
                f"demonstrations use tools that a rollout does not have: {', '.join(others[:5])}. A rollout has "
                f"{', '.join(tools)}, and the tools of --tool.own. Type --tool.name in later commands if the name of the "
                "interpreter differs, add the tools to --tool.own, give the rows a column `environment` if one has these tools, "
                "or remove these demonstrations."
            )


# Parts


def _as_message(message: Message) -> Message:
    role = RENAMED.get(str(message["role"]), message["role"])
    if role not in ROLES:
        raise DataError(
            f"a message has the unknown role {message['role']!r}; use one of {', '.join([*ROLES, *RENAMED])}."
        )
    made = {**message, "role": role, "content": _as_text(message)}
    call = made.pop("function_call", None)
    thought = _thought(
        {name: made.pop(name, None) for name in THOUGHTS}, {name: made.pop(name, None) for name in BLOCKS}
    )
    weight = _weight({name: made.pop(name, None) for name in WEIGHTS})
    if suspects := [key for key in _unread([made]) if _SUSPECT.search(key)]:
        raise DataError(
            f"a message has the key {min(suspects)!r}, which may hold a thought or a loss mask, and its meaning is unknown. "
            "Write a thought as text in `reasoning_content`, or a mask as `weight`, 0 or 1."
        )
    calls = made.pop("tool_calls", None) or []
    if call and calls:
        raise DataError("a message has both `function_call` and `tool_calls`; keep one of them.")
    calls = _as_calls([{"type": "function", "function": call}] if call else calls)
    if (calls or thought) and role != "assistant":
        raise DataError(
            f"a {role!r} message has a call or a thought, which only assistant messages can have; move or remove it."
        )
    if thought and THOUGHT_OPEN in made["content"]:
        raise DataError(
            f"a message has its thought twice: in a field of its own, and as {THOUGHT_OPEN} in its content; remove one."
        )
    made |= weight
    return made | ({"reasoning_content": thought} if thought else {}) | ({"tool_calls": calls} if calls else {})


def _unread(messages: Any) -> frozenset[str]:
    """The keys of messages that have content and are not read."""
    read = KNOWN.union(THOUGHTS, BLOCKS, WEIGHTS)
    rows = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    return frozenset(str(key) for row in rows for key, value in row.items() if key not in read and not _is_empty(value))


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _as_text(message: Message) -> str:
    content = message.get("content") or ""
    if others := [key for key in MEDIA if not _is_empty(message.get(key))] or _not_text(content):
        raise DataError(
            f"a {message['role']!r} message has a part that is no text (`{others[0]}`), but models read text alone. Remove the "
            "demonstration."
        )
    match content:
        case [{"type": "text", "text": str(text)}]:
            return text
        case str():
            return content
        case _:
            hint = "join its parts of text into one" if isinstance(content, list) else "write it as JSON text"
            kind = type(content).__name__
            raise DataError(f"the content of a {message['role']!r} message is {kind}, but it must be text: {hint}.")


def _not_text(content: Any) -> list[str]:
    """Return the types of the parts of a content that are pictures, recordings or files."""
    parts = (
        [str(part.get("type", "")) for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    )
    return [kind for kind in parts if re.match(r"(?:input_)?(?:image|video|audio|file)", kind)]


def _thought(fields: dict[str, Any], blocks: dict[str, Any]) -> str:
    """Return the thought of a message. Servers may repeat it under several names."""
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    if wrong := [name for name, value in given.items() if not isinstance(value, str)]:
        raise DataError(
            f"the `{wrong[0]}` of a message is {type(given[wrong[0]]).__name__}, but it must be text: write the thought "
            "as text in `reasoning_content`."
        )
    given |= {name: _joined(name, value) for name, value in blocks.items() if not _is_empty(value)}
    if len(set(given.values())) > 1:
        raise DataError(
            f"a message has different thoughts in {' and '.join(f'`{name}`' for name in given)}; keep one of them."
        )
    return next(iter(given.values()), "")


def _joined(name: str, blocks: Any) -> str:
    """The text of a thought in parts: OpenRouter's `reasoning.text`, or a `thinking` block."""
    texts: list[str] = []
    for block in blocks if isinstance(blocks, list) else [None]:
        match block:
            case {"type": "reasoning.text", "text": str(text)} | {"type": "thinking", "thinking": str(text)}:
                texts.append(text)
            case _:
                raise DataError(
                    f"the `{name}` of a message has a part that is not the text of a thought: {str(block)[:80]!r}. Write the "
                    "thought as text in `reasoning_content`, and remove the key."
                )
    return "".join(texts)


def _weight(fields: dict[str, Any]) -> dict[str, int]:
    """The weight of a message, under its one name; nothing without a weight, as where files fill it in as null."""
    given = {name: value for name, value in fields.items() if value is not None}
    if wrong := [name for name, value in given.items() if value not in (0, 1)]:
        raise DataError(
            f'the `{wrong[0]}` of a message is {given[wrong[0]]!r}, but a message is learnt or not. Write "weight": 1 or '
            '"weight": 0.'
        )
    if len({int(value) for value in given.values()}) > 1:
        raise DataError(
            f"a message has different values in {' and '.join(f'`{name}`' for name in given)}; keep `weight`, 0 or 1."
        )
    return {"weight": int(next(iter(given.values())))} if given else {}


def _as_calls(calls: Any) -> list[dict[str, Any]]:
    functions = (
        [call.get("function") or call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    if not isinstance(calls, list) or len(functions) < len(calls) or not all(map(_is_function, functions)):
        raise DataError("its `tool_calls` are not a list of objects with `function`, `name` and `arguments`.")
    made = []
    for call, function in zip(calls, functions, strict=True):
        given = _given(call, function)
        arguments = as_arguments(given)
        if arguments is None:
            raise DataError(
                f"the arguments of a call of {function['name']!r} are not a JSON object: {str(given)[:80]!r}; correct them."
            )
        if not _is_finite(arguments):
            raise DataError(
                f"the arguments of a call of {function['name']!r} have NaN or infinity, which JSON has not."
            )
        arguments = without_nulls(arguments) if isinstance(given, dict) else arguments
        beside = {key: value for key, value in call.items() if key in ("id", "type") and value is not None}
        made.append({**beside, "function": {"name": function["name"], "arguments": arguments}})
    return made


def _given(call: dict[str, Any], function: dict[str, Any]) -> Any:
    """The arguments of a call: `arguments`, or `parameters`. Raises DataError for content under any other key."""
    read = {"function", "name", "arguments", "parameters", *_BESIDE}
    others = [key for key, value in function.items() if key not in read and not _is_empty(value)]
    if function is not call:
        others += [key for key, value in call.items() if key not in {"function", *_BESIDE} and not _is_empty(value)]
    if others:
        raise DataError(
            f"a call of {function['name']!r} has {', '.join(f'`{key}`' for key in others)}, but only `name` and `arguments` "
            "are read. Write the arguments as `arguments`, and remove the other keys."
        )
    given = [function[key] for key in ("arguments", "parameters") if function.get(key) not in (None, "", {})]
    if len(given) > 1 and given[0] != given[1]:
        raise DataError(f"a call of {function['name']!r} has `arguments` and `parameters`; keep `arguments`.")
    return given[0] if given else None


def _is_finite(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_is_finite, inner)) and not (isinstance(value, float) and not math.isfinite(value))


def _is_function(function: Any) -> bool:
    return isinstance(function, dict) and isinstance(name := function.get("name"), str) and name == name.strip() != ""


def without_nulls(value: Any) -> Any:
    """Return the value without keys that are null. Files with fixed columns write every key of every nested object."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


_RESULT = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)


def _taken_apart(message: Message) -> list[Message]:
    """Split a user's or tool's message of `<tool_response>` blocks into tool messages. Return other messages unchanged."""
    results = _RESULT.findall(message["content"]) if message["role"] in ("user", "tool") else []
    if not results or _RESULT.sub("", message["content"]):
        return [message]
    if message["role"] == "tool" and len(results) == 1:
        return [{**message, "content": results[0]}]
    return [{"role": "tool", "content": result} for result in results]


def _check_learnable(message: Message) -> None:
    """Raise DataError for an assistant message that would teach to say nothing, or never to end a thought."""
    if not (message["content"].strip() or message.get("reasoning_content") or message.get("tool_calls")):
        raise DataError(
            "an assistant message is empty: it has no content, thought or call to learn from; remove it, or give it "
            '"weight": 0.'
        )
    if message["content"].lstrip().startswith(THOUGHT_OPEN) and THOUGHT_CLOSE not in message["content"]:
        raise DataError(
            f"an assistant message opens a thought and does not close it, as a reply that was cut off: {THOUGHT_OPEN} without "
            f'{THOUGHT_CLOSE}. Remove the demonstration, or give the message "weight": 0.'
        )


def _answered(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with each turn's results in the order of its calls. Raise DataError if a result is missing."""
    made: list[Message] = []
    for at, message in enumerate(messages):
        if message["role"] == "tool":
            if not at or messages[at - 1]["role"] not in ("assistant", "tool"):
                raise DataError(
                    f"message {at + 1} is a tool's result without an assistant message before it; add the call, or remove it."
                )
            continue
        made.append(message)
        if message["role"] == "assistant":
            results = list(takewhile(lambda each: each["role"] == "tool", messages[at + 1 :]))
            calls, is_last = len(calls_of(message)), at + 1 == len(messages)
            if len(results) != calls and not (is_last and not results):
                raise DataError(
                    f"message {at + 1} has {calls} calls, but {len(results)} results follow it; give each call one result."
                )
            made += _in_order(message, results)
    return made


def _in_order(message: Message, results: Sequence[Message]) -> list[Message]:
    """Return the results in the order of the calls, by `tool_call_id`. Those without one answer the remaining calls in order."""
    calls = message.get("tool_calls") or ()
    ids = [str(call["id"]) for call in calls if call.get("id") is not None]
    if len(ids) == len(results) == len(calls):
        by_id = {str(each["tool_call_id"]): each for each in results if each.get("tool_call_id") is not None}
        others = [each for each in results if each.get("tool_call_id") is None]
        if len(set(ids)) < len(ids) or not by_id.keys() <= set(ids) or len(by_id) + len(others) < len(results):
            raise DataError(
                "each `tool_call_id` of its results must be the `id` of a call before them; correct the ids."
            )
        return [by_id[id] if id in by_id else others.pop(0) for id in ids]
    names = [call["function"]["name"] for call in calls], [each.get("name") for each in results]
    if names[0] != names[1] and sorted(names[0]) == sorted(map(str, names[1])):
        raise DataError("by their `name`, its results are not in the order of its calls; put them into that order.")
    return list(results)


def _as_tools(tools: Any) -> list[dict[str, Any]]:
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools or []
    except ValueError as error:
        raise DataError(f"its `tools` are not JSON ({error}); write a JSON list of function schemas.") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("its `tools` are not a list of function schemas; write a list.")
    if not all(map(_name, tools)):
        raise DataError("one of its `tools` has no name; add `name` to its function.")
    return tools


def _name(tool: dict[str, Any]) -> str:
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""
