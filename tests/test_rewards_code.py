"""Programs and their verdicts: what real programs do, what hostile ones try, and what the reference makes of them."""

import asyncio
import base64
import json
import pickle
import resource
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confining import CONFINABLE
from reference import shared

from sod.errors import DataError
from sod.rewards import Judge, Verdict, code, code_golds, code_tests
from sod.rewards.reference_code import ReferenceCodeJudge
from sod.sandbox import Program, Result, Sandbox
from sod.sandbox.local import LocalSandbox

JudgeOf = Callable[..., Verdict]
SECONDS = 30.0
"""More than a busy machine needs for any of the programs that end."""


@pytest.fixture(scope="module")
def verdict() -> Iterator[JudgeOf]:
    """Judge a text by a gold answer, in one sandbox for all tests."""
    with asyncio.Runner() as runner:
        sandbox = LocalSandbox(workers=2, unsafe=not CONFINABLE)

        def judge(text: str, gold: Any, *, seconds: float = SECONDS) -> Verdict:
            return runner.run(code.CodeJudge(sandbox, seconds=seconds)(text, as_text(gold)))

        yield judge
        runner.run(sandbox.close())


@pytest.fixture(scope="module")
def reference() -> Iterator[JudgeOf]:
    """The same by the reference's rules."""
    with asyncio.Runner() as runner:
        sandbox = LocalSandbox(workers=2, unsafe=not CONFINABLE)
        yield lambda text, gold: runner.run(ReferenceCodeJudge(sandbox)(text, as_text(gold)))
        runner.run(sandbox.close())


def as_text(gold: Any) -> str:
    return gold if isinstance(gold, str) else json.dumps(gold)


def fenced(program: str) -> str:
    return f"This solves it.\n```python\n{program}\n```\n"


class Scripted:
    """A sandbox that reports what it is told to, and how many programs were in it at a time."""

    def __init__(self, *results: Result) -> None:
        self.results = list(results)
        self.inside = 0
        self.crowds: list[int] = []

    async def run(self, program: Program) -> Result:
        del program
        self.inside += 1
        result, place = self.results.pop(0), len(self.crowds)
        self.crowds.append(0)
        for _ in range(10):  # time for others to come in
            self.crowds[place] = max(self.crowds[place], self.inside)
            await asyncio.sleep(0)
        self.inside -= 1
        return result

    async def close(self) -> None:
        pass


# Programs that read standard input

TOTAL = {"inputs": ["3\n1\n2\n3\n", "1\n-5"], "outputs": ["6\n", "-5\n"]}
"""How many numbers, then the numbers: their sum."""

READERS = {
    "input": "print(sum(int(input()) for _ in range(int(input()))))",
    "buffer.read": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split()[1:])))",
    "buffer.readline": "import sys\nread = sys.stdin.buffer.readline\nprint(sum(int(read()) for _ in range(int(read()))))",
    "for line in stdin": "import sys\nprint(sum(int(line) for i, line in enumerate(sys.stdin) if i))",
    "input, then the rest": "import sys\nn = int(input())\nprint(sum(map(int, sys.stdin.read().split())))",
    "open(0)": "print(sum(list(map(int, open(0)))[1:]))",
    "os.read": "import os\nprint(sum(map(int, os.read(0, 10**6).split()[1:])))",
    "buffer.write": "import sys\nn, *a = map(int, sys.stdin.read().split())\nsys.stdout.buffer.write(str(sum(a)).encode())",
    "a global counter": (
        "total = 0\ndef add(x):\n    global total\n    total += x\n"
        "for _ in range(int(input())):\n    add(int(input()))\nprint(total)"
    ),
    "a main guard": (
        "def main():\n    print(sum(int(input()) for _ in range(int(input()))))\nif __name__ == '__main__':\n    main()"
    ),
    "a thread with a large stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**27)\n"
        "def depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)\n"
        "def main():\n    n, *a = map(int, sys.stdin.read().split())\n    print(sum(a) + depth(20000) - 20000)\n"
        "thread = threading.Thread(target=main)\nthread.start()\nthread.join()"
    ),
    "sys.exit at the end": "import sys\nn, *a = map(int, open(0).read().split())\nprint(sum(a))\nsys.exit()",
    "escapes in strings": (
        'import sys\nn, *a = map(int, sys.stdin.read().split())\nprint("\\n".join([str(sum(a))]), sep="\\t", end="\\n")'
    ),
}


@pytest.mark.parametrize("program", READERS.values(), ids=READERS)
def test_every_way_to_read_and_print_works(program: str, verdict: JudgeOf) -> None:
    assert verdict(fenced(program), TOTAL) == Verdict(outcome="right", reason="all tests passed (2)")


OUTPUTS = [
    ("6", "6\n", True),
    ("6 \n\n", "6", True),
    ("  6\r\n", "6", True),
    ("1 2 \n3", "1 2\n3 \n", True),
    ("1  2", "1 2", True),
    ("1.0", "1.000000", True),
    ("1.0 2", "1 2.00", True),
    ("1e3", "1000", True),
    ("0.30000000000000004", "0.3", False),
    ("0.333333333333", "0.3333333333333333", False),
    ("YES", "Yes", False),
    ("yes  no", "yes no", False),
    ("1\n2", "1 2", False),
    ("1\n\n2", "1\n2", False),
    ("6\n6", "6", False),
    ("", "6", False),
    ("", "", True),
    ("6 extra", "6", False),
    ("nan", "nan", True),
    ("nan 1", "nan 1.0", False),
    ("sNaN 1", "sNaN 1.0", False),
    ("9" * 5000 + ".0", "9" * 5000, True),
    ("1e999999999999", "1", False),
]


@pytest.mark.parametrize(("found", "expected", "same"), OUTPUTS)
def test_output_is_compared_by_lines_and_numbers(found: str, expected: str, same: bool) -> None:
    assert code_tests.same_output(found, expected) == same


