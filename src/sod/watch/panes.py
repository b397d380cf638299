"""The parts of the screen as lines of text, each at most as wide as asked. Every colour repeats what words or signs state."""

import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from sod.console.progress import clock, fitted
from sod.console.text import cell, plain
from sod.processes.interrupts import CONTINUED, RESUMED
from sod.report import summary
from sod.report.trajectories import StepValues
from sod.watch.following import Attempt
from sod.watch.plots import plot
from sod.watch.status import EXPECTED, RunStatus

CURVES = (
    "rollout/solved", "validate/avg", "validate/loss", "rollout/reward", "steps/d", "learn/entropy", "learn/loss",
    "tools/calls", "tools/errors", "speed/tokens_per_second", "speed/learn_tokens_per_second", "guided/turns",
)  # fmt: skip
"""Metrics to draw unless the user names others, the most important one first; see `chosen_curves`."""
NARROWEST = 24
"""Narrowest plot, in columns."""
GAP = 2
PLOT_LINES = range(2, 7)
"""Possible heights of a plot without its title, in lines."""
SAME_WEIGHT = 1e-3
"""Difference below which two weights are shown as one."""
STYLES = {"running": "green", "starting": "green", "finished": "bold green", "waiting": "dim"}
VERDICTS = {"right": ("✓", "green"), "wrong": ("✗", "red"), "ungraded": ("?", "yellow")}
FRAME = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
"""The usual frame of a tool's result in a chat template; it is not shown."""
TAGS = re.compile(r"<[|｜][^<>|｜]*[|｜]>")
"""Special tokens of the usual chat templates."""

Lines = list[Text]

_WRAPPING = Console(color_system=None)


def fit(line: Text, width: int) -> Text:
    """Return the line cut to the width."""
    line.truncate(max(0, width), overflow="ellipsis")
    return line


def wrapped(text: Text | str, width: int, most: int | None = None) -> Lines:
    """Return the text folded to the width; with `most`, at most so many lines, the last one with an ellipsis."""
    text = Text(plain(text).expandtabs(4)) if isinstance(text, str) else text
    lines = list(text.wrap(_WRAPPING, max(1, width), overflow="fold"))
    if most is not None and len(lines) > most:
        lines = lines[:most]
        if lines:
            lines[-1] = fit(Text.assemble(lines[-1].plain.rstrip()[: width - 1], "…"), width)
    return lines


def rule(title: Text | str, width: int) -> Text:
    """Return a line with a title, filled with a rule."""
    title = Text(cell(title), style="bold") if isinstance(title, str) else title
    line = Text.assemble(("── ", "dim"), title, " ")
    line.append("─" * max(0, width - line.cell_len), "dim")
    return fit(line, width)


# Runs


def state(status: RunStatus) -> Text:
    style = STYLES.get(status.state, "yellow" if status.state in ("interrupted", "unfinished") else "bold red")
    return Text(cell(status.words), style=style)


