"""`sod serve`: serve a model to agents that run elsewhere on this machine, and record what they ask as trajectories.

A session is named by the path of its base URL, `http://127.0.0.1:PORT/NAME/v1`, or by the API key. Its requests are merged into
conversations: a request continues the conversation that it repeats, and any other one begins a new conversation. Each is an
attempt of the rollout (`sod.rollout.agent`), so its tokens, limits and records are those of training. A request that changes the
history of a conversation is refused, and the conversation stays open.

A conversation under way is a file (`sod.serving.open_files`), so that a server that was killed continues it when it starts again.
"""

import asyncio
import logging
import socket
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from sod.chat.format import ChatFormat
from sod.config import ServeOptions, ToolOptions
from sod.console.progress import echo
from sod.datasets import ProblemSet
from sod.datasets.rows import fingerprint_model
from sod.datasets.several import open_sets, sets_fingerprint
from sod.datasets.writing import keep_out_of_git
from sod.engines import ENGINES
from sod.engines.opening import open_engine
from sod.environments import Opening
from sod.environments.asking import AskedStudent, same_messages
from sod.environments.endpoint import (
    ENDED,
    ENDPOINT_HOST,
    LARGEST_REQUEST,
    ChatReply,
    ChatRequest,
    EndedError,
    Endpoint,
    assistant_message,
)
from sod.environments.running import Environments
from sod.errors import InfrastructureError, OptionError, RunError, SodError
from sod.evaluation.evaluate import labelled, load_sampled, with_chosen
from sod.model.hub import model_folder
from sod.model.loading import load_tokenizer
from sod.planning.checks import check, of_serving
from sod.processes.concurrency import Runner
from sod.processes.interrupts import calling
from sod.rewards.kinds import ENVIRONMENT_KIND
from sod.rewards.referee import Referee
from sod.rollout.agent import Agent
from sod.rollout.groups import attempt_seed
from sod.runs.contents import content_digests
from sod.runs.directory import Run
from sod.runs.records import to_record
from sod.runs.samples import SampleFile
from sod.sandbox.retries import open_sandbox
from sod.serving.open_files import OpenFile, RecordedEngine, read_open
from sod.tools import Toolbox
from sod.types import Problem, ToolCall, Trajectory, Verdict

logger = logging.getLogger(__name__)

OUTSIDE = "serve"
"""Name of the environment of all conversations."""
LIMITS = ToolOptions(seconds=1e9, max_chars=LARGEST_REQUEST)
"""An agent outside may take as long as --idle, and nothing of what it sends is cut."""
OPEN = "open"
"""Folder of a run with the conversations under way."""
REMEMBERED = 64
"""Number of ended conversations of a session whose continuation is refused. An older one would begin a new conversation."""


def serve_model(options: ServeOptions) -> None:
    """Serve until Ctrl-C, then end all conversations and print their number.

    A second Ctrl-C raises KeyboardInterrupt. The conversations that it breaks off stay open on disk.
    """
    options = with_chosen(options)
    run, is_recorded = Run(options.out), False
    try:
        with run.held(), Runner() as loop, ExitStack() as stack:
            sessions = _open(options, run, loop, stack)
            _serve_until_stopped(loop, sessions, options, run.trajectory_file(0))
            is_recorded = True
    except KeyboardInterrupt:
        if not is_recorded:  # otherwise only the closing of the model was broken off
            raise


