"""What the user sees while something runs: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sod.ranks import place

console = Console(highlight=False, quiet=place()[0] > 0)
"""Of several processes, the user sees the first."""


QUIET_SECONDS = 2.0


class Display:
    """A bar for the whole, a bar for the phase under way, and a line for each thing done.

    Without a terminal there are no bars, and a phase of many parts says how far it is every `EVERY_SECONDS`.
    """

    EVERY_SECONDS = 15.0

    def __init__(self, title: str, total: int, done: int = 0):
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._whole = self._bars.add_task(title, total=total, completed=done, visible=total > 1)
        self._phase = self._bars.add_task("", total=1, visible=False)
        self._name, self._parts, self._of = "", 0, 1
        self._said = time.monotonic()

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def phase(self, name: str, parts: int) -> Iterator[None]:
        """`advance` is called for each of its parts."""
        self._name, self._parts, self._of = name, 0, parts
        self._said = time.monotonic()
        self._bars.reset(self._phase, description=f"  {name}", total=parts, visible=True)
        yield
        self._bars.update(self._phase, visible=False)

    def advance(self) -> None:
        self._parts += 1
        self._bars.advance(self._phase)
        if not console.is_terminal and time.monotonic() - self._said > self.EVERY_SECONDS:
            self._said = time.monotonic()
            say(f"  {self._name} {self._parts}/{self._of}")

    def done(self, line: str = "") -> None:
        """One part of the whole is done."""
        self._bars.advance(self._whole)
        if line:
            say(line)


@contextmanager
def slow_bar(title: str, name: str, parts: int) -> Iterator[Callable[[int], None]]:
    """A bar that is shown only if the work takes more than `QUIET_SECONDS`. Gives a function to call with the parts done."""
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
    """The same from every process: what went wrong in one of several may have gone wrong in it alone."""
    rank, _ = place()
    if rank == 0:
        say(text)
    else:
        print(f"process {rank}: {text}", flush=True)


def say(text: str) -> None:
    """A line that stays, above the bars if there are any. Brackets are shown as they are. A terminal wraps it at words."""
    console.print(text, markup=False, soft_wrap=not console.is_terminal)