def run_line(status: RunStatus, width: int, *, chosen: bool | None = None) -> Text:
    """Return a run in one line: name, bar, progress, time left, score, state. `chosen`: None for the only run."""
    sign = "" if chosen is None else "▶ " if chosen else "  "
    words = cell(status.name)
    longest = max(12, width // 5)
    words = words if cell_len(words) <= longest else f"…{words[1 - longest :]}"
    name = set_cell_size(words, longest if chosen is not None else cell_len(words))
    parts = [(3, bar(status, 8)), (6, f"update {status.progress}" if bar(status, 1) else status.progress)]
    if status.state == "running" and status.left is not None:
        parts.append((5, f"{clock(status.left)} left"))
    if status.score:
        parts.append((4, status.score_words))
    room = width - len(sign) - cell_len(name) - cell_len(status.words) - 4
    middle = fitted([part for part in parts if part[1]] or [(1, "")], room)
    line = Text.assemble(sign, (name, "bold" if chosen is not False else ""), "  ", middle)
    line.append(" " * max(2, width - line.cell_len - cell_len(status.words)))
    return fit(line.append_text(state(status)), width)


def bar(status: RunStatus, width: int) -> str:
    """Return the progress as a bar; empty without a planned number of updates."""
    if not status.planned or not status.progress:
        return ""
    full = min(width, width * status.done // status.planned)
    return "█" * full + "░" * (width - full)


def about(status: RunStatus, width: int, now: float) -> Lines:
    """Return what else is known about the run: command, age, and why it ended if it did not finish."""
    parts = [(3, cell(status.command))] if status.command != "?" else []
    if status.changed is not None:
        parts.append((2, f"last change {clock(max(0.0, now - status.changed))} ago"))
    parts.append((1, cell(str(status.record.folder))))
    lines = [fit(Text(fitted(parts, width), style="dim"), width)]
    if status.state == "waiting":
        lines.append(fit(Text("No run yet. It is shown as soon as it begins.", style="yellow"), width))
    elif status.state == "crashed":
        words = f"Its process was killed, or the machine stopped. {_how_to_continue(status.record.command)}"
        lines += wrapped(Text(words, style="red"), width)
    elif status.state not in EXPECTED and status.end and status.end.message:
        lines += list(wrapped(Text(plain(status.end.message), style="red"), width, 3))
    return lines


def _how_to_continue(command: str) -> str:
    if command in RESUMED:
        return "Continue it with --resume."
    if command in CONTINUED:
        return "Continue it with the same command."
    return "" if command == "?" else "It cannot be continued. Start it again with another --out."


def alarm_lines(status: RunStatus, width: int) -> Lines:
    """Return all alarms of a run in full."""
    lines: Lines = []
    for alarm in summary.alarms([status.record]):
        name = Text(f"! {cell(alarm.name)}", style="bold red")
        lines += [*wrapped(name.append(f"  {alarm.when}", "default"), width), *wrapped(alarm.words, width), Text("")]
    return lines[:-1]


def alarms_in_short(status: RunStatus, width: int, most: int) -> Lines:
    """Return at most `most` alarms in a line each, those of the newest update first, and the number of the others."""
    rows = status.record.metrics
    found = summary.alarms([status.record])
    present = [alarm for alarm in found if f"alarm/{alarm.name}" in rows[-1]]
    ordered = [*present, *(alarm for alarm in found if alarm not in present)]
    lines = [
        fit(
            Text.assemble((f"! {cell(alarm.name)}", "bold red"), f": {cell(alarm.words)}")
            if alarm in present
            else Text(f"! {cell(alarm.name)}: no longer raised; {alarm.when}", style="dim"),
            width,
        )
        for alarm in ordered[:most]
    ]
    if len(ordered) > most:
        lines.append(Text(f"! {len(ordered) - most} more: press a", style="red"))
    return lines


# Curves


def chosen_curves(status: RunStatus, names: Sequence[str]) -> list[str]:
    """Return the metrics with these names, or else those that begin with them, in this order. Without names: all."""
    rows = (*status.record.metrics, *status.record.validations)
    keys = sorted({key for row in rows for key in row if key != "update" and not key.startswith("alarm/")})
    if not names:
        return keys
    found = ([name] if name in keys else [key for key in keys if key.startswith(name)] for name in names)
    return list(dict.fromkeys(key for some in found for key in some))


def curves(status: RunStatus, keys: Sequence[str], width: int, room: int | None = None) -> Lines:
    """Return plots of the metrics, side by side as the width allows.

    With `room`, return at most so many lines: the plots grow to fill it, and the last ones are left out if it is too small.
    """
    if not keys:
        return [Text("There are no metrics yet.", style="dim")]
    side_by_side = max(1, min(len(keys), (width + GAP) // (NARROWEST + GAP)))
    each = (width + GAP) // side_by_side - GAP
    height = PLOT_LINES[0]
    if room is not None:
        rows = -(-len(keys) // side_by_side)
        height = min(max(room // rows - 1, PLOT_LINES[0]), PLOT_LINES[-1])
        keys = keys[: room // (height + 1) * side_by_side]
    lines: Lines = []
    for start in range(0, len(keys), side_by_side):
        row = [curve(status, key, each, height) for key in keys[start : start + side_by_side]]
        lines += [Text(" " * GAP).join(parts) for parts in zip(*row, strict=True)]
    return lines


def curve(status: RunStatus, key: str, width: int, height: int) -> Lines:
    """Return one plot of exactly this width: name and newest value, then bars between the lowest and the highest value."""
    _, values = status.record.curve(key)
    form = _FORMS.get(key, _number)
    newest = form(values[-1]) if values else summary.UNKNOWN
    room = max(1, width - len(newest) - 1)
    name = Text(key if cell_len(key) <= room else key.partition("/")[2] or key, style="cyan")
    title = Text.assemble(fit(name, room), " " * (room - name.cell_len + 1), (newest, "bold"))
    low, high = (form(min(values)), form(max(values))) if values else ("", "")
    margin = max(len(low), len(high)) + 1
    high = "" if high == low else high
    bars = plot(values, max(1, width - margin), height)
    labels = [high, *[""] * (height - 2), low] if height > 1 else [high]
    return [title] + [
        Text.assemble((label.rjust(margin - 1) + " ", "dim"), line) for label, line in zip(labels, bars, strict=True)
    ]


def _number(value: float) -> str:
    """Return a number with about three digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.0e}"


_FORMS = {key: form for key, _, form in summary.METRICS} | {"rollout/tokens_sampled": _number}


# Trajectories


def attempt_rows(attempts: Sequence[Attempt], width: int, *, chosen: int, newest: int) -> Lines:
    """Return a line for each trajectory, in columns. The update is left out if it is `newest`."""
    cells = [_cells(attempt, newest) for attempt in attempts]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines: Lines = []
    for place, (attempt, row) in enumerate(zip(attempts, cells, strict=True)):
        sign, style = VERDICTS[attempt.shown.verdict]
        words = "  ".join(set_cell_size(text, size) for text, size in zip(row, widths, strict=True) if size)
        line = Text.assemble("▶ " if place == chosen else "  ", (sign, style), " ", words)
        line.style = "bold" if place == chosen else ""
        line.rstrip()
        lines.append(fit(line, width))
    return lines


def _cells(attempt: Attempt, newest: int) -> list[str]:
    """Return problem, update, reward, calls, and d and w of every step."""
    shown = attempt.shown
    return [
        f"{cell(shown.problem)} #{shown.sample}",
        "" if shown.update == newest else f"update {shown.update}",
        "" if shown.reward is None else f"{shown.reward:+.2f}",
        _many(shown.calls, "call"),
        _many(shown.errors, "error") if shown.errors else "",
        _values("d", [step.d for step in shown.steps]),
        _values("w", [step.w for step in shown.steps]),
    ]


def attempt_lines(attempt: Attempt, width: int) -> Lines:
    """Return a trajectory for reading: facts, question, and every step with its text, calls and results."""
    shown, pieces = attempt.shown, attempt.content["pieces"]
    sign, style = VERDICTS[shown.verdict]
    facts = [f"{cell(shown.problem)} #{shown.sample}", f"update {shown.update}", _many(shown.tokens, "token")]
    facts += [f"reward {shown.reward:+.2f}"] if shown.reward is not None else []
    facts += [_many(shown.calls, "call"), _many(shown.errors, "error"), *filter(None, [cell(shown.pattern or "")])]
    lines = wrapped(Text.assemble((f"{sign} {shown.verdict}", style), "  ", " · ".join(facts)), width)
    lines += verdict_lines(attempt, width)
    scored = sum(piece["author"] == "student" for piece in pieces) == len(shown.steps)
    number = 0
    for piece in pieces:
        title = Text(cell(piece["author"]), style="bold")
        if piece["author"] == "student":
            number += 1
            title = Text(f"step {number}", style="bold").append(
                _measured(shown.steps[number - 1] if scored else None), "cyan"
            )
        for outcome in piece.get("outcomes", ()):
            title.append(f"  {cell(outcome)}", "green" if outcome == "ok" else "red")
        lines += [rule(title, width), *_text_of(piece, width)]
    return lines


def _measured(step: StepValues | None) -> str:
    """Return d and w of a step; also the weight that the algorithm used, if it is another one."""
    if step is None:
        return ""
    used = None if step.w_used is None or step.w is None or abs(step.w_used - step.w) < SAME_WEIGHT else step.w_used
    known = [("d", step.d), ("w", step.w), ("used", used)]
    return "".join(f"  {name} {value:.3f}" for name, value in known if value is not None)


def verdict_lines(attempt: Attempt, width: int) -> Lines:
    """Return the answer, the reference answer, the reason of the verdict, and why the trajectory ended."""
    content = attempt.content
    words = f"answer {_known(content['answer'])}, gold {_known(content['gold'])}"
    words += f" ({cell(content['reason'])})" if content["reason"] else ""
    return wrapped(f"{words}, ended: {cell(attempt.shown.stop)}", width)


def question_lines(attempt: Attempt, width: int, most: int) -> Lines:
    """Return the end of the prompt, which is the question in most templates."""
    prompt = next((piece["text"] for piece in attempt.content["pieces"] if piece["author"] == "prompt"), "")
    lines = [line for line in TAGS.sub("\n", prompt).splitlines() if line.strip()]
    roles = {"assistant", "user", "model", "system"}
    while lines and lines[-1].strip().lower() in roles:  # the header of the student's turn
        lines.pop()
    return wrapped(Text.assemble(("question ", "dim"), plain(" ".join(lines[-1:]))), width, most)


def last_step(attempt: Attempt, width: int, most: int) -> Lines:
    """Return the end of the student's last step."""
    turns = [piece["text"] for piece in attempt.content["pieces"] if piece["author"] == "student"]
    lines = wrapped(TAGS.sub("", turns[-1]).strip() if turns else "", width)
    return lines[max(0, len(lines) - most) :]


def _text_of(piece: dict[str, str], width: int) -> Lines:
    text = piece["text"]
    if piece["author"] == "tool":
        text = "\n".join(FRAME.findall(text)) or text
    return list(wrapped(text.strip("\n"), width))


def _values(name: str, values: Sequence[float | None]) -> str:
    """Return the values of all steps, or nothing if no step has one."""
    if all(value is None for value in values):
        return ""
    return " ".join(
        [name, *(summary.UNKNOWN if value is None else f"{value:.2f}".removeprefix("0") for value in values)]
    )


def _known(value: object) -> str:
    return "none" if value is None else cell(str(value))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def join_lines(lines: Iterable[Text]) -> Text:
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines)
