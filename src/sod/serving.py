"""`sod serve`: serve a model to agents that run elsewhere on this machine, and record what they ask as trajectories.

A session is named by the path of its base URL, `http://127.0.0.1:PORT/NAME/v1`, or by the API key. Its requests are merged into
conversations: a request continues the conversation that it repeats, and any other one begins a new conversation. Each is an
attempt of the rollout (`sod.rollout.agent`), so its tokens, limits and records are those of training. A request that changes the
history of a conversation is refused, and the conversation stays open.
"""

import asyncio
import logging
import socket
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

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
from sod.environments.asking import AskedStudent
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
from sod.errors import InfrastructureError, OptionError, SodError
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
from sod.tools import Toolbox
from sod.types import Problem, ToolCall, Trajectory, Verdict

logger = logging.getLogger(__name__)

OUTSIDE = "serve"
"""Name of the environment of all conversations."""
LIMITS = ToolOptions(seconds=1e9, max_chars=LARGEST_REQUEST)
"""An agent outside may take as long as --idle, and nothing of what it sends is cut."""
REMEMBERED = 64
"""Number of ended conversations of a session whose continuation is refused. An older one would begin a new conversation."""


def serve_model(options: ServeOptions) -> None:
    """Serve until Ctrl-C, then end all conversations and print their number."""
    options = with_chosen(options)
    run = Run(options.out)
    with run.held(), Runner() as loop, ExitStack() as stack:
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
        if problems:
            stack.enter_context(sandbox.working_in(loop))
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
        agent = Agent(engine, chat, Environments(Toolbox([])), referee, options.rollout)
        sessions = Sessions(agent, sets, samples, seed=options.seed, idle=options.idle)
        stopped: Future[None] = Future()
        with calling(lambda: stopped.set_result(None)):
            loop.run(_serve(sessions, options, stopped))
        echo(f"{sessions.total()}, written to {run.trajectory_file(0)}")


def _check_port(port: int) -> None:
    """Raise OptionError if the port cannot be used, before the model is loaded."""
    try:
        socket.create_server((ENDPOINT_HOST, port)).close()
    except OSError as error:
        raise OptionError(
            f"port: {port} cannot be used: {error.strerror}. Give another --port; 0 takes a free one."
        ) from error


async def _serve(sessions: "Sessions", options: ServeOptions, stopped: "Future[None]") -> None:
    endpoint = Endpoint(port=options.port, visitors=sessions)
    url = endpoint.url
    echo(
        f"serving {options.model} at {url}/v1 until Ctrl-C\n"
        f"  session NAME: {url}/NAME/v1, or the API key NAME\n"
        f"  end it with a verdict: curl {url}/NAME/v1/end -d '{{\"right\": true}}'"
    )
    try:
        await asyncio.wrap_future(stopped)
        echo("ending; turns that are being sampled are finished. Ctrl-C again breaks them off.")
        await sessions.close()
    finally:
        endpoint.close()


class OutsideConversation(AskedStudent):
    """A conversation with an agent outside. It is over when the session is ended, or after `idle` seconds without a request."""

    def __init__(self, first: ChatRequest, idle: float):
        super().__init__("The agent", patience=idle)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_right: bool | None = None
        self.receive(first)

    async def open(self, problem: Problem, seed: int) -> Opening:
        return await self.begin(self._over)

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

    `sets`: problems whose ids may be names of sessions.
    """

    def __init__(self, agent: Agent, sets: list[ProblemSet], samples: SampleFile, *, seed: int, idle: float):
        self._agent = agent
        self._problems = {problem.id: problem for each in sets for problem in each.problems}
        self._sets = {problem.id: each for each in sets for problem in each.problems}
        self._samples = samples
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
        if not concerned:
            self._begin(name, session, request)
            return
        reasons: list[str] = []
        for conversation in concerned:
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

    def total(self) -> str:
        """Return how many conversations were recorded, in words."""
        words = ", ".join(f"{self._counts[each]} {each}" for each in ("right", "wrong", "ungraded", "dropped"))
        return f"conversations: {sum(self._counts.values())} ({words}), sessions: {len(self._sessions)}"

    def _begin(self, name: str, session: NamedSession, request: ChatRequest) -> None:
        conversation, sample = OutsideConversation(request, self._idle), self._next[name]
        self._next[name] += 1

        async def run() -> None:
            try:
                await self._record(name, sample, conversation)
            finally:
                session.under_way.pop(conversation)
                session.ended.append(conversation)

        session.under_way[conversation] = asyncio.create_task(run())

    async def _record(self, name: str, sample: int, conversation: OutsideConversation) -> None:
        """Hold a conversation, and write it. One that fails is dropped, counted, and refused in words."""
        environments = Environments(Toolbox([]), OUTSIDE, LIMITS)
        environments.add(OUTSIDE, lambda: conversation)
        agent = replace(self._agent, environments=environments)
        unknown = Problem(id=name, messages=(), answer="", kind=ENVIRONMENT_KIND)
        problem = replace(self._problems.get(name, unknown), environment="", setting={}, files={})
        try:
            attempt = await agent.attempt(problem, sample, attempt_seed(self._seed, 0, name, sample))
            self._write(name, attempt)
        except Exception as error:  # a request that the chat template refuses must not end the server
            reason = str(error) if isinstance(error, SodError) else f"{type(error).__name__}: {error}"
            logger.warning(f"{name}/{sample} is dropped: {reason}")
            self._counts["dropped"] += 1
            conversation.refuse(InfrastructureError(reason))
            return
        if conversation.owes:
            conversation.reply(_last_turn(attempt, agent.chat))
        conversation.refuse(EndedError(ENDED))

    def _write(self, name: str, attempt: Trajectory) -> None:
        row = to_record(attempt, self._agent.chat.tokenizer.decode)
        self._samples.append(labelled(row, self._sets[name]) if name in self._sets else row)
        self._counts[attempt.judged.outcome] += 1
        logger.info(
            f"{name}/{attempt.sample}: {len(attempt.turns)} turns, {attempt.response_tokens} tokens, {attempt.stop}, "
            f"{attempt.judged.outcome}"
        )


def _last_turn(attempt: Trajectory, chat: ChatFormat) -> ChatReply:
    """Return the last turn of an attempt that a limit has ended."""
    *before, last = attempt.pieces
    text, calls = chat.read(last.tokens, attempt.tools)
    message = assistant_message(text, [call for call in calls if isinstance(call, ToolCall)], len(before))
    read = sum(len(piece.tokens) for piece in before)
    return ChatReply(message, read, len(last.tokens), is_cut=attempt.stop == "max_tokens")