FAILURES = {
    "print(7)": "test 1 of 2: wrong answer",
    "print(6)": "test 2 of 2: wrong answer",
    "print(input()": "test 1 of 2: error (SyntaxError: '(' was never closed)",
    "print(6)\nprint('done')": "test 1 of 2: wrong answer",
    "import sys\nprint(6)\nsys.exit(1)": "test 1 of 2: error",
    "1 / 0": "test 1 of 2: error (ZeroDivisionError: division by zero)",
    "import os\nos.abort()": "test 1 of 2: error (signal 6)",
    "while True:\n    print('x' * 65536)": "test 1 of 2: error (output limit)",
    "def broken():\n    pass": "test 1 of 2: wrong answer",
}


@pytest.mark.parametrize(("program", "reason"), FAILURES.items())
def test_the_first_test_that_fails_is_named(program: str, reason: str, verdict: JudgeOf) -> None:
    assert verdict(fenced(program), TOTAL) == Verdict(outcome="wrong", reason=reason)


def test_a_program_that_never_ends_is_wrong_even_if_it_catches_everything(verdict: JudgeOf) -> None:
    program = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
    assert verdict(fenced(program), TOTAL, seconds=0.5).reason == "test 1 of 2: timeout"


def test_a_problem_may_set_its_own_limit(verdict: JudgeOf) -> None:
    assert verdict(fenced("while True:\n    pass"), TOTAL | {"seconds": 0.5}).reason == "test 1 of 2: timeout"


def test_large_tests_are_no_trouble(verdict: JudgeOf) -> None:
    numbers = "\n".join(map(str, range(200_000)))
    echo = {"inputs": [numbers], "outputs": [numbers]}
    assert verdict(fenced("import sys\nsys.stdout.write(sys.stdin.read())"), echo).outcome == "right"
    call = {"inputs": [json.dumps(list(range(200_000)))], "outputs": [json.dumps(list(range(200_000)))], "fn_name": "f"}
    assert verdict(fenced("def f(a):\n    return a"), call).outcome == "right"


def test_what_needs_a_special_judge_is_never_wrong_for_its_output_alone(verdict: JudgeOf) -> None:
    special = TOTAL | {"checker": "special"}
    assert verdict(fenced(READERS["input"]), special).outcome == "right"
    assert verdict(fenced("print(7)"), special) == Verdict(
        outcome="ungraded", reason="test 1 of 2: ungraded (needs a special judge)"
    )
    assert verdict(fenced("1 / 0"), special).outcome == "wrong"


# From text to program

SOLUTION = READERS["input"]
BARE = f"```\n{SOLUTION}\n```"
TEXTS = {
    "one block": fenced(SOLUTION),
    "a space after the tag": f"```python \n{SOLUTION}\n```",
    "py": f"```py\n{SOLUTION}\n```",
    "python3": f"```python3\n{SOLUTION}\n```",
    "Python": f"```Python\n{SOLUTION}\n```",
    "no tag": BARE,
    "never closed": f"```python\n{SOLUTION}",
    "four backticks": f"````python\n{SOLUTION}\n````",
    "after words": f"The program: ```python\n{SOLUTION}\n```",
    "carriage returns": fenced(SOLUTION).replace("\n", "\r\n"),
    "in a list": "1. So:\n   ```python\n   n = int(input())\n   if n:\n       print(sum(int(input()) for _ in range(n)))\n   ```",
    "one thought": f"{fenced('print(0)')}</think>\n{fenced(SOLUTION)}",
    "two thoughts": f"{fenced('print(0)')}</think>{fenced('print(1)')}</think>\n{fenced(SOLUTION)}",
    "a correction": fenced("print(int(input()))") + fenced(SOLUTION),
    "then how to use it": fenced(SOLUTION) + fenced("print(add([1, 2, 3]))  # 6"),
    "then what it prints": fenced(SOLUTION) + "```\n6\n```",
    "then a shell": fenced(SOLUTION) + "```bash\npython solution.py < input\n```",
    "then a block that does not parse": fenced(SOLUTION) + "```python\n$ python solution.py\n3 input\n```",
    "then an empty block": fenced(SOLUTION) + "```python\n\n```",
    "fences in comments": fenced(f"# not ```python\n# nor ```\n{SOLUTION}"),
    "fences in a docstring": f"````python\n'''\n```python\n0\n```\n'''\n{SOLUTION}\n````",
    "attributes": f'```python title="a.py"\n{SOLUTION}\n```',
    "a file name": f"```python:main.py\n{SOLUTION}\n```",
    "a tag in braces": f"```{{.python}}\n{SOLUTION}\n```",
    "tildes": f"~~~python\n{SOLUTION}\n~~~",
    "tildes after backticks": f"```\n3 4\n```\n~~~\n{SOLUTION}\n~~~",
    "in Markdown": f"````markdown\n{fenced(SOLUTION)}````",
    "a fence at the end of the last line": f"```python\n{SOLUTION}```",
    "the same, and words": f"```python\n{SOLUTION}```\nThat is all.",
    "the output of a tool": f"<tool_response>\n{fenced('print(0)')}</tool_response>\n{fenced(SOLUTION)}",
    "a fence that was forgotten": f"```python\nprint(0)\nNow properly:\n```python\n{SOLUTION}\n```",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_program_is_found(text: str, verdict: JudgeOf) -> None:
    assert verdict(text, TOTAL).outcome == "right"


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "The sum.",
            SOLUTION,
            "```python\n```",
            "```cpp\nint main() {}\n```",
            f"{fenced(SOLUTION)}</think>6",
            "`x`",
        ],
        f"<think>{fenced(SOLUTION)}",
        f"<tool_response>{fenced(SOLUTION)}</tool_response>It works.",
        f"{fenced(SOLUTION)}<tool_call>{{}}</tool_call><tool_response>6</tool_response>It works.",
    ],
)
def test_without_a_program_there_is_no_code(text: str, verdict: JudgeOf) -> None:
    assert verdict(text, TOTAL) == Verdict(outcome="wrong", reason="no code")


