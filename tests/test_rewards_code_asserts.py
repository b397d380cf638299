"""Tests in Python: honest programs pass every shape of them, and no program passes by what it is instead of what it returns."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confining import CONFINABLE

from sod.errors import DataError
from sod.rewards import Verdict, code, code_golds
from sod.rewards.code_tests import CallTest, ScriptTest
from sod.sandbox.local import LocalSandbox

JudgeOf = Callable[..., Verdict]


@pytest.fixture(scope="module")
def verdict() -> Iterator[JudgeOf]:
    """Judge a program by a gold answer, in one sandbox for all tests."""
    with asyncio.Runner() as runner:
        sandbox = LocalSandbox(workers=2, unsafe=not CONFINABLE)
        judge = code.CodeJudge(sandbox, seconds=30.0)

        def judged(program: str, gold: Any) -> Verdict:
            return runner.run(judge(f"```python\n{program}\n```", json.dumps(gold)))

        yield judged
        runner.run(sandbox.close())


def checked(body: str, entry: str = "f", before: str = "", prefix: str = "") -> dict[str, Any]:
    """A gold as HumanEval publishes it."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    test = f"{before}\n\ndef check(candidate):\n{lines}"
    return {"test_code": test, "entry_point": entry} | ({"import_prefix": prefix} if prefix else {})