def _open(options: ServeOptions, run: Run, loop: Runner, stack: ExitStack) -> "Sessions":
    """Open all that sessions need, until the stack is closed, and begin or continue the run."""
    if run.begun:
        run.check(options, resume=True)
    check(of_serving(options))
    _check_port(options.port)
    is_here = ENGINES[options.engine.name].loads_model
    sets = open_sets(options) if options.data else []
    problems = [problem for each in sets for problem in each.problems]
    folder = model_folder(options.model, weights=is_here)
    chat = ChatFormat.of(load_tokenizer(folder), options.chat)
    if chat.note:
        logger.info(chat.note)
    sandbox = open_sandbox(options.sandbox)
    referee = Referee(sandbox, options.reward, max_tokens=options.rollout.max_tokens)
    referee.check(problems)
    model = load_sampled(options, folder, chat) if is_here else None
    samples = stack.enter_context(SampleFile.open(run.trajectory_file(0)))
    stack.enter_context(sandbox.working_in(loop, probe=referee.runs_programs(problems)))
    engine = stack.enter_context(open_engine(loop, options.engine, model, options.rollout, chat.tokenizer))
    files = {"model": fingerprint_model(folder) if is_here else f"served {options.engine.served_name}"}
    if sets:
        files["data"] = sets_fingerprint(sets)
    contents = content_digests(options, [(each.path, each.problems) for each in sets])
    Run.open(options, options.out, data=files, files=contents, resume=run.begun)
    samples.hold()
    run.write_options(options)
    if any(each.private for each in sets):
        keep_out_of_git(run.trajectory_file(0))
        keep_out_of_git(run.folder / OPEN)
    agent = Agent(engine, chat, Environments(Toolbox([])), referee, options.rollout)
    return Sessions(agent, sets, samples, run.folder / OPEN, seed=options.seed, idle=options.idle)


def _serve_until_stopped(loop: Runner, sessions: "Sessions", options: ServeOptions, file: Path) -> None:
    """Serve until a signal, and print what was recorded, also if a second signal breaks off the end."""
    stopped: Future[None] = Future()
    try:
        with calling(lambda: stopped.set_result(None)):
            loop.run(_serve(sessions, options, stopped))
    except KeyboardInterrupt:
        echo(sessions.total(file))
        raise
    echo(sessions.total(file))


def _check_port(port: int) -> None:
    """Raise OptionError if the port cannot be used, before the model is loaded."""
    try:
        socket.create_server((ENDPOINT_HOST, port)).close()
    except OSError as error:
        raise OptionError(
            f"port: {port} cannot be used: {error.strerror}. Give another --port; 0 takes a free one."
        ) from error


async def _serve(sessions: "Sessions", options: ServeOptions, stopped: "Future[None]") -> None:
    await sessions.reopen()
    endpoint = Endpoint(port=options.port, visitors=sessions)
    url = endpoint.url
    echo(
        f"serving {options.model} at {url}/v1 until Ctrl-C\n"
        f"  session NAME: {url}/NAME/v1, or the API key NAME\n"
        f"  to end it: curl {url}/NAME/v1/end -d '{{\"right\": true}}'"
    )
    try:
        await asyncio.wrap_future(stopped)
        echo("ending; turns that are being sampled are finished. Ctrl-C again breaks them off.")
        await sessions.close()
    finally:
        endpoint.close()


class OutsideConversation(AskedStudent):
    """A conversation with an agent outside. It is over when the session is ended, or after `idle` seconds without a request.

    `file`: where it is kept. If the file has turns, they are read again before it is `ready` for further requests.
    """

    def __init__(self, file: OpenFile, idle: float):
        super().__init__("The agent", patience=idle)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_right: bool | None = None
        self.file = file
        self._tools = file.tools
        self._earlier = deque(file.requests)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._may_repeat = bool(file.requests)
        """Whether the last turn may not have reached the agent, because the server was killed."""

    async def open(self, problem: Problem, seed: int) -> Opening:
        return await self.begin(self._over)

    def receive(self, request: ChatRequest) -> None:
        """Write what a request adds to the file, and accept it."""
        self.file.ask(request.messages[len(self._history) :])
        self._may_repeat = False
        super().receive(request)

    def repeats(self, request: ChatRequest) -> bool:
        """Answer a request that the killed server had answered, perhaps without the agent reading it. -> whether it is one"""
        last = self._pending
        if not self._may_repeat or last is None or not last.reply.done():
            return False
        if not same_messages(request.messages, last.messages) or request.tools != last.tools:
            return False
        self._may_repeat = False
        request.reply.set_result(last.reply.result())
        return True

    async def _next(self) -> ChatRequest | None:
        if self._earlier:
            self._pending = ChatRequest([*self._history, *self._earlier.popleft()], self._tools)
            return self._pending
        if not self.ready.done():
            self.ready.set_result(None)
        return await super()._next()

    async def verdict(self, text: str) -> Verdict | bool | None:
        return self._is_right

    async def close(self) -> None:
        """Leave the last request unanswered: it gets the last turn, or the reason why there is none."""

    def end(self, is_right: bool | None) -> None:
        """End it after its current turn. `is_right`: the agent's verdict. None: the judge of the problem's kind decides."""
        self._is_right = is_right
        if not self._over.done():
            self._over.set_result(None)