def test_not_a_character_of_a_program_is_changed() -> None:
    program = 's = """\n\ttab \\n \\t  \n  """\n\nprint("a\\nb", r"\\d", \'`\')  # ü\u2028 \x0c end  '
    assert code.program_in(f"```python\n{program}\n```", frozenset()) == program


def test_of_functions_the_last_block_that_defines_them_counts() -> None:
    first, second = "class Solution:\n    def f(self): return 1", "def f():\n    return 2"
    usage = "print(Solution().f())"
    names = frozenset({"f", "Solution"})
    assert code.program_in(fenced(first) + fenced(second) + fenced(usage), names) == second
    assert code.program_in(fenced(first) + fenced("f = lambda: 3") + fenced(usage), names) == "f = lambda: 3"
    assert code.program_in(fenced(usage) + fenced("nothing"), names) == "nothing"


@pytest.mark.parametrize("strange", ["(" * 100_000, "`" * 100_000, "```python\n" * 20_000, "-" * 100_000 + "1", "\0"])
def test_any_text_is_read(strange: str) -> None:
    assert code.program_in(fenced(strange) + fenced(SOLUTION), frozenset()) == SOLUTION


LONG = "n = int(input())\nprint(6 if n == 3 else -5)\n" + "# x\n" * 20_000


@pytest.mark.parametrize(
    "costly",
    [
        "import " + "append." * 20_480 + "a",
        "import " + "a." * 300_000 + "a",
        "import " + "a . " * 10_000 + "a",
        "import " + "a.\\\n" * 10_000 + "a",
        "a," * 300_000,
        "[x " + "for x in y " * 50_000 + "]",
        "".join(f"```python\n{'a,' * 10_000}\n```\n" for _ in range(40)),
    ],
)
def test_a_text_that_is_costly_to_parse_is_not_parsed(costly: str) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert code.program_in(fenced(costly), frozenset()) is not None
    now = resource.getrusage(resource.RUSAGE_SELF)
    assert now.ru_maxrss - used.ru_maxrss < 100 << 10
    assert not code_tests.is_cheap(costly)


def test_a_program_too_long_to_be_parsed_is_run_as_it_stands(verdict: JudgeOf) -> None:
    assert verdict(fenced(LONG), TOTAL).outcome == "right"
    assert verdict(fenced(LONG.replace("6", "7")), TOTAL).outcome == "wrong"
    assert code.program_in(fenced(SOLUTION) + fenced("# " + "x" * 70_000), frozenset()) != SOLUTION


# Functions


def calls(*pairs: tuple[list[Any], Any]) -> dict[str, Any]:
    """Tests of a function f, as LiveCodeBench writes them."""
    return {
        "inputs": ["\n".join(map(json.dumps, arguments)) for arguments, _ in pairs],
        "outputs": [json.dumps(result) for _, result in pairs],
        "fn_name": "f",
    }


@pytest.mark.parametrize(
    ("body", "expected", "outcome"),
    [
        ("return [1, 2, 3]", [1, 2, 3], "right"),
        ("return (1, 2, 3)", [1, 2, 3], "right"),
        ("return [(1, 2), (3, 4)]", [[1, 2], [3, 4]], "right"),
        ("return 'abc'", "abc", "right"),
        ("return 'é\\n\\ud800'", "é\n\ud800", "right"),
        ("return None", None, "right"),
        ("pass", None, "right"),
        ("return True", True, "right"),
        ("return 1", True, "right"),
        ("return 2.0", 2, "right"),
        ("return {'a': [1], 'b': {}}", {"b": {}, "a": [1]}, "right"),
        ("return defaultdict(list, a=[1])", {"a": [1]}, "right"),
        ("return 10**30", 10**30, "right"),
        ("return inf", float("inf"), "right"),
        ("import numpy\n    return numpy.int64(5)", 5, "right"),
        ("return 'abd'", "abc", "wrong"),
        ("return '1'", 1, "wrong"),
        ("return [1, 2]", [1, 2, 3], "wrong"),
        ("return [[1]]", [1], "wrong"),
        ("return {1: 2}", {"1": 2}, "wrong"),
        ("return {1, 2}", [1, 2], "wrong"),
        ("return range(3)", [0, 1, 2], "wrong"),
        ("return 0.1 + 0.2", 0.3, "wrong"),
        ("return float('nan')", 0, "wrong"),
        ("return None", False, "wrong"),
        ("return print", None, "wrong"),
    ],
)
def test_results_equal_as_in_python_and_tuples_are_lists(
    body: str, expected: Any, outcome: str, verdict: JudgeOf
) -> None:
    assert verdict(fenced(f"def f():\n    {body}"), calls(([], expected))).outcome == outcome


@pytest.mark.parametrize(
    "program",
    [
        "class Solution:\n    def f(self, a: List[int], k: int) -> int:\n        return sum(a) * k",
        "def f(a, k):\n    return sum(a) * k",
        "f = lambda a, k: sum(a) * k",
        "def f(a, k):\n    print('garbage', a)\n    return sum(a) * k\nprint('{}')",
        "from __future__ import annotations\ndef f(a: Unknown, k):\n    return k * sum(a)",
        "@cache\ndef g(n):\n    return 0 if n == 0 else 1 + g(n - 1)\ndef f(a, k):\n    return sum(a) * k + g(9000) - 9000",
        "import os, sys\ndef f(a, k):\n    sys.stdout.close()\n    os.close(1)\n    return sum(a) * k",
        "import atexit, threading\natexit.register(print, 'garbage')\nthreading.Thread(target=threading.Event().wait).start()\n"
        "def f(a, k):\n    return sum(a) * k",
        "def f(a, k):\n    return sum(a) * k\nif __name__ == '__main__':\n    print(f(list(map(int, input().split())), 1))",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(a, k):\n    return P(sum(a) * k).x",
    ],
)
def test_functions_are_called_however_they_are_written(program: str, verdict: JudgeOf) -> None:
    assert verdict(fenced(program), calls(([[1, 2], 2], 6), ([[], 1], 0))).outcome == "right"


