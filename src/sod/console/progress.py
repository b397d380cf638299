"""Show progress: live bars on a terminal, plain lines elsewhere.

All output goes through `console` or `sod.console.text.plain`, so that text from data, models and paths is never interpreted.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from sod.console.text import cell, plain
from sod.moved import keep_old_names
from sod.processes.distributed import place


class _Literal(Console):
    """A console that shows strings literally: no markup, no emoji codes, no control characters."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **style: Any) -> Text:
        return super().render_str(plain(text), **style)


console = _Literal(quiet=place()[0] > 0)
"""The console for all output. Only the first of several processes prints."""

QUIET_SECONDS = 2.0
"""Seconds of work before `slow_bar` shows a bar."""

ROOM = "SOD_COLUMNS"
"""Environment variable by which `sod compare` limits the lines of its runs. COLUMNS may be set for other programs."""


def width() -> int | None:
    """Return the longest line in characters: of the terminal, or set by a parent command. None: no limit."""
    if console.is_terminal:
        return console.width
    columns = os.environ.get(ROOM, "")
    return int(columns) if columns.isdecimal() else None


def fitted(parts: Sequence[tuple[int, str]], room: int | None) -> str:
    """Return the parts (importance, text) as one line. Leave out the least important ones if the line is too long."""
    kept = list(parts)
    while True:
        for gap in ("  ", " "):
            line = gap.join(text for _, text in kept)
            if room is None or len(line) <= room or len(kept) == 1:
                return line
        kept.remove(min(kept, key=lambda part: part[0]))


# Time


class Pace:
    """An estimate of the time left of a job, from its speed in the last quarter, and in at least two minutes."""

    SECONDS, SHARE = 120.0, 0.25
    FEWEST = 5
    """Number of marks that are always kept: parts may take longer than the window."""
    MARKS = 60
    """Largest number of marks in a window. Faster parts share a mark."""

    def __init__(self, total: int, done: int, now: float):
        self._total, self._begin = total, now
        self._marks = deque([(now, done)])
        self._expected: float | None = None

    def mark(self, done: int, now: float) -> None:
        """Record that `done` parts are done at time `now`, in seconds."""
        marks, window = self._marks, max(self.SECONDS, self.SHARE * (now - self._begin))
        if len(marks) > self.FEWEST and now - marks[-2][0] < window / self.MARKS:
            marks.pop()
        marks.append((now, done))
        while len(marks) > self.FEWEST and marks[1][0] <= now - window:
            marks.popleft()

    def extend(self, parts: int) -> None:
        """Add parts to the job."""
        self._total += parts

    def expect(self, seconds: float) -> None:
        """Set the estimated seconds of a part, which count until the first one is done."""
        self._expected = seconds

    def elapsed(self, now: float) -> float:
        return now - self._begin

    def left(self, now: float) -> float | None:
        """Return the seconds until all parts are done. Without an estimate, None before two of them are done."""
        (start, first), (end, done) = self._marks[0], self._marks[-1]
        if done - first < 2 and self._expected is None:
            return None
        each = self._expected if done == first else (end - start) / (done - first)
        assert each is not None
        waiting = now - end
        if waiting > each:  # the current part is slower than those before it
            each = (now - start) / (done - first + 1)
        return max(0.0, (self._total - done) * each - waiting)


