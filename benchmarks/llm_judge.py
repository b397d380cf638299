"""How often a language model as judge agrees with verdicts by hand, and with the exact judges.

    python benchmarks/llm_judge.py [--url http://127.0.0.1:8001] [--served-name NAME] [--cases N]

Without an address, a scripted server replies: `as exact` decides like the exact judges on the text that it receives, so
a difference is a fault of the prompt or of the parser; `as text` compares the last box with the gold as text. The cases
are the clear ones of tests/golden/grading_cases.jsonl, adversarial by design.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hand_judged import clear_cases  # pyright: ignore[reportMissingImports]
from judging import Nowhere  # pyright: ignore[reportMissingImports]
from scripted_judge import Script, judging, part  # pyright: ignore[reportMissingImports]

from sod.config import LlmJudgeOptions, RewardOptions
from sod.errors import OptionError
from sod.processes.concurrency import run_concurrently
from sod.rewards import Verdict
from sod.rewards.answers import last_box
from sod.rewards.choice import ChoiceJudge
from sod.rewards.math import MathJudge
from sod.rewards.referee import Referee
from sod.types import Problem, Trajectory

QUESTIONS = {"math": "A problem of mathematics.", "choice": "A multiple-choice question."}
EXACT = {"math": MathJudge().judge, "choice": ChoiceJudge().judge}
Case = dict[str, Any]


def as_exact(body: dict[str, Any]) -> str:
    kind = next((kind for kind, text in QUESTIONS.items() if text == part(body, "problem")), "math")
    outcome = EXACT[kind](part(body, "answer") or "", part(body, "reference") or "").outcome
    return f"As the exact judge.\nVERDICT: {outcome}"


def as_text(body: dict[str, Any]) -> str:
    box = last_box(part(body, "answer") or "")
    return f"The box holds {box!r}.\nVERDICT: {'right' if box == part(body, 'reference') else 'wrong'}"


async def verdicts(referee: Referee, cases: list[tuple[str, Case]]) -> list[Verdict]:
    slots = asyncio.Semaphore(8)

    async def one(kind: str, case: Case) -> Verdict:
        question = ({"role": "user", "content": QUESTIONS[kind]},)
        async with slots:
            problem = Problem(id=case["id"], messages=question, answer=case["gold"], kind=kind)
            attempt = Trajectory(problem, sample=0, pieces=(), stop="answered", final_text=case["response"])
            return await referee.judge(attempt, str)

    return await run_concurrently(one(kind, case) for kind, case in cases)


def measure(name: str, options: LlmJudgeOptions, cases: list[tuple[str, Case]]) -> None:
    referee = Referee(Nowhere(), RewardOptions(judge="llm", llm=options), max_tokens=1)
    try:
        referee.check([Problem(id="p", messages=(), answer="1")])
        proof = "passed"
    except OptionError as error:  # shown, and measured all the same
        proof = f"refused: {error}"
    start = time.perf_counter()
    found = [verdict.outcome for verdict in asyncio.run(verdicts(referee, cases))]
    seconds = time.perf_counter() - start
    by_hand = ["right" if case["correct"] else "wrong" for _, case in cases]
    exact = [EXACT[kind](case["response"], case["gold"]).outcome for kind, case in cases]
    kinds = Counter(zip(by_hand, found, strict=True))
    print(
        f"{name}: {len(cases)} cases, proof {proof}\n"
        f"  agrees with verdicts by hand {share(found, by_hand)}, with the exact judges {share(found, exact)}\n"
        f"  false right {kinds['wrong', 'right']}, false wrong {kinds['right', 'wrong']}, ungraded {found.count('ungraded')}, "
        f"{1000 * seconds / len(cases):.0f} ms a case"
    )


def share(found: list[str], expected: list[str]) -> str:
    return f"{sum(a == b for a, b in zip(found, expected, strict=True)) / len(found):.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server with OpenAI's chat API. Default: the scripted ones")
    parser.add_argument("--served-name", help="the model's name on it. Default: its only model")
    parser.add_argument("--cases", type=int, help="number of cases, spread evenly. Default: all")
    options = parser.parse_args()
    cases = [(kind, case) for kind in QUESTIONS for case in clear_cases(choice=kind == "choice")]
    cases = cases[:: max(1, len(cases) // (options.cases or len(cases)))]
    if options.url:
        measure(options.url, LlmJudgeOptions(url=options.url, served_name=options.served_name), cases)
        return
    scripts: dict[str, Callable[[dict[str, Any]], str]] = {"as exact": as_exact, "as text": as_text}
    for name, reply in scripts.items():
        with judging(Script(reply)) as url:
            measure(name, LlmJudgeOptions(url=url), cases)


if __name__ == "__main__":
    main()