EQUAL_TO_ALL = "class Any:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
PEEK = """
import os, sys
def f(a):
    frame, seen = sys._getframe(), []
    while frame:
        seen += [*frame.f_locals.values(), *frame.f_globals.values()]
        frame = frame.f_back
    os.lseek(0, 0, os.SEEK_SET)
    text = repr(seen) + repr(os.read(0, 10**6)) + open('program.py').read()
    answer = '123456789'[::-1]
    return [int(answer)] if answer in text else None
"""
REPLY = "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b{!r})\n    except OSError:\n        pass\n"
HOSTILE = {
    "an object equal to all": EQUAL_TO_ALL + "def f(a): return Any()",
    "a list of objects equal to all": EQUAL_TO_ALL + "def f(a): return [Any()]",
    "a list equal to all": "class L(list):\n    def __eq__(self, other): return True\ndef f(a): return L()",
    "an int equal to all": "class I(int):\n    def __eq__(self, other): return True\ndef f(a): return [I()]",
    "looking for the answer": PEEK,
    "leaving early": "import os\ndef f(a): os._exit(0)",
    "exiting": "import sys\ndef f(a): sys.exit(0)",
    "printing": "def f(a):\n    print([1])\nprint('passed')",
    "writing a guess": "def f(a):\n" + "".join(f"    {line}\n" for line in REPLY.format("[1]").splitlines()),
    "writing a guess and leaving": REPLY.format("[1]") + "os._exit(0)\ndef f(a): pass",
    "writing nonsense": REPLY.format('{"dict": 1}') + "os._exit(0)\ndef f(a): pass",
    "writing brackets": REPLY.format("[" * 50_000) + "os._exit(0)\ndef f(a): pass",
    "other json": "import json\njson.dumps = lambda *a, **k: 'true'\ndef f(a): return 0",
    "other builtins": "import builtins\nbuiltins.isinstance = lambda *a: True\ndef f(a): return Solution",
    "at exit": "import atexit, os\natexit.register(lambda: os.write(1, b'[1]'))\ndef f(a): return 0",
    "flooding": "import os\ndef f(a):\n    while True:\n        os.write(2, b'x' * 65536)",
    "a circle": "def f(a):\n    a.append(a)\n    return a",
    "raising": "def f(a): raise KeyboardInterrupt",
    "another name": "def g(a): return [987654321]",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE)
def test_no_trick_makes_wrong_right(program: str, verdict: JudgeOf) -> None:
    assert verdict(fenced(program), calls(([[0]], [987654321]))).outcome == "wrong"


def test_what_is_expected_never_enters_the_sandbox() -> None:
    golds = [
        {"inputs": ["1"], "outputs": ["987654321"]},
        calls(([[1]], 987654321)),
        {"functional": "def check(candidate):\n    assert candidate(1) == 987654321\ncheck(f)"},
    ]
    for gold in golds:
        for test in code_golds.tests_of(as_text(gold)).tests:
            assert not isinstance(test, code_tests.ScriptTest)
            program = test.program("pass", seconds=1, memory_mb=1)
            assert "987654321" not in f"{program.code}{program.stdin}{program.files}"


@pytest.mark.parametrize(
    ("forged", "expected"),
    [
        ({"set": [1, 2]}, {"set": [2]}),
        ({"set": [1, 1]}, {"set": [1, 2]}),
        ({"set": [{"set": []}]}, {"set": [1]}),
        ({"set": 5}, {"set": [1]}),
        ({"dict": [1]}, {"dict": [[1, 2]]}),
        ({"dict": [[1, 2], [1, 2]]}, {"dict": [[1, 2], [3, 4]]}),
        ({"dict": [], "set": []}, {"set": []}),
        ({"other": "bytes"}, {"other": "bytes"}),
        ({}, []),
        ([], {"dict": []}),
        ({"list_node": [1]}, {"tree_node": [1]}),
    ],
)
def test_values_that_differ_are_not_the_same(forged: Any, expected: Any) -> None:
    assert not code_tests.same_value(forged, expected)


def test_sets_and_dicts_have_no_order_and_numbers_no_type() -> None:
    assert code_tests.same_value({"set": [1, [2, 3]]}, {"set": [[2, 3.0], True]})
    assert code_tests.same_value({"dict": [["a", 1], ["b", [2]]]}, {"dict": [["b", [2.0]], ["a", 1]]})


# Assertions

