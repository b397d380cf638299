"""BFCL, the Berkeley Function-Calling Leaderboard, version 4. Package: `bfcl-eval`, which holds questions and answers.

Its own checkers judge. Categories that need a network (web_search), other packages (memory) or tools that change during an
attempt (multi_turn_miss_func) are not supported.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from keyword import iskeyword
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

from sod.config.plugins import require
from sod.environments import Environment, Opening, Step, Turn
from sod.environments.games import MadeRow, WorldSetting, in_turn, read_setting, row
from sod.errors import DataError
from sod.types import Observation, Problem, Verdict

SINGLE = (
    *("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple", "irrelevance"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance", "live_relevance"),
)
"""Categories of a single turn."""
DIALOGUES = ("multi_turn_base", "multi_turn_miss_param", "multi_turn_long_context")
"""Categories in which the user writes several times and calls are executed."""
MODEL = "sod"
MOST_STEPS = 20
"""BFCL's limit on the student's turns between two messages of the user. Beyond it, the attempt fails."""


class BfclSetting(WorldSetting):
    """The setting of a problem of BFCL."""

    id: str
    """Id of the question, such as simple_python_0."""
    category: str


class Bfcl(Environment):
    """An attempt at a question. Calls of a single-turn category are not executed, and end the attempt."""

    def __init__(self) -> None:
        self._made: list[list[list[str]]] = []
        """For each of the user's messages, the student's turns with calls, in BFCL's form."""
        self._verdict = Verdict(outcome="wrong", reason="ended before the last message was answered")
        self._name = f"{MODEL}{uuid4().hex}"

    def open(self, problem: Problem, seed: int) -> Opening:  # pyright: ignore[reportIncompatibleMethodOverride]
        del seed
        setting = read_setting(BfclSetting, problem)
        self._category = setting.category
        self.judges_calls = setting.category in SINGLE  # a dialogue executes calls, and must get no unknown names
        self._entry, self._answer, tools = bfcl_question(setting.category, setting.id)
        self._messages = list(self._entry["question"])
        self._made = [[]]
        return Opening(self._messages[0], tools)

    def step(self, turn: Turn) -> Step:  # pyright: ignore[reportIncompatibleMethodOverride]
        calls = [{call.name: call.arguments} for call in turn.calls]
        if self._category in SINGLE:
            is_spoilt = bool(turn.malformed) and "relevance" not in self._category
            self._verdict = _verdict(False, "malformed call") if is_spoilt else self._judged(calls)
            return Step(is_over=True, reward=float(self._verdict.is_right))
        if calls:
            if len(self._made[-1]) == MOST_STEPS:
                return Step(is_over=True)
            return Step(self._executed(calls))
        if len(self._made) == len(self._messages):
            self._verdict = self._judged_dialogue()
            return Step(is_over=True, reward=float(self._verdict.is_right))
        self._made.append([])
        return Step("\n".join(message["content"] for message in self._messages[len(self._made) - 1]))

    def verdict(self, text: str) -> Verdict:  # pyright: ignore[reportIncompatibleMethodOverride]
        del text
        return self._verdict

    def close(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Delete the state of the simulated programs, which BFCL keeps in a module."""
        kept = sys.modules.get("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
        for name in [name for name in list(vars(kept)) if name.startswith(self._name)] if kept else []:
            delattr(kept, name)

    def _judged(self, calls: list[dict[str, Any]]) -> Verdict:
        """Return the verdict of BFCL's checker of single turns."""
        if "relevance" in self._category:
            return _verdict(bool(calls) != ("irrelevance" in self._category), "calls" if calls else "no call")
        if not calls:
            return _verdict(False, "no call")
        from bfcl_eval.constants.enums import Language  # pyright: ignore[reportMissingImports]
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # pyright: ignore[reportMissingImports]

        language = {"simple_java": Language.JAVA, "simple_javascript": Language.JAVASCRIPT}
        chosen = language.get(self._category, Language.PYTHON)
        found = ast_checker(self._entry["function"], calls, self._answer, chosen, self._category, MODEL)
        return _verdict(found["valid"], "; ".join(map(str, found.get("error", ["right"])))[:300])

    def _judged_dialogue(self) -> Verdict:
        """Return the verdict of BFCL's checker of dialogues. It repeats all calls and compares the states."""
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import (  # pyright: ignore[reportMissingImports]
            multi_turn_checker,
        )

        found = multi_turn_checker(self._made, self._answer, self._entry, self._category, self._name)
        return _verdict(found["valid"], str(found.get("error_message", "right"))[:300])

    def _executed(self, calls: list[dict[str, Any]]) -> list[Observation]:
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import (  # pyright: ignore[reportMissingImports]
            execute_multi_turn_func_call,
        )

        written = [
            f"{name}({','.join(_argument(key, value) for key, value in arguments.items())})"
            for call in calls
            for name, arguments in call.items()
        ]
        self._made[-1].append(written)
        entry = self._entry
        results, _ = execute_multi_turn_func_call(
            written,
            entry["initial_config"],
            entry["involved_classes"],
            self._name,
            entry["id"],
            long_context="long_context" in self._category,
        )
        return [Observation(text=text, outcome="error" if _failed(text) else "ok") for text in results]

    @classmethod
    def make(cls, tasks: Sequence[str], rows: int, seed: int, level: int) -> Iterator[MadeRow]:
        """Yield questions of the categories in turn, in an order drawn from the seed. There are no levels."""
        _package()
        categories = list(
            dict.fromkeys(task for _, task in in_turn(tasks, (*SINGLE, *DIALOGUES), len(tasks) or 16, of="bfcl"))
        )
        ids = [sorted(_entries(category)) for category in categories]
        for each in ids:
            Random(seed).shuffle(each)
        for group in zip_longest(*ids):
            for category, one in zip(categories, group, strict=True):
                if one is not None:
                    yield row("bfcl", one, {"id": one, "category": category}, level) | {"source": category}


def bfcl_question(category: str, name: str) -> tuple[dict[str, Any], Any, list[dict[str, Any]]]:
    """Return a question, its answer and its tools. Raises DataError for an unknown one."""
    _package()
    if category not in (*SINGLE, *DIALOGUES):
        raise DataError(
            f"{category!r} is not a category that can be used offline. Categories: {', '.join((*SINGLE, *DIALOGUES))}."
        )
    if name not in _entries(category):
        raise DataError(f"BFCL's category {category} has no question {name!r}.")
    from bfcl_eval.constants.enums import ModelStyle  # pyright: ignore[reportMissingImports]
    from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI  # pyright: ignore[reportMissingImports]
    from bfcl_eval.model_handler.utils import convert_to_tool  # pyright: ignore[reportMissingImports]

    shown = json.loads(_entries(category, hints=True)[name])["function"]
    tools = convert_to_tool(shown, GORILLA_TO_OPENAPI, ModelStyle.OPENAI_COMPLETIONS)
    answers = {} if "relevance" in category else _answers(category)
    return json.loads(_entries(category)[name]), answers.get(name), tools


@lru_cache(maxsize=2 * (len(SINGLE) + len(DIALOGUES)))
def _entries(category: str, *, hints: bool = False) -> dict[str, str]:
    """Return the questions of a category by id, as JSON texts, so that attempts cannot change them.

    `hints`: with the notes on the programming language, which the student reads and the checker does not.
    """
    from bfcl_eval.utils import load_dataset_entry  # pyright: ignore[reportMissingImports]

    return {
        entry["id"]: json.dumps(entry) for entry in load_dataset_entry(category, include_language_specific_hint=hints)
    }


@lru_cache(maxsize=len(SINGLE) + len(DIALOGUES))
def _answers(category: str) -> dict[str, Any]:
    from bfcl_eval.utils import load_ground_truth_entry  # pyright: ignore[reportMissingImports]

    return {entry["id"]: entry["ground_truth"] for entry in load_ground_truth_entry(category)}


def _argument(key: str, value: Any) -> str:
    """Return an argument as Python. A key that is no name of Python is an unexpected argument, as for the checker."""
    return f"{key}={value!r}" if key.isidentifier() and not iskeyword(key) else f"**{ {key: value}!r}"


def _failed(text: str) -> bool:
    return text.startswith(("Error during execution", '{"error"'))


def _verdict(is_right: bool, reason: str) -> Verdict:
    return Verdict(outcome="right" if is_right else "wrong", reason=reason)


def _package() -> None:
    """Import the package. Its table of models imports the clients of all vendors, so it is replaced by one entry."""
    name = "bfcl_eval.constants.model_config"
    if name not in sys.modules:
        os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp(prefix="sod-bfcl-"))  # it makes folders there
        table = ModuleType(name)
        vars(table)["MODEL_CONFIG_MAPPING"] = {MODEL: SimpleNamespace(underscore_to_dot=True)}
        sys.modules[name] = table
    for module in ("bfcl_eval.utils", "bfcl_eval.model_handler.utils"):
        require(module, "bfcl-eval", "2026.3", what="The environment bfcl")