SQUARE = "def f(x): return x * x"
LIST = "def f(n): return list(range(1, n + 1))"
HONEST: dict[str, tuple[Any, str]] = {
    "a tolerance": (["assert abs(f(3) - 9) < 1e-6", "assert 9 == f(3)"], SQUARE),
    "truth": (["assert f(4)", "assert not f(3)"], "def f(n): return n % 2 == 0"),
    "identity": (["assert f(4) is True", "assert f(3) is False"], "def f(n): return n % 2 == 0"),
    "None": (["assert f(4) is None", "assert f(4) == None"], "def f(n): pass"),
    "sets and order": (["assert set(f(3)) == {1, 2, 3}", "assert sorted(f(3)) == [1, 2, 3]"], LIST),
    "a call of a call": (["assert f(f(2)) == 16"], SQUARE),
    "isclose": (["assert math.isclose(f(0.1), 0.01)"], SQUARE),
    "an import": (["import math\nassert math.isclose(f(0.1), 0.01)"], SQUARE),
    "a chain": (["assert 8 < f(3) <= 9 != f(2)"], SQUARE),
    "len, in, all, any, sum": (
        ["assert len(f(3)) == 3", "assert 2 in f(3)", "assert all(x > 0 for x in f(3))", "assert sum(f(3)) == 6"],
        LIST,
    ),
    "round": (["assert round(f(1.5), 1) == 2.2"], SQUARE),
    "a method of the result": (["assert f('ab').upper() == 'AB'"], "def f(s): return s"),
    "a message": (["assert f(2) == 2 * 2, 'no'"], SQUARE),
    "a loop": (checked("for i in range(5):\n    assert candidate(i) == i * i"), SQUARE),
    "data to loop over": (checked("for x, y in [(1, 1), (2, 4)]:\n    assert candidate(x) == y"), SQUARE),
    "metadata": (
        checked("assert candidate(2) == 4\nassert True, 'shown'", before="METADATA = {'author': 'x'}"),
        SQUARE,
    ),
    "a helper of the test": (
        checked("assert near(candidate(2), 4)", before="def near(a, b):\n    return abs(a - b) < 1e-6"),
        SQUARE,
    ),
    "another parameter": ({"test_code": "def check(g):\n    assert g(2) == 4", "entry_point": "f"}, SQUARE),
    "a call that depends on one": (
        checked("x = candidate(3)\nif x > 8:\n    x = candidate(x)\nassert x == 81"),
        SQUARE,
    ),
    "calls that depend on each other": (
        checked("x = 2\nfor _ in range(4):\n    x = candidate(x)\nassert x == 65536"),
        SQUARE,
    ),
    "a while loop": (checked("x = 2\nwhile candidate(x) < 50:\n    x += 1\nassert x == 8"), SQUARE),
    "an exception": (
        checked("try:\n    candidate(0)\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False"),
        "def f(x): return 1 / x",
    ),
    "an exception's text": (
        checked("try:\n    candidate(0)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'no'"),
        "class Mine(ValueError): pass\ndef f(x): raise Mine('no')",
    ),
    "in place": (["nums = [3, 1, 2]\nf(nums)\nassert nums == [1, 2, 3]"], "def f(a): a.sort()"),
    "in place and returned": (
        ["nums = [3, 1, 2]\nf(nums)\nassert nums == [1, 2, 3]"],
        "def f(a):\n    a.sort()\n    return a",
    ),
    "a dict in place": (["d = {1: 2}\nf(d)\nassert d == {1: 2, 3: 4}"], "def f(d): d[3] = 4"),
    "a change that the test does not read": (
        checked("xs = [3, 1]\nys = candidate(xs)\nassert ys == sorted(xs)"),
        "def f(a):\n    a.sort()\n    return a",
    ),
    "a generator": (["assert list(f(3)) == [0, 1, 2]"], "def f(n):\n    yield from range(n)"),
    "an endless generator": (["assert next(f(3)) == 3"], "import itertools\ndef f(n): return itertools.count(n)"),
    "a tuple as such": (["assert tuple(f(1)) == (1, 2) and isinstance(f(1), tuple)"], "def f(x): return (x, 2)"),
    "types of data": (
        [
            "assert f(b'x') == b'x' and f(2j) == 2j and f({1: {2}}) == {1: {2}} and f(range(3)) == range(3)",
            "assert f(float('inf')) == inf and f(10 ** 6000) == 10 ** 6000 and f(frozenset([(1,)])) == frozenset([(1,)])",
            "assert str(f(float('nan'))) == 'nan' and f(deque([1])) == deque([1]) and f(None) is None",
            "import fractions, decimal\nassert f(fractions.Fraction(1, 2)) == 0.5 and f(decimal.Decimal('1.0')) == 1",
        ],
        "def f(x): return x",
    ),
    "nested data": (["assert f([[1, (2, {'a': [None]})]])[0][1][1]['a'][0] is None"], "def f(x): return x"),
    "NumPy": (
        ["assert abs(f([1, 2])[0] - 2) < 1e-9", "import numpy as np\nassert np.allclose(f(np.array([1, 2])), [2, 4])"],
        "import numpy\ndef f(x): return numpy.array(x) * 2",
    ),
    "a number of NumPy": (["assert abs(f(2) - 4) < 1e-9"], "import numpy\ndef f(x): return numpy.float32(x) ** 2"),
    "a helper of the prompt": (
        checked(
            "import math, random, copy\nrng = random.Random(42)\nfor _ in range(9):\n"
            "    xs = [rng.randint(1, 9), rng.randint(1, 9)]\n"
            "    assert math.fabs(poly(xs, candidate(copy.deepcopy(xs)))) < 1e-4",
            prefix="import math\n\n\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n",
        ),
        "def f(xs): return -xs[0] / xs[1]",
    ),
    "an encoder of the prompt": (
        checked(
            "for s in ['abc', 'x']:\n    assert candidate(encode(s)) == s",
            prefix="def encode(s):\n    return s[::-1]\n",
        ),
        "def f(s): return s[::-1]",
    ),
    "a method": (
        checked("for i in [1, 2]:\n    assert candidate(i) == i", "Solution().f"),
        "class Solution:\n    def f(self, x): return x",
    ),
    "a bare method": (["assert Solution().f(2) + 1 == 3"], "class Solution:\n    def f(self, x): return x"),
    "an object with state": (
        ["s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2\nassert s.size == 1"],
        "class Stack:\n    def __init__(self): self.a = []\n    def push(self, x): self.a.append(x)\n"
        "    def pop(self): return self.a.pop()\n    @property\n    def size(self): return len(self.a)",
    ),
    "objects as arguments": (
        ["assert f([P(1, 2), P(3, 4)], 2) + 0 == 6"],
        "class P:\n    def __init__(self, a, b): self.b = b\ndef f(ps, n): return sum(p.b for p in ps[:n])",
    ),
    "a set-up with the program's class": (
        {"assert_case": ["assert height(root) == 2"], "import_prefix": "root = Node(1)\nroot.left = Node(2)\n"},
        "class Node:\n    def __init__(self, x): self.left = self.right = None\n"
        "def height(n): return 0 if n is None else 1 + max(height(n.left), height(n.right))",
    ),
    "a function of Python's name": (["assert sum(10, 15) == 6 * 1"], "def sum(a, b): return 6"),
    "a function of a library's name": (["assert gcd(4, 6) + 0 == 2"], "def gcd(a, b): return 2"),
    "a function that returns one": (["g = f(2)\nassert g(3) == 6"], "def f(a): return lambda b: a * b"),
    "lists of nodes": (
        ["assert is_same_list(f(list_node([1, 2])), list_node([1] + [2]))", "assert f(list_node([5])).val == 5"],
        "def f(head): return head",
    ),
    "a static method": (
        ["assert Solution.f(3) + 0 == 9"],
        "class Solution:\n    @staticmethod\n    def f(x): return x * x",
    ),
    "a key to sort by": (["assert sorted([3, 1, 2], key=f) == [3, 2, 1]"], "def f(x): return -x"),
    "a closure with state": (
        ["c = counter()\nassert c() == 1\nassert c() == 2"],
        "def counter():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n        return n\n    return g",
    ),
    "the function by its name within check": (
        checked("assert tuple(candidate([1])) == tuple(f([1]))"),
        "def f(x): return x",
    ),
    "a date": (
        ["import datetime\nassert f() == datetime.date(2020, 1, 1)"],
        "import datetime\ndef f(): return datetime.date(2020, 1, 1)",
    ),
    "a builtin as an argument": (["assert f(int, '3') + 0 == 3"], "def f(kind, x): return kind(x)"),
}