# The first assertions of problems 2 and 106 of LeetCode (agentica-project/rllm, MIT).
ADD_LISTS = {
    "functional": "def check(candidate):\n"
    "    assert is_same_list(candidate(l1 = list_node([2,4,3]), l2 = list_node([5,6,4])), list_node([7,0,8]))\n"
    "    assert is_same_list(candidate(l1 = list_node([0]), l2 = list_node([0])), list_node([0]))\n\n\n"
    "check(Solution().addTwoNumbers)"
}
ADD = """
class Solution:
    def addTwoNumbers(self, l1: Optional[ListNode], l2: Optional[ListNode]) -> Optional[ListNode]:
        head = tail = ListNode()
        carry = 0
        while l1 or l2 or carry:
            carry, digit = divmod(carry + (l1.val if l1 else 0) + (l2.val if l2 else 0), 10)
            tail.next = ListNode(digit)
            tail = tail.next
            l1, l2 = l1 and l1.next, l2 and l2.next
        return head.next
"""
OWN_NODE = "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val, self.next = val, next\n"


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        (ADD, "right"),
        (OWN_NODE + ADD, "right"),
        (ADD.replace("l1.val if l1 else 0", "0"), "wrong"),
        (ADD.replace("return head.next", "return None"), "wrong"),
        (ADD.replace("return head.next", "tail.next = head\n        return head"), "wrong"),
        (ADD.replace("return head.next", "return [7, 0, 8]"), "wrong"),
    ],
)
def test_lists_of_nodes(program: str, outcome: str, verdict: JudgeOf) -> None:
    assert verdict(fenced(program), ADD_LISTS).outcome == outcome


MIRROR = """
class Solution:
    def mirror(self, root):
        if root:
            root.left, root.right = self.mirror(root.right), self.mirror(root.left)
        return root
"""


@pytest.mark.parametrize(
    ("tree", "mirrored", "outcome"),
    [
        ("[1,2,3]", "tree_node([1,3,2])", "right"),
        ("[1,2,None,3]", "tree_node([1,None,2,None,3])", "right"),
        ("[1,2,None,3,None,None]", "tree_node([1,None,2,None,3,None,None,None])", "right"),
        ("[]", "tree_node([])", "right"),
        ("[]", "None", "right"),
        ("[1,2,3]", "tree_node([1,2,3])", "wrong"),
        ("[1,2]", "tree_node([1,2])", "wrong"),
        ("[1]", "tree_node([])", "wrong"),
    ],
)
def test_trees(tree: str, mirrored: str, outcome: str, verdict: JudgeOf) -> None:
    assertion = f"assert is_same_tree(candidate(root=tree_node({tree})), {mirrored})"
    gold = {"functional": f"def check(candidate):\n    {assertion}\ncheck(Solution().mirror)"}
    assert verdict(fenced(MIRROR), gold).outcome == outcome


ASSERTIONS = [
    ("assert f(2) == 4", "f(2)", 4),
    ("assert f(x=[1, -2]) == (1.5, [None])", "f(x=[1, -2])", [1.5, [None]]),
    ("assert f({1: 'a'}) == {1: 'a', 'b': {2}}", "f({1: 'a'})", {"dict": [[1, "a"], ["b", {"set": [2]}]]}),
    ("assert is_same_list(f(1), list_node([1]))", "f(1)", {"list_node": [1]}),
]


@pytest.mark.parametrize(("source", "expression", "expected"), ASSERTIONS)
def test_assertions_are_split_into_what_to_compute_and_what_is_expected(
    source: str, expression: str, expected: Any
) -> None:
    [test] = code_golds.tests_of(json.dumps([source])).tests
    assert isinstance(test, code_tests.CallTest)
    assert json.loads(test.request)["expression"] == expression
    assert test.accepted == (expected,)
    assert test.names == {"f"}


@pytest.mark.parametrize(
    ("gold", "program"),
    [
        (["assert f(2) == 4", "assert f(3) == 9"], "def f(x): return x * x"),
        (["assert f(2) == f(-2)\nassert abs(f(0.1) - 0.01) < 1e-9"], "def f(x): return x * x"),
        (
            {"assert_case": ["assert f(2) == 4"], "import_prefix": "from math import comb\n"},
            "def f(x): return comb(4, x) - x",
        ),
        (
            {
                "import_prefix": "OFFSET = 1\n",
                "test_code": "def check(candidate):\n    assert candidate(2) == 3\n\n    assert candidate(x=3) == 4\n",
                "entry_point": "Solution().f",
            },
            "class Solution:\n    def f(self, x): return x + OFFSET",
        ),
        (["assert is_same_tree(f(tree_node([1])), tree_node([1] * 1))"], "def f(x): return x"),
        (["assert f({1, 2}) == {2, 1}"], "def f(x): return frozenset(x)"),
    ],
)
def test_assertions_of_all_shapes_are_judged(gold: Any, program: str, verdict: JudgeOf) -> None:
    assert verdict(fenced(program), gold).outcome == "right"
    assert verdict(fenced(program.replace("return", "return 'no',")), gold).outcome == "wrong"


# Gold answers


def packed(content: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(content))).decode()


LISTED = [{"input": "2\n1\n1", "output": "2", "testtype": "stdin"}]
SHAPES = {
    "inputs and outputs": TOTAL,
    "no function": TOTAL | {"fn_name": None},
    "a Python literal": str(TOTAL | {"fn_name": None}),
    "lists of lines": {"inputs": [["2", "1", "1"]], "outputs": [["2"]]},
    "a list": LISTED,
    "a list without types": [{"input": "2\n1\n1", "output": "2"}],
    "a list in an object": {"tests": LISTED},
    "a row of LiveCodeBench": {
        "public_test_cases": json.dumps(LISTED),
        "private_test_cases": packed(json.dumps(LISTED)),
        "metadata": "{}",
    },
    "packed": packed({"input_output": json.dumps(TOTAL)}),
}


@pytest.mark.parametrize("gold", SHAPES.values(), ids=SHAPES)
def test_tests_of_programs_come_in_many_shapes(gold: Any, verdict: JudgeOf) -> None:
    assert verdict(fenced(SOLUTION), gold).outcome == "right"
    assert verdict(fenced("print(int(input()) + 1)"), gold).outcome == "wrong"


