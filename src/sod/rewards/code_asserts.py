"""Convert tests in Python into `CallTest` and `ScriptTest`, so that expected values stay outside the program's process.

`assert f(1) == [2]`, a call with literal arguments and a literal result, becomes a `CallTest`: the program is called, and the
result is compared in this process. All other assertions of a problem become one `ScriptTest`, which runs in a process without
the program. A test with other statements, such as loops, also becomes a `ScriptTest` as a whole.
"""

import ast
import builtins
import contextlib
import copy
import importlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from sod.errors import DataError
from sod.rewards.code_tests import DETAIL_CHARACTERS, CallTest, ScriptTest, call_test, parsed, same_value
from sod.rewards.functional_driver import MODULES, plain

SAME_NODES = {"is_same_list": "list_node", "is_same_tree": "tree_node"}
GIVEN = {*SAME_NODES, *SAME_NODES.values(), "ListNode", "TreeNode", "__name__"}
"""Names that the drivers define for every test."""
BUILTINS = set(dir(builtins))
UNFIT_NAMES = {"eval", "exec", "compile", "__import__", "globals", "redirect_stdout", "__sod_conversation__"}
UNFIT_MODULES = {"pickle", "marshal", "ctypes", "importlib", "subprocess", "inspect", "multiprocessing", "asyncio"}
"""With these a result could run as code in the test, or the test reads more of the program than its results."""


@dataclass(frozen=True, slots=True)
class _Script:
    """The parsed source of a test."""

    before: list[ast.stmt]
    """The statements outside the function `check`."""
    body: list[ast.stmt]
    """The statements of `check`, or all statements if there is no such function."""
    check: ast.FunctionDef | None
    """The function `check`."""
    candidate: ast.expr | None
    """The argument of `check`."""

    def module(self, body: list[ast.stmt], setup: list[ast.stmt]) -> ast.Module:
        """Return the source of the test with another body and set-up."""
        if self.check is None or self.candidate is None:
            return ast.Module([*setup, *body], [])
        check = copy.copy(self.check)
        check.body = body
        call = ast.Call(ast.Name(check.name, ast.Load()), [self.candidate], [])
        return ast.Module([*self.before, *setup, check, ast.Expr(call)], [])


def assertions(sources: list[Any], options: dict[str, Any]) -> Iterator[CallTest | ScriptTest]:
    """Return the tests in texts of assertions: bare assertions, or a function `check` with assertions and a call of it.

    Raises DataError for a test that cannot run in a process without the program.
    """
    prefix = str(options.get("import_prefix") or "")
    before = parsed(prefix)
    if before is None:
        raise DataError(f"The `import_prefix` {prefix[:DETAIL_CHARACTERS]!r} is not Python.")
    scripts = [_script(source) for source in sources]
    _refuse_coroutines(sources, before)
    names = _names(scripts, before, options)
    setup = _setup(before, names)
    if setup:
        prefix = ast.unparse(ast.Module([statement for statement in before.body if statement not in setup], []))
    bare: list[ast.stmt] = []
    for script in scripts:
        _refuse_undefined(script, before, names)
        body = [node for node in script.body if not _has_no_effect(node)]
        if all(isinstance(node, ast.Assert) for node in body):
            calls = [] if setup else [(node, _call_test(node, script, prefix, names)) for node in body]
            yield from (test for _, test in calls if test)
            simple = [node for node, test in calls if test]
            body = [node for node in body if node not in simple]
            if script.check is None:
                bare += body
                continue
        if body:
            yield _script_test(script.module(body, setup), prefix, names)
    if bare:
        yield _script_test(ast.Module([*setup, *bare], []), prefix, names)


def _script(source: Any) -> _Script:
    tree = parsed(source) if isinstance(source, str) else None
    if tree is None:
        raise DataError(f"The test {str(source)[:DETAIL_CHARACTERS]!r} is not Python.")
    _refuse_unfit(tree)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    match tree.body:
        case [*others, ast.Expr(ast.Call(func=ast.Name(id=name), args=[candidate], keywords=[]))] if name in functions:
            check = functions[name]
            script = _Script([node for node in others if node is not check], check.body, check, candidate)
        case statements:
            script = _Script([], statements, None, None)
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise DataError(f"The test {source.strip()[:DETAIL_CHARACTERS]!r} has no assertion.")
    if empty := next(filter(_compares_nothing, ast.walk(tree)), None):
        raise DataError(
            f"The test {ast.unparse(empty)[:DETAIL_CHARACTERS]!r} has a comma where it should compare, so almost every program "
            "passes it. Write `==`, or a message in words."
        )
    return script


