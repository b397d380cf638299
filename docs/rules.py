"""Write docs/rules.md, the table of all rules, from the docstrings in src/sod/core/rules and the systems: `python docs/rules.py`.

A docstring of a rule has the paragraphs `Paper:`, `Formula:` and `Left out:`. A test fails if the page is not up to date. torch
is not imported.
"""

import ast
import re
from pathlib import Path

from sod.credit.systems import SYSTEMS, SystemTraits

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rules.md"
MODULES = {
    "paper": "The paper and its ablations",
    "own": "This project",
    "by_step": "Other papers: steps",
    "by_token": "Other papers: tokens",
    "by_outcome": "Other papers: agreement with the outcome",
    "schedules": "Other papers: from update to update",
    "whole": "Other papers: the whole credit",
    "controls": "Controls",
}
LABELS = ("Paper", "Formula", "Left out")
TOP = """# Rules

Every rule that `--algorithm.name` accepts, with its source and what of the source is left out. This page is generated from the
docstrings in `src/sod/core/rules` (`python docs/rules.py`).

The credit of a token is `v * A + c * w * delta`. `A` is the GRPO advantage, `delta` the teacher's signal log π_T − log π_S of the
token, `c` the option `algorithm.coef`. A rule returns `w`, for each step or token. Some rules also return `v`, which is 1
otherwise. A rule for the *whole credit* replaces the sum. `d_k` is the divergence of step k in nats. `H_S` and `H_T` are
entropies in nats, `p_S` and `p_T` probabilities of the sampled token, and `s` is the sign.

**Reads** lists inputs that are not always at hand. A run that cannot provide one is refused before it starts:

| input | at hand |
|---|---|
| `teacher_entropy` | unless the teacher is on a server |
| `student_entropy` | with `score.student = recompute` and `algorithm.divergence = sampled`; not in TRL |
| `teacher_rates` | with `--algorithm.teacher-rates`, a run of `sod eval` of the teacher on the training problems; not in TRL |
| `right`, `reward`, `group`, `student_rates`, `anchors` | in `sod train`; not in TRL |
| `student`, `teacher`, `progress` | in `sod train` and in TRL |

`sod calibrate` has no row for rules that read `student_entropy`, `teacher_rates` or `progress`, nor for those of the whole
credit. Inside verl, the rules in `RULES_HERE` of `src/sod/adapters/verl_settings.py` work.

"As described in a survey" means: the paper's text was not at hand, and the formula is from a summary of the paper. Such a rule
is inspired by the paper and does not reproduce it. Most papers evaluate their rule without GRPO or with another divergence. Here
all rules are combined with GRPO, except where the table says otherwise, so that comparisons are between rules, all else equal.
"""
BOTTOM = """
`rollout.guided` changes the trajectories, not the credit, and goes with each of them
([Guided-OPD](algorithm.md#turns-of-the-teacher-in-a-trajectory-guided-opd)).

Systems without a rule in this table: `grpo` has no teacher. `sham` is a control: GRPO with rewards shuffled over the batch.
`FILE.py:FUNCTION` is [your own rule](own-rule.md).
"""


def parts_of(docstring: str) -> dict[str, str]:
    """Return the first line of a docstring as "", and its labelled paragraphs."""
    text = " ".join(docstring.split("\n\n")[0].split())
    found = {"": text}
    labelled = docstring[re.search(r"^\s*Paper:", docstring, re.MULTILINE).start() :]  # type: ignore[union-attr]
    for label, following in zip(LABELS, (*LABELS[1:], None), strict=True):
        end = rf"(?=^\s*{following}:)" if following else r"\Z"
        match = re.search(rf"^\s*{label}:(.*?){end}", labelled, re.MULTILINE | re.DOTALL)
        if match is None:
            raise ValueError(f"a docstring has no paragraph {label!r}: {text}")
        found[label] = " ".join(match[1].split())
    return found


def docstrings(module: str) -> dict[str, str]:
    """Return the docstring of every public function of a module, in order."""
    tree = ast.parse((ROOT / "src/sod/core/rules" / f"{module}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return {node.name: ast.get_docstring(node) or "" for node in functions}


def page() -> str:
    """Return the page."""
    sections = [TOP]
    for module, title in MODULES.items():
        rows = [_row(rule, docstring) for rule, docstring in docstrings(module).items()]
        if module == "controls":
            rows.append(_unrelated())
        sections.append(
            f"## {title}\n\n| system | rule | paper | formula | reads | left out |\n|---|---|---|---|---|---|"
        )
        sections[-1] += "\n" + "\n".join(rows) + "\n"
    return "\n".join(sections) + BOTTOM


def _row(rule: str, docstring: str) -> str:
    parts = parts_of(docstring)
    named = {name: traits for name, traits in SYSTEMS.items() if traits.rule == rule and traits.context != "unrelated"}
    systems = ", ".join(f"`{name}`{'' if _usual(traits) else ' (no GRPO)'}" for name, traits in named.items())
    reads = ", ".join(f"`{name}`" for name in sorted(next(iter(named.values())).reads)) or "–"
    if not next(iter(named.values())).signal:
        reads += "; no teacher"
    cells = [systems, parts[""], parts["Paper"], parts["Formula"], reads, parts["Left out"]]
    return f"| {' | '.join(map(_escaped, cells))} |"


def _unrelated() -> str:
    cells = [
        "`opsd_unrelated` (no GRPO)",
        "Weight 1; the teacher is the student with the answer of another problem in its prompt.",
        "the control of arXiv 2608.09228, as described in a survey",
        "w = 1.",
        "–",
        "The prompt holds the answer of the next problem with another one, and its solution if the data has one.",
    ]
    return f"| {' | '.join(map(_escaped, cells))} |"


def _usual(traits: SystemTraits) -> bool:
    return traits.outcome == "grpo"


def _escaped(cell: str) -> str:
    return re.sub(
        r"(arXiv) (\d{4}\.\d{5})", r"\1 [\2](https://arxiv.org/abs/\2)", cell.replace("|", "\\|").replace("~", "\\~")
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