CALLED = [{"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"}]
FUNCTION_SHAPES = {
    "inputs and outputs": {"inputs": ["[1, 2]\n3"], "outputs": ["[1, 2, 3]"], "fn_name": "f"},
    "values": {"inputs": [[[1, 2], 3]], "outputs": [[1, 2, 3]], "fn_name": "f"},
    "wrapped values": {"inputs": [[[1, 2], 3]], "outputs": [[[1, 2, 3]]], "fn_name": "f"},
    "a list in an object": {"tests": CALLED, "fn_name": "f"},
    "a list with metadata": [test | {"metadata": {"func_name": "f"}} for test in CALLED],
    "a row of LiveCodeBench": {
        "public_test_cases": json.dumps(CALLED),
        "private_test_cases": packed(json.dumps(CALLED)),
        "metadata": '{"func_name": "f"}',
    },
}


@pytest.mark.parametrize("gold", FUNCTION_SHAPES.values(), ids=FUNCTION_SHAPES)
def test_tests_of_functions_come_in_many_shapes(gold: Any, verdict: JudgeOf) -> None:
    assert verdict(fenced("def f(a, x): return a + [x]"), gold).outcome == "right"
    assert verdict(fenced("def f(a, x): return [x] + a"), gold).outcome == "wrong"


class Evil:
    """Pickles to a call of print."""

    def __reduce__(self) -> Any:
        return print, ("the pickle was executed",)


LAUGHS: list[Any] = ["ha"]
for _ in range(40):
    LAUGHS = [LAUGHS] * 2

MALFORMED = [
    ("", "neither JSON nor packed"),
    ("42", "neither JSON nor packed"),
    ("{'inputs': [", "neither JSON"),
    ("[" * 100_000, "neither JSON"),
    ([], "no test"),
    ({"inputs": [], "outputs": []}, "no test"),
    ({"tests": []}, "no test"),
    ({"functional": "def check(candidate):\n    pass\ncheck(f)"}, "has no assertion"),
    ({"inputs": ["1"], "outputs": []}, "1 inputs, but 0 outputs"),
    ({"inputs": [[1]], "outputs": [2]}, "Give `fn_name`"),
    ({"inputs": ["[1"], "outputs": ["2"], "fn_name": "f"}, "not JSON"),
    ({"inputs": [5], "outputs": [2], "fn_name": "f"}, "are 5; give a list"),
    ({"inputs": [[5]], "outputs": [float("nan")], "fn_name": "f"}, "cannot be compared"),
    ({"answer": 42}, "is an object with 'answer'"),
    ([{"input": "1"}], "no `input` and `output`"),
    ([{"input": "1", "output": "1", "testtype": "functional"}], "the name of its function is None"),
    ([{"input": "1", "output": "1", "testtype": "interactive"}], "'interactive'"),
    (["f(1) == 2"], "has no assertion"),
    (["assert f(1 =="], "not Python"),
    (TOTAL | {"seconds": 0}, "`seconds` = 0; the time limit"),
    (TOTAL | {"seconds": "6"}, "`seconds` = '6'; the time limit"),
    (TOTAL | {"checker": "mine"}, "only 'special'"),
    (packed(Evil()), "it contains builtins.print"),
    (packed("[")[:-8], "neither JSON nor packed"),
    (base64.b64encode(zlib.compress(bytes(257 << 20), 1)).decode(), "more than 256 MiB"),
    (base64.b64encode(zlib.compress(b"\x80\x02]r\xff\xff\xff?.")).decode(), "no test"),
    (packed(LAUGHS), "more than 1000000 values"),
    (base64.b64encode(zlib.compress(b"]K\x01a\x8c\xff")).decode(), "neither JSON nor packed"),
]


@pytest.mark.parametrize(("gold", "message"), MALFORMED)
def test_a_gold_answer_that_cannot_be_used_says_why(
    gold: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=message):
        code.CodeJudge(Scripted()).check(as_text(gold))
    assert capsys.readouterr().out == ""


# Real problems, with solutions written for these tests

# LiveCodeBench v6, public tests: AtCoder abc387_b, abc388_b; LeetCode 3709, 3736, 3708.
REAL = {
    "9x9 Sum": (
        [{"input": str(x), "output": str(y), "testtype": "stdin"} for x, y in ((1, 2024), (11, 2025), (24, 1929))],
        "x = int(input())\nprint(sum(i * j for i in range(1, 10) for j in range(1, 10) if i * j != x))",
        "x = int(input())\nprint(2025 - x)",
    ),
    "Heavy Snake": (
        {
            "inputs": ["4 3\n3 3\n5 1\n2 4\n1 10", "1 4\n100 100"],
            "outputs": ["12\n15\n20", "10100\n10200\n10300\n10400"],
        },
        "import sys\nn, d, *rest = map(int, sys.stdin.read().split())\nsnakes = list(zip(rest[::2], rest[1::2]))\n"
        "print('\\n'.join(str(max(t * (l + k) for t, l in snakes)) for k in range(1, d + 1)))",
        "n, d = map(int, input().split())\nsnakes = [tuple(map(int, input().split())) for _ in range(n)]\n"
        "for k in range(d):\n    print(max(t * (l + k) for t, l in snakes))",
    ),
    "Find Special Substring": (
        {
            "tests": [
                {"input": '"aaabaaa"\n3', "output": "true", "testtype": "functional"},
                {"input": '"abc"\n2', "output": "false", "testtype": "functional"},
            ],
            "fn_name": "hasSpecialSubstring",
        },
        "class Solution:\n    def hasSpecialSubstring(self, s: str, k: int) -> bool:\n"
        "        return any(len(list(run)) == k for _, run in groupby(s))",
        "class Solution:\n    def hasSpecialSubstring(self, s: str, k: int) -> bool:\n"
        "        return any(len(list(run)) >= k - 1 for _, run in groupby(s))",
    ),
    "Find Valid Pair": (
        {
            "inputs": ['"2523533"', '"221"', '"22"'],
            "outputs": ['"23"', '"21"', '""'],
            "fn_name": "findValidPair",
        },
        "class Solution:\n    def findValidPair(self, s: str) -> str:\n        count = Counter(s)\n"
        "        return next((a + b for a, b in pairwise(s) if a != b and count[a] == int(a) and count[b] == int(b)), '')",
        "class Solution:\n    def findValidPair(self, s: str) -> str:\n        count = Counter(s)\n"
        "        return next((a + b for a, b in pairwise(s) if a != b and count[a] == int(a) and count[b] == int(b)), None)",
    ),
    "Zigzag Grid": (
        {
            "inputs": ["[[1, 2], [3, 4]]", "[[2, 1], [2, 1], [2, 1]]", "[[1, 2, 3], [4, 5, 6], [7, 8, 9]]"],
            "outputs": ["[1, 4]", "[2, 1, 2]", "[1, 3, 5, 7, 9]"],
            "fn_name": "zigzagTraversal",
        },
        "class Solution:\n    def zigzagTraversal(self, grid: List[List[int]]) -> List[int]:\n"
        "        path = [x for i, row in enumerate(grid) for x in (row[::-1] if i % 2 else row)]\n        return path[::2]",
        "class Solution:\n    def zigzagTraversal(self, grid: List[List[int]]) -> List[int]:\n"
        "        return [x for row in grid for x in row][::2]",
    ),
}


