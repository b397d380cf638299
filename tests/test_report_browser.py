"""The page of `sod report` in a real browser: headless Chromium, told what to do over a pipe (its DevTools protocol)."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from test_report import HOSTILE, attempts, trajectory, update, write_run

from sod.config import ReportOptions
from sod.report import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; Debian's package `chromium` has one")


class Tab:
    """A page that is open: it can be asked, clicked and typed into, and it remembers what went wrong."""

    def __init__(self, requests: IO[bytes], answers: IO[bytes]):
        self._requests, self._answers = requests, answers
        self._count = 0
        self._session: str | None = None
        self.complaints: list[Any] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        self._requests.write(
            json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (answer := self._next()).get("id") != self._count:
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.complaints.append(answer["params"])
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has gone"
            message += byte
        return json.loads(message)

    def open(self, address: str) -> None:
        """Load a page, and wait until it is ready."""
        self.call("Page.navigate", url="about:blank")
        self.complaints.clear()
        self.call("Page.navigate", url=address)
        self.until("document.documentElement?.dataset.ready")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait for a JavaScript expression to hold."""
        deadline = time.monotonic() + 60
        while not self.ask(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"{condition} never held; {self.complaints}"
            time.sleep(0.01)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **({"text": key} if len(key) == 1 else {}))
        self.ask("new Promise((done) => setTimeout(done, 50))")

    def choose(self, field: str, value: str) -> None:
        """Set a filter, and wait for the list to have followed."""
        self.ask(f"filters.elements[{field!r}].value = {value!r}; filters.dispatchEvent(new Event('input'))")
        self.until("list.ariaBusy === 'false'")

    @property
    def count(self) -> str:
        return self.ask("count.textContent")

    @property
    def read(self) -> list[str]:
        """What is being read, by the readers' titles."""
        return self.ask("[...document.querySelectorAll('.reader h3')].map((title) => title.textContent)")

    @property
    def selected(self) -> str:
        return self.ask("document.querySelector('.entry[aria-selected=true]')?.innerText ?? ''")


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A tab in a browser of its own."""
    assert BROWSER is not None
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()

    def connect() -> None:  # Chromium reads requests from descriptor 3 and answers on 4
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (theirs_in, theirs_out)]
        for descriptor, wanted in zip(high, (3, 4), strict=True):
            os.dup2(descriptor, wanted)

    with os.fdopen(ours_out, "wb", buffering=0) as requests, os.fdopen(ours_in, "rb") as answers:
        process = subprocess.Popen(
            [BROWSER, *FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Tab(requests, answers)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two runs: 24 attempts in each of two updates, every second one with a tool error."""
    folder = tmp_path_factory.mktemp("runs")
    hostile = trajectory(HOSTILE, sample=7)
    hostile["pieces"][0]["text"] = HOSTILE
    hostile["pieces"][1] |= {"text": HOSTILE, "token_texts": [HOSTILE, "", ""]}
    hostile["pieces"][2]["text"] = HOSTILE
    two = {1: attempts(), 8: [*attempts(), trajectory("other", steps=1), hostile]}
    runs = write_run(folder / "one"), write_run(folder / "two", trajectories=two)
    report(ReportOptions(runs=runs, out=folder / "page.html"))
    return folder / "page.html"


@pytest.fixture
def opened(page: Path, chromium: Tab) -> Iterator[Tab]:
    """The page, opened anew; whatever the browser complains of fails the test."""
    chromium.call("Emulation.clearDeviceMetricsOverride")
    chromium.open(page.as_uri())
    yield chromium
    assert not chromium.complaints