@pytest.mark.parametrize(("gold", "program"), HONEST.values(), ids=HONEST)
def test_an_honest_program_passes_every_shape_of_test(gold: Any, program: str, verdict: JudgeOf) -> None:
    assert verdict(program, gold).outcome == "right", verdict(program, gold)


TOLERANCE = ["assert abs(f(3) - 9) < 1e-6"]
SPLIT = ["assert abs(f(3) - 9) == 0"]
REVERSED = ["assert 9 == f(3)"]
TRUE, IS_TRUE, NOT = ["assert f(3)", "assert not f(4)"], ["assert f(3) is True"], ["assert not f(4)"]
IN, SORTED, SET = ["assert f(3) in [9]"], ["assert sorted(f(3)) == [1, 2 + 0]"], ["assert set(f(3)) == {1, 2}"]
ALL = ["assert all(f(x) == x * x for x in (3, 4))"]
MAPPED = ["assert all(map(lambda x: f(x) == x * x, (3, 4)))"]
LOOP = checked("for x in (3, 4):\n    assert candidate(x) == x * x\nassert abs(candidate(7) - 49) < 1e-6")
RAISES = checked("try:\n    candidate(0)\n    assert False\nexcept ValueError:\n    pass\nassert candidate(3) == 9 + 0")
KEPT = checked("xs = [3, 1]\nassert candidate(xs) == sorted(xs)")
ROOT = checked(
    "xs = [3, 1]\nassert abs(poly(xs, candidate(xs))) < 1e-4", prefix="def poly(xs, x):\n    return xs[0] + xs[1] * x\n"
)
LIES = (
    "__eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = lambda *a: True\n    __hash__ = lambda s: 9"
)
CHANNEL = "import os\nfor d in range(3, 30):\n    try: os.write(d, {!r})\n    except OSError: pass\n"
CHEATS: dict[str, tuple[Any, str]] = {
    "abs in the expected side": (SPLIT, "abs = lambda x: 0\ndef f(x): return 0"),
    "abs in builtins": (TOLERANCE, "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 0"),
    "bool in builtins": (TRUE, "import builtins\nbuiltins.bool = lambda x: True\ndef f(x): return 0"),
    "sorted": (SORTED, "sorted = lambda x: [1, 2]\ndef f(x): return 0"),
    "set": (SET, "class S:\n    __eq__ = lambda *a: True\nset = lambda x: S()\ndef f(x): return 0"),
    "a set in builtins": (SET, "import builtins\nbuiltins.set = lambda x: {1, 2}\ndef f(x): return []"),
    "all": (ALL, "all = lambda x: True\ndef f(x): return 0"),
    "all of nothing": (ALL, "import builtins\nbuiltins.all = lambda x: True\ndef f(x): raise StopIteration"),
    "the end of a map": (MAPPED, "def f(x): raise StopIteration"),
    "an end of one's own": (MAPPED, "class E(StopIteration): pass\ndef f(x): raise E"),
    "an object that is all": (REVERSED, f"class E:\n    {LIES}\ndef f(x): return E()"),
    "a list of such": (["assert f(3)[0] == 9"], f"class E:\n    {LIES}\ndef f(x): return [E()]"),
    "an int that is all": (REVERSED, f"class E(int):\n    {LIES}\ndef f(x): return E(1)"),
    "a float that is all": (
        TOLERANCE,
        f"class E(float):\n    {LIES}\n    __sub__ = lambda *a: 0\ndef f(x): return E(1)",
    ),
    "a str that is all": (["assert 'a' == f(3)"], f"class E(str):\n    {LIES}\ndef f(x): return E('b')"),
    "a list that is all": (["assert [1] == f(3)"], f"class E(list):\n    {LIES}\ndef f(x): return E()"),
    "a dict that is all": (["assert {1: 2} == f(3)"], f"class E(dict):\n    {LIES}\ndef f(x): return E()"),
    "a difference of its own": (TOLERANCE, "class E:\n    __sub__ = lambda s, o: 0\ndef f(x): return E()"),
    "an absolute value of its own": (
        TOLERANCE,
        "class E:\n    __sub__ = lambda s, o: s\n    __abs__ = lambda s: 0\ndef f(x): return E()",
    ),
    "a truth of its own": (IS_TRUE, "class E:\n    __bool__ = lambda s: True\ndef f(x): return E()"),
    "a falsehood of its own": (NOT, "class E:\n    __bool__ = lambda s: False\ndef f(x): return E()"),
    "membership": (IN, f"class E:\n    {LIES}\ndef f(x): return E()"),
    "a container": (["assert 9 in f(3)"], f"class E:\n    {LIES}\ndef f(x): return E()"),
    "a length": (["assert len(f(3)) == 3 + 0"], "class E:\n    __len__ = lambda s: 3\ndef f(x): return E()"),
    "NaN": (TOLERANCE, "def f(x): return float('nan')"),
    "an array": (TOLERANCE, "import numpy\ndef f(x): return numpy.array([])"),
    "true in the channel": (TRUE, CHANNEL.format(b"true\n") + "os._exit(0)\ndef f(x): pass"),
    "passed in the channel": (TOLERANCE, CHANNEL.format(b"passed\n") + "os._exit(0)\ndef f(x): pass"),
    "passed in every file": (
        TOLERANCE,
        "for n in ('replies.jsonl', 'calls.json', 'functional_driver.py'):\n    open(n, 'w').write('passed')\ndef f(x): return 0",
    ),
    "nothing": (TOLERANCE, "import os\nos._exit(0)\ndef f(x): pass"),
    "leaving in a call": (TOLERANCE, "import os\ndef f(x): os._exit(0)"),
    "leaving politely": (RAISES, "def f(x): raise SystemExit(0)"),
    "an interrupt": (RAISES, "def f(x): raise KeyboardInterrupt"),
    "replies in advance": (LOOP, CHANNEL.format(b'{"value":0}\n' * 9) + "os._exit(0)\ndef f(x): pass"),
    "nonsense as a reply": (LOOP, CHANNEL.format(b'{"value":{"result":0}}\n') + "def f(x): return 0"),
    "a builtin as a reply": (TRUE, CHANNEL.format(b'{"value":{"builtin":"print"}}\n') + "def f(x): return 0"),
    "brackets as a reply": (LOOP, CHANNEL.format(b'{"value":' + b"[" * 50_000 + b"\n") + "def f(x): return 0"),
    "an error of the name": (RAISES, "class ValueError(Exception): pass\ndef f(x): raise ValueError"),
    "always an error": (RAISES, "def f(x): raise ValueError"),
    "never an error": (RAISES, "def f(x): return 9"),
    "an assertion of its own": (LOOP, "def f(x): raise AssertionError"),
    "changing the expected side": (KEPT, "def f(xs):\n    xs.clear()\n    return []"),
    "changing the coefficients": (ROOT, "def f(xs):\n    xs[:] = [0, 0]\n    return 1"),
    "an error of a comparison, caught": (
        ["try:\n    same = f(3) == 9\nexcept Exception:\n    same = True\nassert same == 1"],
        "class E: pass\ndef f(x): return E()",
    ),
    "a writer in a thread": (
        TOLERANCE,
        "import os, threading, time\ndef w():\n    for d in range(3, 30):\n        try: os.write(d, b'passed\\n')\n"
        "        except OSError: pass\nthreading.Thread(target=w).start()\ndef f(x):\n    time.sleep(0.1)\n    return 0",
    ),
    "frames": (
        REVERSED,
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for v in [*frame.f_locals.values()]:\n"
        "            if isinstance(v, dict) and 'test' in v: return 9\n        frame = frame.f_back\n    return 0",
    ),
    "all objects": (
        ["assert 987654321 == f(3)"],
        "import gc, os\ndef f(x):\n    text = ''.join(map(repr, gc.get_objects()))\n    os.lseek(0, 0, 0)\n"
        "    text += os.read(0, 10**6).decode() + ''.join(open(n).read() for n in os.listdir())\n"
        "    n = int('123456789'[::-1])\n    return n if str(n) in text.replace(str(n) + \"'\", '') else 0",
    ),
    "other JSON": (LOOP, "import json\njson.dumps = lambda *a, **k: '{\"value\": 9}'\ndef f(x): return 0"),
    "another driver": (
        LOOP,
        "import sys\nmain = sys.modules['__main__']\nmain.packed = lambda v: 9\ndef f(x): return 0",
    ),
    "a helper of the prompt again": (
        checked("assert near(candidate(3), 9)", prefix="def near(a, b):\n    return abs(a - b) < 1e-6\n"),
        "near = lambda a, b: True\ndef f(x): return 0",
    ),
    "a library again": (
        ["assert math.isclose(f(3), 9)"],
        "import math\nmath.isclose = lambda *a: True\ndef f(x): return 0",
    ),
    "a circle": (["assert f(3)[0] == 1"], "a = []\na.append(a)\ndef f(x): return a"),
    "keys that collide": (["assert len(f(3)) == 1 + 1"], "def f(x): return {i * (2**61 - 1): 0 for i in range(3000)}"),
    "an endless reply": (TRUE, "def f(x): return 'x' * (1 << 24)"),
    "a proxy of the type": (["assert isinstance(f(3), int)"], "class E:\n    __class__ = int\ndef f(x): return E()"),
    "a formatted object": (
        ["assert f'{f(3)}' == '9'"],
        "class E:\n    __format__ = __str__ = lambda *a: '9'\ndef f(x): return E()",
    ),
}