@pytest.mark.parametrize(("gold", "solution", "mistake"), REAL.values(), ids=REAL)
def test_real_problems_tell_solutions_from_mistakes(gold: Any, solution: str, mistake: str, verdict: JudgeOf) -> None:
    assert verdict(fenced(solution), gold).outcome == "right"
    assert verdict(fenced(mistake), gold).outcome == "wrong"


SAMPLE_SOLUTIONS = [
    "for _ in range(int(input())):\n    print('NO' if input() in ('bca', 'cab') else 'YES')",
    "class Solution:\n    def countSeniors(self, details: List[str]) -> int:\n"
    "        return sum(int(each[11:13]) > 60 for each in details)",
    "input()\ns = input()\nt, a = s.count('T'), s.count('A')\n"
    "print('T' if t > a or (t == a and s[-1] == 'A') else 'A')",
]


def test_the_sample_of_livecodebench_v1_is_solved_with_all_its_tests(verdict: JudgeOf) -> None:
    lines = shared("data/lcb_v1_sample3_with_tests.sandboxfusion.jsonl").read_text(encoding="utf-8").splitlines()
    for line, solution in zip(lines, SAMPLE_SOLUTIONS, strict=True):
        assert verdict(fenced(solution), json.loads(line)["test"]).outcome == "right"


@pytest.mark.parametrize(
    ("name", "gold", "tests"),
    [
        ("lcb_v6_public_tests_only.jsonl", json.dumps, 463),
        ("codeforces_stdio_sample.jsonl", lambda row: json.dumps(row["tests"]), 468),
        ("train_code_leetcode_functional.jsonl", lambda row: json.dumps(row["tests"]), 4750),
    ],
)
def test_every_row_of_the_data_can_be_judged_with_its_answers_outside(
    name: str, gold: Callable[[dict[str, Any]], str], tests: int
) -> None:
    lines = shared(f"data/{name}").read_text(encoding="utf-8").split("\n")
    found = [test for line in lines if line for test in code_golds.tests_of(gold(json.loads(line))).tests]
    assert len(found) == tests
    assert not [test for test in found if isinstance(test, code_tests.ScriptTest)]


# When the sandbox or the machine is to blame

OK, LATE = Result(status="ok", stdout="6\n"), Result(status="timeout", seconds=6.0, cpu_seconds=1.0)
SPENT = Result(status="timeout", seconds=6.0, cpu_seconds=5.9)
LOST = Result(status="sandbox_error", message="no server")
ONE = json.dumps({"inputs": ["1"], "outputs": ["6"]})


def judge_with(sandbox: Sandbox, times: int = 1, judge: type[Judge] | None = None, gold: str = ONE) -> list[Verdict]:
    async def main() -> list[Verdict]:
        judging = judge(sandbox) if judge else code.CodeJudge(sandbox)  # pyright: ignore[reportCallIssue]
        return await asyncio.gather(*(judging(fenced("pass"), gold) for _ in range(times)))

    return asyncio.run(main())


def test_a_failure_of_the_sandbox_is_never_wrong() -> None:
    assert judge_with(Scripted(LOST)) == [
        Verdict(outcome="ungraded", reason="test 1 of 1: ungraded (the sandbox failed: no server)")
    ]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (LOST, "the sandbox failed: no server"),
        (SPENT, "the sandbox stopped the test before its first call: it took too long"),
    ],
)
def test_a_sandbox_that_fails_at_the_start_of_a_test_in_python_is_named(result: Result, reason: str) -> None:
    [verdict] = judge_with(Scripted(result), gold=json.dumps(["assert abs(f(2) - 4) < 1"]))
    assert verdict == Verdict(outcome="ungraded", reason=f"test 1 of 1: ungraded ({reason})")


def test_a_timeout_without_processor_time_is_tried_again_with_nobody_beside_it() -> None:
    sandbox = Scripted(OK, LATE, OK, OK, LATE, OK, OK)
    outcomes = [verdict.outcome for verdict in judge_with(sandbox, 5)]
    assert outcomes == ["right"] * 5
    assert sandbox.crowds[:5] == [5] * 5
    assert sandbox.crowds[5:] == [1, 1]


def test_nobody_starts_while_a_test_waits_to_be_alone() -> None:
    two = json.dumps({"inputs": ["1", "2"], "outputs": ["6", "6"]})
    sandbox = Scripted(LATE, OK, OK, OK, OK)

    async def main() -> None:
        judge = code.CodeJudge(sandbox)
        await asyncio.gather(judge(fenced("pass"), ONE), judge(fenced("pass"), two), judge(fenced("pass"), ONE))

    asyncio.run(main())
    assert sandbox.crowds == [3, 3, 3, 1, 1]