@dataclass(slots=True)
class NamedSession:
    """The conversations of one name."""

    under_way: dict[OutsideConversation, "asyncio.Task[None]"] = field(default_factory=dict)
    ended: deque[OutsideConversation] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Sessions:
    """All sessions of a server. It answers the requests of the endpoint, in the event loop.

    `sets`: problems whose ids may be names of sessions. `folder`: of the files of conversations under way.
    """

    def __init__(
        self, agent: Agent, sets: list[ProblemSet], samples: SampleFile, folder: Path, *, seed: int, idle: float
    ):
        self._agent = agent
        self._problems = {problem.id: problem for each in sets for problem in each.problems}
        self._sets = {problem.id: each for each in sets for problem in each.problems}
        self._samples = samples
        self._folder = folder
        self._seed = seed
        self._idle = idle
        self._sessions: dict[str, NamedSession] = {}
        self._next = Counter[str]()
        """Number of the next sample of each session."""
        for name, sample in samples:
            self._next[name] = max(self._next[name], sample + 1)
        self._is_closing = False
        self._counts = Counter[str]()

    def ask(self, name: str, request: ChatRequest) -> None:
        """Pass a request to the conversation that it continues, or begin one."""
        if self._is_closing:
            request.refuse("The server is ending.")
            return
        session = self._sessions.setdefault(name, NamedSession())
        concerned = [each for each in (*session.under_way, *session.ended) if each.concerns(request)]
        try:
            if not concerned:
                self._begin(name, session, request)
                return
            self._continue(name, session, concerned, request)
        except RunError as error:  # a full disk
            request.refuse(str(error))

    def _continue(
        self, name: str, session: NamedSession, concerned: list[OutsideConversation], request: ChatRequest
    ) -> None:
        reasons: list[str] = []
        for conversation in concerned:
            if conversation.repeats(request):
                return
            try:
                conversation.added(request)
            except InfrastructureError as error:
                reasons.append(str(error))
                continue
            if conversation.waits and conversation in session.under_way:
                conversation.receive(request)
                return
            reasons.insert(0, "Its conversation has ended, or waits for another turn.")
        request.refuse(f"Session {name!r}: {reasons[0]}")

    async def end(self, name: str, is_right: bool | None) -> int:
        """End the conversations of a session, and wait until they are written. -> their number"""
        session = self._sessions.get(name, NamedSession())
        tasks = list(session.under_way.values())
        for conversation in session.under_way:
            conversation.end(is_right)
        await asyncio.gather(*tasks)
        return len(tasks)

    async def close(self) -> None:
        """Refuse further requests, and end all conversations after their current turns."""
        self._is_closing = True
        for name in self._sessions:
            await self.end(name, None)

    async def reopen(self) -> None:
        """Continue the conversations that a killed server left open."""
        begun: list[tuple[OutsideConversation, asyncio.Task[None]]] = []
        for file in read_open(self._folder):
            if (file.name, file.sample) in self._samples:  # killed after it was written
                file.close()
            else:
                self._next[file.name] = max(self._next[file.name], file.sample + 1)
                session = self._sessions.setdefault(file.name, NamedSession())
                begun.append(self._hold(session, file))
        for conversation, task in begun:
            await asyncio.wait([conversation.ready, task], return_when=asyncio.FIRST_COMPLETED)
        if begun:
            logger.info(f"Conversations that were open when the server ended, and continue: {len(begun)}.")

    def total(self, file: Path) -> str:
        """Return in words how many conversations were recorded in the file, dropped and broken off."""
        verdicts = {each: self._counts[each] for each in ("right", "wrong", "ungraded")}
        words = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        parts = [f"conversations recorded in {file}: {sum(verdicts.values())} ({words})"]
        if dropped := self._counts["dropped"]:
            parts.append(f"dropped: {dropped}")
        if under_way := sum(len(session.under_way) for session in self._sessions.values()):
            parts.append(f"broken off: {under_way}, which the same command continues")
        return "; ".join(parts)

    def _begin(self, name: str, session: NamedSession, request: ChatRequest) -> None:
        file = OpenFile.begin(self._folder, name, self._next[name], request.tools)
        self._next[name] += 1
        conversation, _ = self._hold(session, file)
        conversation.receive(request)

    def _hold(self, session: NamedSession, file: OpenFile) -> tuple[OutsideConversation, "asyncio.Task[None]"]:
        """Begin the conversation of a file in a task."""
        conversation = OutsideConversation(file, self._idle)

        async def run() -> None:
            await self._record(conversation)
            session.under_way.pop(conversation)
            session.ended.append(conversation)

        task = session.under_way[conversation] = asyncio.create_task(run())
        return conversation, task

    async def _record(self, conversation: OutsideConversation) -> None:
        """Hold a conversation, and write it. One that fails is dropped, counted, and refused in words."""
        name, sample = conversation.file.name, conversation.file.sample
        environments = Environments(Toolbox([]), OUTSIDE, LIMITS)
        environments.add(OUTSIDE, lambda: conversation)
        engine = RecordedEngine(self._agent.engine, conversation.file)
        agent = replace(self._agent, environments=environments, engine=engine)
        unknown = Problem(id=name, messages=(), answer="", kind=ENVIRONMENT_KIND)
        problem = replace(self._problems.get(name, unknown), environment="", setting={}, files={})
        try:
            attempt = await agent.attempt(problem, sample, attempt_seed(self._seed, 0, name, sample))
            self._write(name, attempt)
            conversation.file.close()
        except Exception as error:  # a request that the chat template refuses must not end the server
            reason = str(error) if isinstance(error, SodError) else f"{type(error).__name__}: {error}"
            logger.warning(f"{name}/{sample} is dropped: {reason}")
            self._counts["dropped"] += 1
            conversation.refuse(InfrastructureError(reason))
            if not isinstance(error, RunError):  # a full disk: the file is all there is
                conversation.file.close()
            return
        if conversation.owes:
            conversation.reply(_last_turn(attempt, agent.chat))
        conversation.refuse(EndedError(ENDED))

    def _write(self, name: str, attempt: Trajectory) -> None:
        row = to_record(attempt, self._agent.chat.tokenizer.decode)
        self._samples.append(labelled(row, self._sets[name]) if name in self._sets else row)
        self._counts[attempt.judged.outcome] += 1
        logger.info(
            f"{name}/{attempt.sample}: turns {len(attempt.turns)}, tokens {attempt.response_tokens}, {attempt.stop}, "
            f"{attempt.judged.outcome}"
        )


def _last_turn(attempt: Trajectory, chat: ChatFormat) -> ChatReply:
    """Return the last turn of an attempt that a limit has ended."""
    *before, last = attempt.pieces
    text, calls = chat.read(last.tokens, attempt.tools)
    message = assistant_message(text, [call for call in calls if isinstance(call, ToolCall)], len(before))
    read = sum(len(piece.tokens) for piece in before)
    return ChatReply(message, read, len(last.tokens), is_cut=attempt.stop == "max_tokens")