@pytest.mark.parametrize(("gold", "program"), CHEATS.values(), ids=CHEATS)
def test_a_program_is_right_by_its_results_alone(gold: Any, program: str, verdict: JudgeOf) -> None:
    assert verdict(program, gold).outcome == ("ungraded" if gold in (KEPT, ROOT) else "wrong"), verdict(program, gold)


@pytest.mark.parametrize(
    "source",
    [
        "assert abs(f(2) - 987654321) < 1",
        "assert 987654321 == f(2)",
        "assert (f(2) == 987654321) == True",
        "assert [f(2) - 987654321] == [0]",
        "assert same(f(2), 5) if 0 else f(2) == 987654321",
        "x = 987654321\nassert f(2) == x",
    ],
)
def test_what_a_test_expects_is_in_no_program(source: str) -> None:
    [test] = (
        code_golds.tests_of(json.dumps({"assert_case": [source], "entry_point": "f"})).tests
        if "same" not in source
        else [*code_golds.tests_of(json.dumps({"assert_case": [source.replace("same(f(2), 5)", "f(2)")]})).tests]
    )
    assert isinstance(test, ScriptTest)
    program = test.program("pass", '[["call", "f", [2], {}]]', seconds=1, memory_mb=1)
    assert "987654321" not in f"{program.code}{program.stdin}{program.files}"


