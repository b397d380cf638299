"""The gold answer of a code problem, to the tests that it holds.

A gold answer is a JSON text, or the same as a Python literal, in one of these shapes, among which `code` data sets are
published:

    {"inputs": [...], "outputs": [...], "fn_name": name}         fn_name only for functions
    [{"input": ..., "output": ..., "testtype": "stdin"}, ...]    or "functional", with a "metadata" of {"func_name": name}
    {"tests": either of these or of the assertions, "fn_name": name}
    {"public_test_cases": ..., "private_test_cases": ..., "metadata": ...}     a row of LiveCodeBench
    {"functional": "def check(candidate): assert ..."}           or {"test_code": ..., "entry_point": ...}
    ["assert ...", ...]                                          or {"assert_case": [...]}

The source of a test may hold `check` as HumanEval publishes it, with `METADATA`, imports and functions of its own, loops and
local variables. What only the prompt defines (imports, functions that a test calls) belongs to "import_prefix". So does what
MBPP publishes as `test_setup_code` and `test_imports`.

An object may also have "seconds" (the limit of each test, instead of the judge's), "checker": "special" (several outputs
are right, or a tolerance is allowed) and, with assertions, "import_prefix" (source that precedes the program). A text
that is neither is taken for base64 of a compressed pickle of texts, as LiveCodeBench hides its private tests.
What is expected stays out of the program's process: `sod.rewards.code_asserts` says how.
"""

import ast
import base64
import io
import json
import math
import pickle
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from sod.errors import DataError
from sod.rewards.code_asserts import assertions
from sod.rewards.code_tests import DETAIL_CHARACTERS, CallTest, ScriptTest, StdinTest, Test, Tests, call_test
from sod.rewards.functional_driver import plain

CACHED_GOLDS = 32
MOST_BYTES = 256 << 20
"""Of packed tests, opened. LiveCodeBench's largest are some 40 MiB."""
MOST_VALUES = 1_000_000
"""In a packed object."""

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
"""What reading packed tests raises if they are damaged."""


@lru_cache(maxsize=CACHED_GOLDS)
def tests_of(gold: str) -> Tests:
    """The tests that a gold answer holds. Raises DataError for one that holds none, or cannot be read.

    The latest are kept: all attempts at a problem share its tests.
    """
    document = _document(gold)
    options: dict[str, Any] = document if isinstance(document, dict) else {}
    try:
        tests = tuple(_tests(document, options))
    except RecursionError as error:
        raise DataError("Its tests are nested too deeply.") from error
    if not tests:
        raise DataError("It has no test.")
    seconds, checker = options.get("seconds"), options.get("checker")
    if seconds is not None and not (_is_number(seconds) and 0 < seconds < math.inf):
        raise DataError(f"Its `seconds` are {seconds!r}, which is no time limit.")
    if checker not in (None, "special"):
        raise DataError(f"Its `checker` is {checker!r}; only 'special' is known.")
    return Tests(tests, seconds=seconds, special=checker == "special")


@lru_cache(maxsize=CACHED_GOLDS)
def as_pairs(gold: str) -> str:
    """A row of LiveCodeBench as `inputs` and `outputs`, the shape in which the reference has it; any other gold as it is."""
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
    """A text that is JSON, a Python literal, or packed."""
    if text.lstrip()[:1] not in ("{", "["):
        return _unpacked(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise DataError(f"It is neither JSON ({error}) nor a Python literal.") from error


class _TextUnpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    """Reads texts, numbers, lists and dicts. A pickle that names anything else, which could run code, is refused.

    It is the unpickler in Python: that in C takes any amount of memory for one number in the data.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpacked(text: str) -> Any:
    """What is in base64 of a compressed pickle: JSON as a text, or an object."""
    try:
        content = _TextUnpickler(io.BytesIO(_decompressed(base64.b64decode(text, validate=True)))).load()
        return json.loads(content) if isinstance(content, str) else _counted(content)
    except DAMAGES as error:
        shown = text[:40]
        raise DataError(
            f"It is neither JSON nor packed tests ({type(error).__name__}: {error}); it begins {shown!r}."
        ) from error


def _decompressed(data: bytes) -> bytes:
    """Raises ValueError beyond MOST_BYTES: a few bytes could hold any amount."""
    stream = zlib.decompressobj()
    opened = stream.decompress(data, MOST_BYTES)
    if not stream.eof:
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB, or cut short")
    return opened


def _counted(content: Any) -> Any:
    """The content. Raises ValueError for one of more than MOST_VALUES, as one within another many times over is."""
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
    """The tests of a document in any of the known shapes; `options` are the fields of the objects that it is in."""
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
            found = f"an object of {', '.join(map(repr, document))}" if isinstance(document, dict) else repr(document)
            raise DataError(
                f"Tests are expected as `inputs` and `outputs`, or as one of the other shapes; found {found}."
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
            raise DataError(f"A test has no `input` and `output`: {repr(case)[:DETAIL_CHARACTERS]}.")
    if kind == "stdin":
        return _stdin_test(shown, expected)
    if kind != "functional" or function is None:
        raise DataError(f"A test is of type {kind!r}, and its function has the name {function!r}.")
    return _function_test(function, shown, [expected])


def _paired_tests(inputs: list[Any], outputs: list[Any], function: str | None) -> Iterator[Test]:
    if len(inputs) != len(outputs):
        raise DataError(f"It has {len(inputs)} inputs, but {len(outputs)} outputs.")
    # APPS and what came of it wrap every result in a list, or none; where both could be, both are accepted.
    wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)
    for shown, expected in zip(inputs, outputs, strict=True):
        if function is None:
            yield _stdin_test(shown, expected)
        else:
            yield _function_test(function, shown, [expected, expected[0]] if wrapped else [expected])


def _stdin_test(shown: Any, expected: Any) -> StdinTest:
    """Either is a text, or a list of lines."""
    return StdinTest(_text(shown), _text(expected))


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise DataError(
            f"A program reads and prints text, not {repr(value)[:DETAIL_CHARACTERS]}; is `fn_name` missing?"
        )
    return value


def _function_test(function: str, shown: Any, accepted: list[Any]) -> CallTest:
    """Arguments are a list or, as text, a line of JSON each; then the result is one of JSON as well."""
    if isinstance(shown, str):
        try:
            shown = [json.loads(line) for line in shown.split("\n")] if shown.strip() else []
            accepted = [json.loads(expected) if isinstance(expected, str) else expected for expected in accepted]
        except (ValueError, RecursionError) as error:
            raise DataError(f"The arguments or the result of a call of {function} are not JSON ({error}).") from error
    if not isinstance(shown, list):
        raise DataError(f"The arguments of a call of {function} are {repr(shown)[:DETAIL_CHARACTERS]}, not a list.")
    request = {"prefix": "", "function": function, "arguments": shown}
    return call_test(request, [plain(expected) for expected in accepted], {function, "Solution"})