@pytest.mark.parametrize(
    ("results", "reason"), [([SPENT], "timeout"), ([LATE, LATE], "timeout"), ([LATE, LOST], "ungraded")]
)
def test_a_timeout_that_is_the_programs_own_stays_one(results: list[Result], reason: str) -> None:
    sandbox = Scripted(*results)
    [verdict] = judge_with(sandbox)
    assert reason in verdict.reason
    assert sandbox.results == []


def test_a_judge_goes_from_one_event_loop_to_the_next() -> None:
    judge = code.CodeJudge(Scripted(*[OK] * 4))

    async def main() -> list[Verdict]:
        return await asyncio.gather(*[judge(fenced("pass"), ONE) for _ in range(2)])

    assert asyncio.run(main()) == asyncio.run(main())


def test_the_outcome_of_every_test_that_ran_can_be_had() -> None:
    judge = code.CodeJudge(Scripted(OK, SPENT))
    tests = code_golds.tests_of(json.dumps({"inputs": ["1"] * 3, "outputs": ["6"] * 3}))
    outcomes = asyncio.run(judge.run_tests("pass", tests))
    assert [(outcome.status, outcome.cpu_seconds) for outcome in outcomes] == [("passed", 0.0), ("timeout", 5.9)]


# The reference, as it judges

ASSERTED = {
    "import_prefix": "from typing import *\n",
    "test_code": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n",
    "entry_point": "Solution().f",
}
METHOD = "class Solution:\n    def f(self, a): return a"


@pytest.mark.parametrize(
    ("text", "gold", "ours", "theirs", "reason"),
    [
        (fenced(SOLUTION), TOTAL, "right", "right", "score 1.00: 2 of 2 tests passed"),
        (fenced(READERS["escapes in strings"]), TOTAL, "right", "wrong", "score -1: SyntaxError"),
        (f"{fenced('0')}</think>{fenced('1')}</think>{fenced(SOLUTION)}", TOTAL, "right", "wrong", "score 0.00"),
        (f"hm</think>then</think>{fenced(SOLUTION)}", TOTAL, "right", "wrong", "score -1: no code"),
        (f"hm</think>{fenced(SOLUTION)}", TOTAL, "right", "right", "score 1.00"),
        (f"```python \n{SOLUTION}\n```", TOTAL, "right", "wrong", "score -1: no code"),
        (f"```py\n{SOLUTION}\n```", TOTAL, "right", "wrong", "score -1: no code"),
        (f"```python\n{SOLUTION}", TOTAL, "right", "wrong", "score -1: no code"),
        (fenced(SOLUTION) + fenced("print('usage')"), TOTAL, "right", "wrong", "score 0.00"),
        (fenced("print(input(), '')"), {"inputs": ["5"], "outputs": ["5"]}, "right", "wrong", "score 0.00"),
        (fenced("print(input())"), {"inputs": ["5"], "outputs": ["5 "]}, "right", "wrong", "score 0.00"),
        (fenced("print(float(input()))"), {"inputs": ["1"], "outputs": ["1.000000"]}, "right", "wrong", "score 0.00"),
        (fenced("def f(a): return a"), str(calls(([1], 1))), "right", "wrong", "score -1: TypeError"),
        (fenced(METHOD), calls(([1], 1)), "right", "right", "score 1.00"),
        (fenced(METHOD), calls(([True], True)), "right", "right", "score 1.00"),
        (
            fenced(METHOD),
            {"inputs": ["[1,2,3]"], "outputs": ["[1,2,3]"], "fn_name": "f"},
            "right",
            "wrong",
            "score 0.00",
        ),
        (fenced(METHOD), calls((["abc"], "abc")), "right", "wrong", "score 0.00"),
        (fenced(SOLUTION), TOTAL | {"fn_name": None}, "right", "wrong", "score -1: ValueError"),
        (fenced("print(6)"), TOTAL, "wrong", "wrong", "score 0.50: 1 of 2 tests passed"),
        (
            fenced("class Solution:\n    def f(self, x): return x * x"),
            ASSERTED,
            "right",
            "right",
            "score 1.00: 2 of 2 tests passed",
        ),
        (fenced("class Solution:\n    def f(self, x): return x + x"), ASSERTED, "wrong", "wrong", "score 0.50"),
        (fenced(SOLUTION), LISTED, "right", "wrong", "score -1: the reference judges these tests as mathematics"),
    ],
)
def test_the_reference_rejects_much_that_is_right(
    text: str, gold: Any, ours: str, theirs: str, reason: str, verdict: JudgeOf, reference: JudgeOf
) -> None:
    assert verdict(text, gold).outcome == ours
    found = reference(text, gold)
    assert (found.outcome, found.reason[: len(reason)]) == (theirs, reason)


def test_the_reference_cannot_divide_by_no_tests(reference: JudgeOf) -> None:
    empty = {"inputs": [], "outputs": []}
    assert reference(fenced(SOLUTION), empty) == Verdict(outcome="wrong", reason="score -1: ZeroDivisionError")


def test_the_reference_counts_failures_of_the_sandbox_as_wrong_and_we_say_so() -> None:
    [verdict] = judge_with(Scripted(LOST), judge=ReferenceCodeJudge)
    assert verdict.outcome == "wrong"
    assert verdict.reason == "score 0.00: 0 of 1 tests passed; the sandbox failed 1 times, which counts as wrong"


@pytest.mark.parametrize(("gold", "message"), [(LISTED, "for mathematics"), ({"inputs": [], "outputs": []}, "no test")])
def test_gold_answers_that_the_reference_cannot_judge_by_are_refused(gold: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ReferenceCodeJudge(Scripted()).check(as_text(gold))
