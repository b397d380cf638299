"""What the screen shows, and what a key does. Drawing is a function of the state, the size and the time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.text import Text

from sod.watch import panes
from sod.watch.following import Attempt, Follower, Identity
from sod.watch.panes import CURVES, Lines

View = Literal["overview", "trajectory", "curves", "alarms", "help"]

FEW_ALARMS = 2
"""Alarms on the overview, one line each; the others are counted."""
KEYS = (
    ("q", "quit"),
    ("tab, shift tab, 1 to 9", "next run, previous run, a certain run"),
    ("up, down, k, j", "choose a trajectory; scroll while reading"),
    ("enter, right", "read the chosen trajectory"),
    ("n, p", "next, previous trajectory while reading"),
    ("left, escape", "back"),
    ("page up, page down, space, home, end", "scroll"),
    ("c", "all metrics as curves"),
    ("a", "all alarms in full"),
    ("?", "this help"),
)
"""Keys and what they do."""


@dataclass(slots=True)
class Viewer:
    """The state of the screen."""

    followers: Sequence[Follower]
    curves: Sequence[str] = ()
    """Metrics to draw, by the beginning of their names; empty for `CURVES`."""
    run: int = 0
    view: View = "overview"
    chosen: Identity | None = None
    """The chosen trajectory. None: the newest one, also when newer ones appear."""
    scroll: int = 0
    """First visible line of a view that scrolls."""
    ended: bool = False
    _page: int = field(default=10, repr=False)
    """Lines that the last drawing could scroll."""

    @property
    def follower(self) -> Follower:
        return self.followers[self.run]

    @property
    def place(self) -> int:
        """Place of the chosen trajectory among the newest ones. The newest one replaces one that is gone."""
        identities = [attempt.identity for attempt in self.follower.attempts]
        return identities.index(self.chosen) if self.chosen in identities else 0

    @property
    def attempt(self) -> Attempt | None:
        attempts = self.follower.attempts
        return attempts[self.place] if attempts else None

    # Keys

    def press(self, key: str) -> None:
        """Change the state as the key asks. Other keys have no effect."""
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self._page, "page down": self._page}
        match key:
            case "q":
                self.ended = True
            case "tab" | "back tab":
                self._show_run((self.run + (1 if key == "tab" else -1)) % len(self.followers))
            case _ if key.isdecimal() and 0 < int(key) <= len(self.followers):
                self._show_run(int(key) - 1)
            case "c" | "a" | "?":
                wanted: View = "curves" if key == "c" else "alarms" if key == "a" else "help"
                self._open("overview" if self.view == wanted else wanted)
            case "left" | "escape":
                self._open("overview")
            case "enter" | "right" if self.view == "overview" and self.attempt:
                self.chosen = self.attempt.identity  # newer trajectories do not replace it while it is read
                self._open("trajectory")
            case "n" | "p" if self.view == "trajectory":
                self._choose(1 if key == "n" else -1)
                self.scroll = 0
            case "home" | "end":
                self._move(-(10**9) if key == "home" else 10**9)
            case _ if key in moves:
                self._move(moves[key])
            case _:
                pass

    def _show_run(self, number: int) -> None:
        self.run, self.chosen, self.scroll = number, None, 0
        if self.view == "trajectory":
            self.view = "overview"

    def _open(self, view: View) -> None:
        self.view, self.scroll = view, 0

    def _move(self, by: int) -> None:
        if self.view == "overview":
            self._choose(by)
        else:
            self.scroll = max(0, self.scroll + by)

    def _choose(self, by: int) -> None:
        attempts = self.follower.attempts
        if attempts:
            place = min(max(self.place + by, 0), len(attempts) - 1)
            self.chosen = attempts[place].identity if place else None

    # Drawing

    def lines(self, width: int, height: int, now: float) -> Lines:
        """Return exactly `height` lines."""
        body = height - 1
        match self.view:
            case "overview":
                lines = self._overview(width, body, now)
            case "help":
                lines = self._scrolled(panes.rule("keys", width), help_lines(width), body)
            case "curves":
                keys = panes.chosen_curves(self.follower.status, self.curves)
                lines = self._scrolled(
                    self._title("metrics", width), panes.curves(self.follower.status, keys, width), body
                )
            case "alarms":
                found = panes.alarm_lines(self.follower.status, width) or [Text("There are no alarms.")]
                lines = self._scrolled(self._title("alarms", width), found, body)
            case "trajectory":
                attempt = self.attempt
                found = panes.attempt_lines(attempt, width) if attempt else [Text("There is no trajectory.")]
                lines = self._scrolled(self._title("trajectory", width), found, body)
        lines = lines[:body] + [Text("")] * (body - len(lines))
        return [*lines, self._footer(width)]

    def _title(self, what: str, width: int) -> Text:
        return panes.rule(f"{what} of {self.follower.name}", width)

    def _scrolled(self, title: Text, lines: Lines, height: int) -> Lines:
        """Return the title and the visible part of the lines."""
        room = height - 1
        self._page = max(1, room - 1)
        self.scroll = max(0, min(self.scroll, len(lines) - room))
        if len(lines) > room:
            title = panes.fit(title, title.cell_len - 12)
            title.append(f" {min(100, 100 * (self.scroll + room) // len(lines)):>3} % ─────")
        return [title, *lines[self.scroll : self.scroll + room]]

    def _overview(self, width: int, height: int, now: float) -> Lines:
        status = self.follower.status
        lines = self._runs(width, max(1, height // 4)) + panes.about(status, width, now)
        lines += panes.alarms_in_short(status, width, FEW_ALARMS)
        keys = panes.chosen_curves(status, self.curves or CURVES)
        left = height - len(lines)
        lines += panes.curves(status, keys, width, left if not self.follower.attempts else left // 2)
        return lines + self._attempts(width, height - len(lines))

    def _runs(self, width: int, most: int) -> Lines:
        """Return the runs, or those around the chosen one."""
        if len(self.followers) == 1:
            return [panes.run_line(self.follower.status, width)]
        most = max(most, 2)
        first = max(0, min(self.run - most // 2, len(self.followers) - most))
        shown = list(enumerate(self.followers))[first : first + most]
        return [panes.run_line(each.status, width, chosen=number == self.run) for number, each in shown]

    def _attempts(self, width: int, height: int) -> Lines:
        """Return the newest trajectories and the end of the chosen one."""
        attempts, place = self.follower.attempts, self.place
        if not attempts or height < 3:
            return []
        self._page = most = min(len(attempts), max(1, (height - 1) // 2))
        first = max(0, min(place - most // 2, len(attempts) - most))
        newest = attempts[0].shown.update
        of = f" of update {newest}" if newest else ""
        lines = [panes.rule(f"newest trajectories{of}: {place + 1} of {len(attempts)}", width)]
        lines += panes.attempt_rows(attempts[first : first + most], width, chosen=place - first, newest=newest)
        left = height - len(lines) - 1
        if left < 2:
            return lines
        return [*lines, panes.rule("the chosen one", width), *preview(attempts[place], width, left)]

    def _footer(self, width: int) -> Text:
        several = len(self.followers) > 1
        words = {
            "overview": ["q quit", "↑↓ choose", "enter read", *(["tab next run"] if several else [])],
            "trajectory": ["q quit", "↑↓ scroll", "n next", "p previous", "← back"],
        }.get(self.view, ["q quit", "↑↓ scroll", "← back"])
        return panes.fit(Text("  ".join([*words, "c curves", "a alarms", "? help"]), style="reverse"), width)


def preview(attempt: Attempt, width: int, height: int) -> Lines:
    """Return question, verdict and the end of a trajectory in so many lines."""
    lines = panes.question_lines(attempt, width, max(1, height // 3))
    facts = panes.verdict_lines(attempt, width)
    left = height - len(lines) - len(facts)
    return [*lines, *panes.last_step(attempt, width, left), *facts][:height]


def help_lines(width: int) -> Lines:
    """Return the keys and their meaning."""
    longest = max(len(keys) for keys, _ in KEYS)
    return [panes.fit(Text.assemble((keys.ljust(longest), "bold"), f"  {words}"), width) for keys, words in KEYS]


def snapshot(follower: Follower, curves: Sequence[str], width: int, now: float) -> Lines:
    """Return the state of a run for output that is not a terminal."""
    status = follower.status
    lines = [panes.run_line(status, width), *panes.about(status, width, now), *panes.alarm_lines(status, width)]
    if keys := panes.chosen_curves(status, curves or CURVES):
        lines += panes.curves(status, keys, width)
    if attempt := next(iter(follower.attempts), None):
        lines += [panes.rule("the newest trajectory", width), *panes.attempt_lines(attempt, width)]
    for line in lines:
        line.rstrip()
    return lines