def _compares_nothing(node: ast.AST) -> bool:
    """Return whether a node is `assert (f(2) == 4, "message")` or `assert f(2), 4`."""
    match node:
        case ast.Assert(test=ast.Tuple(elts=[_, *_])):
            return True
        case ast.Assert(msg=ast.Constant(value=message)):
            return message is not None and not isinstance(message, str)
        case ast.Assert(msg=ast.List() | ast.Tuple() | ast.Set() | ast.Dict()):
            return isinstance(node.test, ast.Call)
        case _:
            return False


def _has_no_effect(node: ast.stmt) -> bool:
    match node:
        case ast.Pass() | ast.Expr(ast.Constant()) | ast.Assert(test=ast.Constant()):
            return True
        case _:
            return False


def _call_test(node: ast.stmt, script: _Script, prefix: str, names: frozenset[str]) -> CallTest | None:
    """Return the test of an assertion that compares a call with its result; None for any other assertion."""
    if not isinstance(node, ast.Assert) or (call := _split(node.test, script, names)) is None:
        return None
    expression, expected = call
    candidate = ast.unparse(script.candidate) if script.candidate else ""
    request = {"prefix": prefix, "candidate": candidate, "expression": ast.unparse(expression)}
    return call_test(request, [expected], set(names))


def _script_test(module: ast.Module, prefix: str, names: frozenset[str]) -> ScriptTest:
    request = {"prefix": prefix, "test": ast.unparse(ast.fix_missing_locations(module)), "names": sorted(names)}
    return ScriptTest(json.dumps(request), prefix, names)


# A call and its result


def _split(test: ast.expr, script: _Script, names: frozenset[str]) -> tuple[ast.expr, Any] | None:
    """Return the call and its expected value in the driver's form; None if the test is anything else."""
    callables = {"candidate"} if script.check else names
    if script.check and [argument.arg for argument in script.check.args.args] != ["candidate"]:
        return None
    with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError):  # not a literal
        match test:
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]) if _is_plain_call(left, callables):
                expected = plain(ast.literal_eval(right))
                if same_value(expected, expected):
                    return left, expected
            case ast.Call(func=ast.Name(id=same), args=[left, ast.Call(func=ast.Name(id=kind), args=[values])]) if (
                SAME_NODES.get(same) == kind and _is_plain_call(left, callables)
            ):
                return left, _nodes(kind, list(ast.literal_eval(values)))
    return None


def _is_plain_call(node: ast.expr, callables: Iterable[str]) -> bool:
    """Return whether a node is one call of the program with literals, so that it contains nothing else of the test."""
    if not isinstance(node, ast.Call):
        return False
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    return (
        _is_of(node.func, callables) and all(keyword.arg for keyword in node.keywords) and all(map(_is_data, arguments))
    )


def _is_of(function: ast.expr, callables: Iterable[str]) -> bool:
    """Return whether a function is `f` of the program, or the method of a new object, `C().f`."""
    match function:
        case ast.Name(id=name) | ast.Attribute(value=ast.Call(func=ast.Name(id=name), args=[], keywords=[])):
            return name in callables
        case _:
            return False


def _is_data(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=[values], keywords=[]) if name in SAME_NODES.values():
            return _is_data(values)
        case ast.List(elts=items) | ast.Tuple(elts=items) if not any(isinstance(item, ast.Starred) for item in items):
            return all(map(_is_data, items))
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _nodes(kind: str, values: list[Any]) -> dict[str, Any] | None:
    """Return the driver's form of `list_node(values)` or `tree_node(values)`."""
    while kind == "tree_node" and values and values[-1] is None:
        values = values[:-1]
    return {kind: plain(values)} if values else None


# Names