def test_the_list_holds_every_trajectory(opened: Tab) -> None:
    assert opened.count == "98 of 98"
    assert "p0 #0" in opened.ask("list.innerText")


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("run", "0", 48),
        ("verdict", "wrong", 48),
        ("errors", "some", 48),
        ("errors", "none", 50),
        ("pattern", "stable", 50),
        ("stop", "answered", 98),
        ("from", "2", 50),
        ("to", "1", 48),
        ("least", "0", 50),
        ("most", "-1", 48),
        ("text", "so 2", 97),  # in a third step, which one trajectory does not have
        ("text", "OTHER", 1),
        ("text", "nowhere", 0),
    ],
)
def test_a_filter_narrows_the_list(opened: Tab, field: str, value: str, left: int) -> None:
    opened.choose(field, value)
    assert opened.count == f"{left} of 98"
    opened.ask("document.querySelector('button[type=reset]').click()")
    opened.until("count.textContent === '98 of 98'")


def test_the_list_is_ordered_as_asked(opened: Tab) -> None:
    opened.choose("order", "weight up")
    weights = opened.ask("[...document.querySelectorAll('.entry .figure')].map((e) => Number(e.textContent.slice(2)))")
    assert weights[0] == 0.091
    assert weights == sorted(weights)
    opened.choose("order", "weight down")
    weights = opened.ask("[...document.querySelectorAll('.entry .figure')].map((e) => Number(e.textContent.slice(2)))")
    assert weights == sorted(weights, reverse=True)


def test_an_opened_trajectory_shows_its_steps_calls_and_end(opened: Tab) -> None:
    opened.choose("errors", "some")
    opened.ask("document.querySelector('.entry').click()")
    opened.until("document.querySelector('.reader')")
    shown = opened.ask("document.querySelector('.reader').innerText")
    for words in (
        "step 1",
        "w 1.000",
        "w 0.167",
        "used 1.000",
        "d 1.200",
        "teacher entropy 0.200 nats",
        "gold",
        "1.50 s",
    ):
        assert words in shown
    assert opened.ask("[...document.querySelectorAll('.tool header')].map((e) => e.innerText.split(/\\s+/).pop())") == [
        "error",
        "ok",
    ]
    assert opened.ask("[...document.querySelectorAll('.tool pre')].map((e) => e.innerText)") == ["42", "42"]


def test_a_token_tells_its_numbers_to_pointer_and_keyboard(opened: Tab) -> None:
    opened.press("j")
    opened.until("document.querySelector('.reader .token')")
    opened.ask("document.querySelectorAll('.student pre')[0].focus()")
    opened.press("ArrowRight")
    opened.press("ArrowRight")
    assert opened.ask("tip.innerText").splitlines() == [
        '" 0"   token 2 of 3',
        "signal −0.4000 nats",
        "sampled at log π −0.2500 (77.9 %)",
        "teacher entropy 0.2000 nats",
    ]
    opened.ask(
        "document.querySelector('.reader .token').dispatchEvent(new PointerEvent('pointerover', { bubbles: true }))"
    )
    assert "signal +0.2000 nats" in opened.ask("tip.innerText")
    tints = opened.ask(
        "[...document.querySelectorAll('.reader .token')].slice(0, 3).map((e) => getComputedStyle(e).backgroundColor)"
    )
    assert len(set(tints)) == 3


def test_keys_move_through_the_list_and_close(opened: Tab) -> None:
    opened.press("j")
    assert "p0 #0" in opened.selected
    opened.press("j")
    assert "p0 #1" in opened.selected
    opened.until("document.querySelector('.reader h3').textContent === 'p0 #1'")
    opened.press("k")
    assert "p0 #0" in opened.selected
    opened.ask("list.focus()")
    opened.press("ArrowDown")
    assert "p0 #1" in opened.selected
    opened.press("Escape")
    opened.until("!document.querySelector('.reader')")
    assert opened.selected == ""


