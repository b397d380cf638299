"""Parse the gold answer of a code problem into tests.

A gold answer is JSON or a Python literal in one of these published shapes:

    {"inputs": [...], "outputs": [...], "fn_name": name}         fn_name only for functions
    [{"input": ..., "output": ..., "testtype": "stdin"}, ...]    or "functional", with a "metadata" of {"func_name": name}
    {"tests": either of these or of the assertions, "fn_name": name}
    {"public_test_cases": ..., "private_test_cases": ..., "metadata": ...}     a row of LiveCodeBench
    {"functional": "def check(candidate): assert ..."}           or {"test_code": ..., "entry_point": ...}
    ["assert ...", ...]                                          or {"assert_case": [...]}

The source of a test may contain `check` as published in HumanEval, with `METADATA`, imports, functions, loops and local
variables. Definitions of the prompt that a test needs (imports, functions) belong in "import_prefix". MBPP's `test_setup_code`
and `test_imports` belong there as well.

An object may also have "seconds" (the time limit of each test; default: the judge's) and "checker": "special" (several outputs
are right, or a tolerance is allowed). With assertions it may have "import_prefix" (source that runs before the program). Any
other text is decoded as base64 of a compressed pickle, the format of LiveCodeBench's private tests.

Expected values never enter the program's process; see `sod.rewards.code_asserts`.
"""

import ast
import base64
import io
import json
import math
import pickle
import re
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from sod.errors import DataError
from sod.rewards.code_asserts import assertions
from sod.rewards.code_tests import (
    DETAIL_CHARACTERS,
    CallTest,
    ScriptTest,
    StdinTest,
    Test,
    Tests,
    call_test,
    same_output,
    same_value,
)
from sod.rewards.functional_driver import plain

CACHED_GOLDS = 32
MOST_BYTES = 256 << 20
"""Limit on the decompressed size of packed tests. LiveCodeBench's largest have about 40 MiB."""
MOST_VALUES = 1_000_000
"""Limit on the values in a packed object."""

DAMAGES = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
    zlib.error,
    pickle.UnpicklingError,
)
"""Exceptions that damaged packed tests can raise."""
_TESTS = re.compile(
    r"\s*[\[{].*(?:['\"](?:inputs?|input_output|tests|fn_name|assert_case|test_code|functional|p\w+_test_cases)['\"]\s*:"
    r"|['\"]\s*assert\b)|\s*assert\b",
    re.DOTALL,
)
"""A gold with tests: an object or a list of tests, or assertions."""


@lru_cache(maxsize=CACHED_GOLDS)
def tests_of(gold: str) -> Tests:
    """Return the tests in a gold answer. Raises DataError if there are none, or if they cannot be parsed.

    The result is cached, because all attempts at a problem share its tests.
    """
    document = _document(gold)
    options: dict[str, Any] = document if isinstance(document, dict) else {}
    seconds, checker = options.get("seconds"), options.get("checker")
    try:
        tests = tuple(_tests(document, options))
    except RecursionError as error:
        raise DataError("The tests in the gold answer are nested too deeply.") from error
    if not tests:
        raise DataError("The gold answer has no test.")
    if checker != "special":
        _check_outputs(tests)
    if seconds is not None and not (_is_number(seconds) and 0 < seconds < math.inf):
        raise DataError(f"The gold answer has `seconds` = {seconds!r}; the time limit must be a number above 0.")
    if checker not in (None, "special"):
        raise DataError(
            f"The gold answer has `checker` = {checker!r}; only 'special' is supported. Leave it out otherwise."
        )
    return Tests(tests, seconds=seconds, special=checker == "special")


def _check_outputs(tests: tuple[Test | ScriptTest, ...]) -> None:
    """Raise DataError for tests that contradict each other, so that no program passes."""
    programs = [test for test in tests if isinstance(test, StdinTest)]
    first: dict[str, StdinTest] = {}
    for test in programs:
        if not same_output(test.expected, first.setdefault(test.stdin, test).expected):
            raise DataError(
                f"The gold answer has two outputs for the input {test.stdin[:DETAIL_CHARACTERS]!r}, so no program is right. "
                "Remove one, or set `checker` to 'special' if both are right."
            )
    calls: dict[str, CallTest] = {}
    for call in (test for test in tests if isinstance(test, CallTest)):
        before = calls.setdefault(call.request, call).accepted
        if not any(same_value(one, other) for one in call.accepted for other in before):
            raise DataError(
                f"The gold answer has two results for one call, so no program is right: {call.request[:DETAIL_CHARACTERS]}. "
                "Remove one."
            )


def holds_tests(gold: Any) -> bool:
    """Return whether a gold, as text or as a published cell, looks like tests. They are not parsed."""
    text = json.dumps(gold, default=str) if isinstance(gold, list | dict) else str(gold)
    return _TESTS.match(text) is not None