def clock(seconds: float) -> str:
    """Return a duration as text: 42s, 3m16s, 1h17m, 2d03h."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days:.0f}d{hours % 24:02.0f}h"
    if hours:
        return f"{hours:.0f}h{minutes % 60:02.0f}m"
    return f"{minutes:.0f}m{seconds % 60:02.0f}s" if minutes else f"{int(seconds)}s"


def _times(pace: Pace) -> str:
    now = time.monotonic()
    left = pace.left(now)
    return f"{clock(pace.elapsed(now))} elapsed" + ("" if left is None else f"  {clock(left)} left")


class _Times(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_times(task.fields["pace"]))


# Display

LONGEST_NAME = 20
"""Longest name of a bar, in characters. A longer name, such as a path, is shown from its end."""
LEGEND = "legend: "
"""Start of a line that explains other lines. `sod compare` shows it once, not once per run."""


class Display:
    """A bar for the whole job, a bar for the current phase, and a line for each finished part.

    Without a terminal there are no bars. Instead, a line reports progress after `EVERY_SECONDS` without output.
    """

    EVERY_SECONDS = 30.0

    def __init__(self, title: str, total: int, done: int = 0):
        self._bars = Progress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            _Times(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        now = time.monotonic()
        self._done, self._parts, self._of, self._name = done, 0, 1, ""
        self._pace, self._phase_pace = Pace(total, done, now), Pace(1, 0, now)
        self._whole = self._bars.add_task(
            _name(title), total=total, completed=done, visible=total > 1, pace=self._pace, note=""
        )
        self._phase = self._bars.add_task("", total=1, visible=False, pace=self._phase_pace, note="")
        self._said = now

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @property
    def room(self) -> int | None:
        """Return the longest line of `done`, in characters. None: no limit."""
        columns = width()
        return columns if columns is None or console.is_terminal else columns - len("  59m59s left")

    @contextmanager
    def phase(self, name: str, parts: int) -> Iterator[None]:
        """Show a bar for a phase of `parts`. Call `advance` after each part."""
        self._name, self._parts, self._of = name, 0, parts
        self._said = time.monotonic()
        self._phase_pace = Pace(parts, 0, self._said)
        self._bars.reset(
            self._phase, description=f"  {_name(name)}", total=parts, visible=True, pace=self._phase_pace, note=""
        )
        yield
        self._bars.update(self._phase, visible=False)

    def expect(self, seconds: float) -> None:
        """Set the estimated seconds of a part of the job. Measured times replace them."""
        self._pace.expect(seconds)

    def extend(self, parts: int) -> None:
        """Add parts to the current phase."""
        if parts:
            self._of += parts
            self._phase_pace.extend(parts)
            self._bars.update(self._phase, total=self._of)

    def advance(self) -> None:
        self._parts += 1
        self._phase_pace.mark(self._parts, time.monotonic())
        self._bars.advance(self._phase)
        if self._is_quiet():
            self._say(f"  {self._name} {self._parts}/{self._of}  {_times(self._phase_pace)}")

    def done(self, line: str = "", *, due: bool = True) -> None:
        """Count a finished part. A line that is not due is shown next to the bar; without a terminal it is printed rarely."""
        self._done += 1
        now = time.monotonic()
        self._pace.mark(self._done, now)
        self._bars.update(self._whole, completed=self._done, note="" if due else plain(line))
        if line and (due or self._is_quiet()):
            left = None if console.is_terminal else self._pace.left(now)
            self._say(f"{line}  {clock(left)} left" if left else line)

    def _is_quiet(self) -> bool:
        """Return whether a line is overdue. Only without a terminal."""
        return not console.is_terminal and time.monotonic() - self._said > self.EVERY_SECONDS

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        echo(line)


def _name(text: str) -> str:
    text = cell(text)
    return text if len(text) <= LONGEST_NAME else f"…{text[1 - LONGEST_NAME :]}"


@contextmanager
def slow_bar(title: str, name: str, parts: int) -> Iterator[Callable[[int], None]]:
    """Show a bar if the work takes more than `QUIET_SECONDS`. Yield a function to call with the number of finished parts."""
    start, shown = time.monotonic(), 0
    display: Display | None = None

    def at(done: int) -> None:
        nonlocal display, shown
        if done == shown or (display is None and time.monotonic() - start < QUIET_SECONDS):
            return
        if display is None:
            display = stack.enter_context(Display(title, total=1))
            stack.enter_context(display.phase(name, parts))
        while shown < done:
            display.advance()
            shown += 1

    with ExitStack() as stack:
        yield at


def warn(text: str) -> None:
    """Print a warning in every process, because only one of them may have the problem."""
    rank, _ = place()
    if rank == 0:
        echo(text)
    else:
        print(f"process {rank}: {plain(text)}", flush=True)


def echo(text: str) -> None:
    """Print a permanent line, above the bars. A terminal wraps it at words."""
    console.print(text, soft_wrap=not console.is_terminal)


keep_old_names(__name__, say="echo")