def _names(scripts: list[_Script], before: ast.Module, options: dict[str, Any]) -> frozenset[str]:
    """Return the names of the program that the tests call.

    Bare assertions do not state it. Then it is the called names that nothing defines. If there are none, it is the one called
    name of the preloaded modules, or else the one called builtin: problems also ask for a function `gcd` or `sum`.
    """
    if any(script.candidate for script in scripts):
        candidates = [script.candidate for script in scripts if script.candidate]
        return frozenset(name for node in candidates for name in _loaded(node)) - GIVEN
    entry = options.get("entry_point") or options.get("fn_name")
    if isinstance(entry, str) and (tree := parsed(entry)):
        return frozenset(_loaded(tree)) - GIVEN
    defined = set(GIVEN).union(_defined(before), *(_defined(node) for script in scripts for node in script.body))
    modules = set(MODULES.split())
    called = (
        set(_called(before)).union(*(_called(node) for script in scripts for node in script.body)) - defined - modules
    )
    ours = called - BUILTINS - _library()
    for found in (ours, (called & _library()) - BUILTINS, called & BUILTINS):
        if found:
            if found is not ours and len(found) > 1:
                raise DataError(
                    f"The tests call {', '.join(sorted(found))}, and the program must define one of them. Name it in "
                    "`entry_point`."
                )
            return frozenset(found)
    raise DataError("The tests call no function of the program.")


def _setup(before: ast.Module, names: frozenset[str]) -> list[ast.stmt]:
    """Return the statements of the prefix that use the program and so belong to the test: `root = Node(1)` and later ones."""
    setup: list[ast.stmt] = []
    of_program = set(names)
    for statement in before.body:
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef) and not of_program.isdisjoint(_loaded(statement)):
            setup.append(statement)
            of_program |= set(_defined(statement))
    return setup


def _refuse_undefined(script: _Script, before: ast.Module, names: frozenset[str]) -> None:
    nodes = [before, *script.before, *([script.check] if script.check else script.body)]
    defined = GIVEN.union(names, BUILTINS, _library(), *map(_defined, nodes))
    undefined = {name for node in nodes for name in _loaded(node)} - defined
    if undefined and "*" not in defined:
        raise DataError(
            f"The tests use {', '.join(sorted(undefined))} without a definition; define it in `import_prefix`."
        )
    functions = {node.name for each in nodes for node in ast.walk(each) if isinstance(node, ast.FunctionDef)}
    called = names | ({script.check.args.args[0].arg} if script.check and script.check.args.args else set())
    for node in (node for each in nodes for node in ast.walk(each)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in called:
            for value in (*node.args, *(keyword.value for keyword in node.keywords)):
                if isinstance(value, ast.Lambda) or (isinstance(value, ast.Name) and value.id in functions):
                    raise DataError(
                        "The tests pass a function to the program. Only data can be sent to the program's process."
                    )


def _refuse_unfit(tree: ast.Module) -> None:
    used = UNFIT_NAMES.intersection(_loaded(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            used |= UNFIT_MODULES.intersection(module.partition(".")[0] for module in modules)
        elif isinstance(node, ast.Attribute) and (node.attr in ("stdout", "stdin") or node.attr.startswith("__sod")):
            used.add(node.attr)
    if used:
        raise DataError(f"The tests use {', '.join(sorted(used))}. Results must stay data; write the tests without it.")


def _refuse_coroutines(sources: list[str], before: ast.Module) -> None:
    """Raise DataError for tests that run coroutines of the program: a coroutine cannot leave the program's process."""
    imports = [node for node in ast.walk(before) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        alias.asname or alias.name
        for node in imports
        for alias in node.names
        if (node.module if isinstance(node, ast.ImportFrom) else alias.name) == "asyncio"
    }
    for tree in map(ast.parse, sources):
        if any(isinstance(node, ast.Await) for node in ast.walk(tree)) or names.intersection(_loaded(tree)):
            raise DataError("The tests run coroutines of the program. Only data can leave the program's process.")


def _loaded(node: ast.AST) -> Iterator[str]:
    return (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load))


def _called(node: ast.AST) -> Iterator[str]:
    """Return the names that are called, as in `f(1)` and `C.f(1)`, or passed as a key, as in `sorted(a, key=f)`."""
    for each in ast.walk(node):
        match each:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id=name))):
                yield name
            case ast.keyword(arg="key", value=ast.Name(id=name)):
                yield name


def _defined(node: ast.AST) -> Iterator[str]:
    """Return the names that a node binds, in any scope."""
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield name
            case ast.alias(name=name):
                yield name.partition(".")[0]
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name


@cache
def _library() -> frozenset[str]:
    """Return the names that the drivers import for programs and for tests."""
    space: dict[str, Any] = {}
    for name in MODULES.split():
        exec(f"from {name} import *", space)
        space[name] = importlib.import_module(name)
    return frozenset(space) - BUILTINS