def test_a_call_with_a_literal_result_is_compared_here() -> None:
    for source in (
        "assert f(1, [2], k=(3,)) == {'a': 1}",
        "assert Solution().f(1) == 2",
        "assert f(list_node([1])) == 1",
    ):
        [test] = code_golds.tests_of(json.dumps([source])).tests
        assert isinstance(test, CallTest)


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        (["assert eval(f(1)) == 2"], "use eval"),
        (["import pickle\nassert pickle.loads(f(1)) == 2"], "use pickle"),
        (["import sys\nf(1)\nassert sys.stdout.getvalue() == '1'"], "use stdout"),
        (["assert f(1) == other"], "use other without a definition"),
        (checked("assert near(candidate(1), 2)"), "use near without a definition"),
        (["assert f(lambda x: x) == 2"], "pass a function"),
        (["import asyncio\nassert asyncio.run(f(2)) == 4"], "use asyncio"),
        (["async def g():\n    assert await f(2) == 4\ng()"], "run coroutines"),
        ({"assert_case": ["assert run(f(2)) == 4"], "import_prefix": "from asyncio import run"}, "run coroutines"),
        ({"assert_case": ["assert asyncio.run(f(2)) == 4"], "import_prefix": "import asyncio"}, "run coroutines"),
        (["assert len(sum([1])) == 2"], "call len, sum, and the program must define one"),
        (["assert 1 == 1"], "call no function"),
        ({"assert_case": ["assert f(1)"], "import_prefix": "import ("}, "`import_prefix` 'import \\(' is not Python"),
    ],
)
def test_a_test_that_cannot_be_run_away_from_the_program_is_refused(gold: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        code_golds.tests_of(json.dumps(gold))


def test_a_test_that_turns_out_to_be_unfit_is_ungraded_and_no_zero(verdict: JudgeOf) -> None:
    gold = ["class Own: pass\nassert f(Own()) == 1"]
    assert verdict("def f(x): return 1", gold) == Verdict(
        outcome="ungraded",
        reason="test 1 of 1: ungraded (the test cannot be run: it passes an object of the class 'Own' to the program)",
    )


NAMED = "from collections import namedtuple\nP = namedtuple('P', 'x y')\n"


@pytest.mark.parametrize(
    ("source", "program", "outcome"),
    [
        ("assert f(3).x == 3 and f(3).y == 4", NAMED + "def f(n): return P(n, n + 1)", "right"),
        (
            "assert f(3) == (3, 4) and f(3)._asdict() == {'x': 3, 'y': 4}",
            NAMED + "def f(n): return P(n, n + 1)",
            "right",
        ),
        ("assert repr(f(3)) == 'P(x=3, y=4)'", NAMED + "def f(n): return P(n, n + 1)", "right"),
        ("assert [p.y for p in f(3)] == [1, 2]", NAMED + "def f(n): return [P(0, 1), P(0, 2)]", "right"),
        (NAMED + "assert f(P(1, 2)) == 3 + 0", "def f(p): return p.x + p.y", "right"),
        ("assert f(3).x == 3 and f(3).y == 4", NAMED + "def f(n): return P(n, n)", "wrong"),
        ("assert f(3).x == 3 and f(3).y == 4", "def f(n): return (3, 4)", "wrong"),
        (
            "assert f(3).x == 3 and f(3).y == 4",
            "class T(tuple): _fields = ('x', '__eq__')\ndef f(n): return T((3, 4))",
            "wrong",
        ),
        (
            "assert (3, 4) == f(3)",
            "class T(tuple):\n    _fields = ('x', '__eq__')\ndef f(n): return T((3, 5))",
            "wrong",
        ),
    ],
)
def test_a_named_tuple_keeps_its_fields(source: str, program: str, outcome: str, verdict: JudgeOf) -> None:
    assert verdict(program, [source]).outcome == outcome, verdict(program, [source])


def test_a_verdict_that_hangs_on_a_changed_argument_is_none(verdict: JudgeOf) -> None:
    gold = ["nums = [1, 1, 2]\nk = f(nums)\nassert nums[:k] == [1, 2]"]
    assert verdict("def f(a):\n    a[:] = sorted(set(a))\n    return len(a)", gold).outcome == "ungraded"
    assert verdict("def f(a):\n    a[:] = [5]\n    return 1", gold).outcome == "wrong"