def test_attempts_at_one_problem_are_compared_side_by_side_other_runs_first(opened: Tab) -> None:
    opened.press("j")
    opened.until("document.querySelector('.reader')")
    choices = opened.ask("[...document.querySelectorAll('.tools option')].map((option) => option.textContent)")
    assert choices[1] == "two · update 1 · #0 · ✓ right"
    assert len(choices) == 8
    opened.ask(
        "const s = document.querySelector('.tools select'); s.selectedIndex = 1; s.dispatchEvent(new Event('change'))"
    )
    opened.until("document.querySelectorAll('.reader').length === 2")
    assert opened.read == ["p0 #0", "p0 #0"]
    assert opened.ask("[...document.querySelectorAll('.reader .run')].map((e) => e.textContent)") == ["one", "two"]
    opened.press("Escape")
    opened.until("document.querySelectorAll('.reader').length === 1")
    assert opened.ask("document.querySelector('.reader .run').textContent") == "one"


def test_an_address_leads_back_to_what_was_read_and_filtered(opened: Tab, page: Path) -> None:
    opened.choose("run", "1")
    opened.choose("text", "other")
    opened.press("j")
    opened.until("document.querySelector('.reader')")
    opened.open(opened.ask("location.href"))
    assert opened.count == "1 of 98"
    assert opened.read == ["other #0"]
    opened.ask("location.hash = 'read=one%2F8%2Fp3%2F1&with=two%2F8%2Fp3%2F0'")
    opened.until("document.querySelectorAll('.reader').length === 2")
    assert opened.read == ["p3 #1", "p3 #0"]
    assert opened.count == "98 of 98"


def test_hostile_text_is_shown_and_does_nothing(opened: Tab) -> None:
    opened.choose("text", "onerror")
    opened.press("j")
    opened.until("document.querySelector('.reader')")
    assert "<img src=x onerror=alert(1)>" in opened.ask("document.querySelector('.reader').innerText")
    assert opened.ask("document.querySelector('.reader .token').textContent").startswith(
        "</script><script>alert(1)</script>"
    )
    assert opened.ask("document.images.length") == 0


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_trajectory_covers_it(opened: Tab) -> None:
    opened.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    assert opened.ask("document.documentElement.scrollWidth") == 390
    opened.press("j")
    opened.until("document.querySelector('.reader')")
    box = opened.ask(
        "(({ x, y, width, height }) => [x, y, width, height])(document.querySelector('.reader').getBoundingClientRect())"
    )
    assert box == [0, 0, 390, 844]
    assert opened.ask("document.activeElement.textContent") == "Close"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_either_theme(opened: Tab, theme: str) -> None:
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    opened.press("j")
    opened.until("document.querySelector('.reader')")
    for text in ("body", ".entry .about", ".verdict", ".turn header", "figure svg text", "figcaption", ".student pre"):
        assert opened.ask(CONTRAST.replace("SELECTOR", text)) >= 4.5, text


CONTRAST = """
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const brightness = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const linear = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const element = document.querySelector("SELECTOR"), style = getComputedStyle(element);
  const text = brightness(element.closest("svg") ? style.fill : style.color);
  const page = brightness(getComputedStyle(document.body).backgroundColor);
  return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
})()
"""


def test_five_thousand_trajectories_are_listed_searched_and_read(tmp_path: Path, chromium: Tab) -> None:
    rows = {
        u: [trajectory(f"p{i % 50}", sample=u, failed=i % 3 == 0, steps=5) for i in range(250)] for u in range(1, 21)
    }
    rows[20][249]["pieces"][0]["text"] = "the needle"
    run = write_run(tmp_path / "run", metrics=[update(u) for u in range(1, 21)], trajectories=rows)
    report(ReportOptions(runs=(run,)))
    chromium.open((run / "report.html").as_uri())
    assert chromium.count == "5,000 of 5,000"
    assert chromium.ask("rows.childElementCount") < 100
    chromium.ask("list.scrollTop = list.scrollHeight; list.dispatchEvent(new Event('scroll'))")
    chromium.until("list.innerText.includes('p49 #20')")
    chromium.choose("text", "needle")
    assert chromium.count == "1 of 5,000"
    chromium.press("j")
    chromium.until("document.querySelector('.reader')?.innerText.includes('the needle')")
    assert not chromium.complaints