@lru_cache(maxsize=CACHED_GOLDS)
def as_pairs(gold: str) -> str:
    """Return a row of LiveCodeBench as `inputs` and `outputs`, the reference's shape; any other gold unchanged."""
    document = _document(gold)
    lists = ("public_test_cases", "private_test_cases")
    if not isinstance(document, dict) or not document.keys() & set(lists):
        return gold
    cases = [case for name in lists for case in _opened(document.get(name) or [])]
    pairs = {"inputs": [case["input"] for case in cases], "outputs": [case["output"] for case in cases]}
    name = _function_name(document)
    return json.dumps(pairs | ({"fn_name": name} if name else {}))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _document(text: str) -> Any:
    """Parse a text that is JSON, a Python literal or packed tests."""
    if text.lstrip()[:1] not in ("{", "["):
        return _unpacked(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise DataError(f"The gold answer is neither JSON ({error}) nor a Python literal.") from error


class _TextUnpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    """Unpickle texts, numbers, lists and dicts. A pickle with any other name is refused, because it could run code.

    This subclasses Python's own unpickler. The C unpickler allocates unlimited memory for one number in the data.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


def _unpacked(text: str) -> Any:
    """Return the content of a base64-encoded, compressed pickle: an object, or a text that is parsed as JSON."""
    try:
        content = _TextUnpickler(io.BytesIO(_decompressed(base64.b64decode(text, validate=True)))).load()
        return json.loads(content) if isinstance(content, str) else _counted(content)
    except DAMAGES as error:
        shown = text[:40]
        raise DataError(
            f"The gold answer {shown!r}... is neither JSON nor packed tests ({type(error).__name__}: {error})."
        ) from error


def _decompressed(data: bytes) -> bytes:
    """Decompress. Raises ValueError above MOST_BYTES, because a few bytes may expand without limit."""
    stream = zlib.decompressobj()
    opened = stream.decompress(data, MOST_BYTES)
    if not stream.eof:
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB, or truncated")
    return opened


def _counted(content: Any) -> Any:
    """Return the content. Raises ValueError above MOST_VALUES values: nested references can multiply a small pickle."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        inner = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else ()
        count += 1 + len(inner)
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")
        waiting += inner
    return content


def _tests(document: Any, options: dict[str, Any]) -> Iterator[Test | ScriptTest]:
    """Return the tests of a document in any known shape. `options`: the fields of all enclosing objects."""
    if isinstance(document, dict):
        options = options | document
    match document:
        case {"input_output": inner} | {"tests": inner}:
            yield from _tests(_opened(inner), options)
        case {"inputs": list(inputs), "outputs": list(outputs)}:
            yield from _paired_tests(inputs, outputs, _function_name(options))
        case {"public_test_cases": _} | {"private_test_cases": _}:
            for name in ("public_test_cases", "private_test_cases"):
                yield from _tests(_opened(document.get(name) or []), options)
        case {"functional": str(source)}:
            yield from assertions([source], options)
        case {"test_code": str(source), "entry_point": str(entry)}:
            yield from assertions([f"{source}\ncheck({entry})"], options)
        case {"assert_case": list(sources)}:
            yield from assertions(sources, options)
        case [str(), *_]:
            yield from assertions(list(document), options)
        case [*cases]:
            for case in cases:
                yield _listed_test(case, options)
        case _:
            found = f"an object with {', '.join(map(repr, document))}" if isinstance(document, dict) else repr(document)
            raise DataError(
                f"The gold answer is {found}. This is not a known shape of tests. Give `inputs` and `outputs`, or another "
                "shape of docs/rewards.md."
            )


def _opened(document: Any) -> Any:
    return _document(document) if isinstance(document, str) else document


def _function_name(options: dict[str, Any]) -> str | None:
    metadata = _opened(options.get("metadata") or {})
    return options.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, dict) else None)


def _listed_test(case: Any, options: dict[str, Any]) -> Test:
    match case:
        case {"input": shown, "output": expected}:
            function = _function_name(options | case)
            kind = case.get("testtype") or ("functional" if function else "stdin")
        case _:
            raise DataError(f"The test {repr(case)[:DETAIL_CHARACTERS]} has no `input` and `output`.")
    if kind == "stdin":
        return _stdin_test(shown, expected)
    if kind != "functional" or function is None:
        raise DataError(
            f"A test has the `testtype` {kind!r}, and the name of its function is {function!r}. The type must be 'stdin', or "
            "'functional' with `fn_name`."
        )
    return _function_test(function, shown, [expected])


def _paired_tests(inputs: list[Any], outputs: list[Any], function: str | None) -> Iterator[Test]:
    if len(inputs) != len(outputs):
        raise DataError(
            f"The gold answer has {len(inputs)} inputs, but {len(outputs)} outputs; give one output per input."
        )
    # APPS and data sets derived from it wrap all results in a list, or none. Both readings are accepted if both are possible.
    wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)
    for shown, expected in zip(inputs, outputs, strict=True):
        if function is None:
            yield _stdin_test(shown, expected)
        else:
            yield _function_test(function, shown, [expected, expected[0]] if wrapped else [expected])


def _stdin_test(shown: Any, expected: Any) -> StdinTest:
    """Return a test of standard input. Input and output are a text or a list of lines."""
    return StdinTest(_text(shown), _text(expected))


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise DataError(
            f"{repr(value)[:DETAIL_CHARACTERS]} is not text, and programs read and print text. Give `fn_name` if a function is "
            "tested."
        )
    return value


def _function_test(function: str, shown: Any, accepted: list[Any]) -> CallTest:
    """Return a test of a function. Arguments are a list, or text with one line of JSON each; then the result is JSON as well."""
    if isinstance(shown, str):
        try:
            shown = [json.loads(line) for line in shown.split("\n")] if shown.strip() else []
            accepted = [json.loads(expected) if isinstance(expected, str) else expected for expected in accepted]
        except (ValueError, RecursionError) as error:
            raise DataError(f"The arguments or the result of a call of {function} are not JSON ({error}).") from error
    if not isinstance(shown, list):
        raise DataError(f"The arguments of a call of {function} are {repr(shown)[:DETAIL_CHARACTERS]}; give a list.")
    request = {"prefix": "", "function": function, "arguments": shown}
    return call_test(request, [plain(expected) for expected in accepted], {function, "Solution"})
