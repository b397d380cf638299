"""A dry run as it is written: what the command reads, holds and keeps on this machine, and what the user must do first."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sod.config import ChatOptions, EvalOptions, SamplingOptions, ScoreOptions, SftOptions, TrainOptions
from sod.config.teachers import routes_of, with_servers
from sod.errors import ModelError, OptionError, RunError, TemplateError
from sod.model.lengths import SomeSampling, capped
from sod.planning.budgets import Memory, by_part, longest, sampling_bytes, vllm_bytes
from sod.planning.checks import NOT_INSTALLED, is_address, of_evaluation, of_fine_tuning, of_training, of_translation
from sod.planning.demonstrations import SAMPLED_ROWS, longest_conversation
from sod.planning.estimates import SLACK, usable_bytes
from sod.planning.inventory import (
    Device,
    Found,
    as_bytes,
    check_model,
    check_tokenizer,
    check_weights,
    find_device,
    find_model,
    find_tokenizer,
    measure,
    why_no_shape,
)
from sod.planning.memory import ITEMSIZE, AnyShape, type_of
from sod.planning.teacher_servers import serving
from sod.planning.text import Text
from sod.processes.distributed import place
from sod.runs.files import sha256_of_file
from sod.runs.results import read_results
from sod.tools.python import INTERPRETER, interpreter_schema

if TYPE_CHECKING:
    from sod.chat.format import ChatFormat


@dataclass(slots=True, kw_only=True)
class DryRun(Text):
    """The dry run of a command, and what the user must do first."""

    wanted: str
    """Value of network.device."""
    processes: int
    device: Device | None
    """The device that it selects on this machine, in the first process."""
    first: list[str] = field(default_factory=list)
    commands: set[str] = field(default_factory=set)
    """Steps of `first` that are commands to type. All other steps are refusals."""
    served: list[tuple[Found, ScoreOptions]] = field(default_factory=list)
    """Of several teachers those on servers, each with its options."""
    last: str = ""
    """The command to type after all steps in `first`."""
    peak: int | None = None
    """Bytes of memory at the peak, in each process; None if they are not known."""

    @classmethod
    def of(cls, command: str, options: SftOptions | TrainOptions | EvalOptions) -> "DryRun":
        heading = f"sod {command}, a dry run: nothing is loaded, downloaded or written."
        wanted = options.network.device
        text = cls(heading=heading, wanted=wanted, processes=1, device=find_device(wanted))
        if not isinstance(options, EvalOptions):
            text.start(options.processes)
        match options:
            case SftOptions():
                text.first += of_fine_tuning(options, text.processes)
            case TrainOptions():
                text.first += of_training(options, text.processes)
            case EvalOptions():
                text.first += of_evaluation(options)
        return text

    @property
    def gpu(self) -> int | None:
        """Return the bytes of the GPU's memory, or None for another device."""
        return self.device.memory if self.device and self.device.is_gpu else None

    @property
    def is_refused(self) -> bool:
        """Return whether the command would refuse its options or inputs, also after the commands that come first."""
        return any(step not in self.commands and NOT_INSTALLED not in step for step in self.first)

    @property
    def by_whom(self) -> str:
        return f", in {self.processes} processes" if self.processes > 1 else ""

    def start(self, wanted: int | None) -> None:
        """Set the number of processes to the option's value, or to the number that `torchrun` has started."""
        _, there = place()
        self.processes = wanted or there
        if there == 1 < self.processes:
            self.last = f"torchrun --nproc-per-node {self.processes} -m sod ..., which starts the processes"
        elif there != self.processes:
            self.first.append(
                f"Start {self.processes} processes, or change --processes: torchrun has started {there}, and processes = "
                f"{self.processes}."
            )

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Add an error of the run to the steps that come first."""
        try:
            yield
        except (ModelError, OptionError, TemplateError) as refusal:
            self.first.append(str(refusal))

    def check_template(self, model: Path, options: ChatOptions) -> "ChatFormat | None":
        """Check the chat template, if the tokenizer is local. -> the format, or None without one that works"""
        folder = find_tokenizer(model)
        if folder is None:
            return None
        from sod.chat.format import ChatFormat  # Transformers take seconds to import
        from sod.model.loading import load_tokenizer

        with self.refusals():
            chat = ChatFormat.of(load_tokenizer(folder), options)
            if chat.note:
                self.add("reads", chat.note)
            return chat
        return None

    def longest_row(self, options: SftOptions, chat: "ChatFormat | None", model: Found) -> int | None:
        """Return the tokens of the longest conversation after cutting; None without data or tokenizer."""
        files = [path for path in (options.data, *map(Path, options.validate.data)) if path.is_file()]
        if chat is None or not options.data.is_file():
            return None
        with self.refusals():
            found = longest_conversation(chat, files)
            most = min(options.max_tokens, model.positions or options.max_tokens)
            cut = f", cut to {most:,}" if found > most else ""
            self.add(
                "does",
                f"longest conversation: {found:,} tokens{cut} ({SAMPLED_ROWS} with most characters were counted)",
            )
            return min(found, most)
        return None

    def check_tokens(
        self, options: TrainOptions | EvalOptions, student: Path, teacher: Path, chat: "ChatFormat | None"
    ) -> None:
        """Check a teacher with another tokenizer than the student's as a run does, if both tokenizers are local.

        `chat`: the student's format, or None without one that works. A probe has a call if the interpreter is a tool.
        """
        ours, theirs = find_tokenizer(student), find_tokenizer(teacher)
        if ours is None or theirs is None or ours == theirs:
            return
        from sod.model.loading import load_tokenizer  # Transformers take seconds to import

        with self.refusals():
            tokenizer = load_tokenizer(ours)
            if load_tokenizer(theirs).get_vocab() == tokenizer.get_vocab():
                return
            self.add("reads", f"spans    of text, because {teacher} has another tokenizer than the student")
            self.first += of_translation(options, teacher)
            if chat is None:
                return
            from sod.teachers import TeacherSetup
            from sod.teachers.translated import Translation

            tools = [interpreter_schema()] if INTERPRETER in options.tool.use else []
            Translation(TeacherSetup.of(theirs, options, chat, tools))

    def check_what_is_named(self, options: TrainOptions | EvalOptions, teacher: Found | None) -> None:
        """Add the user's own tools, and the command that starts each teacher's server."""
        for name in options.tool.own:
            self.add("reads", f"tool     {name}")
        for found, score in [*([(teacher, options.score)] if teacher else []), *self.served]:
            if score.teacher_url and is_address(score.teacher_url):
                command = serving(found.name, options.model_copy(update={"score": score}))
                self.first.append(f"Start the teacher's server, unless it is running: {command}")
                self.commands.add(self.first[-1])

    def read_teachers(self, options: TrainOptions | EvalOptions) -> list[Found]:
        """Look up several teachers. -> those on this machine; `served` gets the others"""
        here: list[Found] = []
        routes = with_servers(routes_of(options.teachers), options.score.teacher_urls)
        for route in {(each.model, each.url, each.served_name): each for each in routes}.values():
            found = self.read_model("teacher", route.model, served=route.url is not None)
            if route.url is None:
                here.append(found)
            else:
                self.add("reads", f"teacher  on the server {route.url}; its memory is not counted here")
                self.served.append((found, route.score(options.score)))
        return here

    def read_model(self, what: str, model: Path, *, served: bool = False) -> Found:
        """Look up a model. Unless it is on a server, also check its config.json for unsupported features."""
        found = self.read(what, find_model(model))
        with self.refusals():
            check_tokenizer(found)
        if not served:
            with self.refusals():
                check_model(found)
                check_weights(found)
                return measure(found)
        return found

    def read(self, what: str, found: Found) -> Found:
        self.add("reads", f"{what:<8} {found.name}  {found.where}")
        self.first += [found.first] if found.first else []
        self.commands |= {found.first} if found.first.startswith("sod ") else set()
        return found

    def write(self, out: Path, *, resume: bool) -> None:
        begun = (out / "options.json").exists()
        if begun and not resume:
            self.first.append(f"Choose another --out, or give --resume: {out} already holds a run.")
        if resume and not begun:
            self.first.append(f"Leave --resume out: {out} holds no run.")
        self.add("writes", f"{out}{', continued' if resume else ''}")

    def check_rates(self, rates: Path, data: Path, option: str = "problems.rates") -> None:
        """Check that a finished evaluation of the data holds the solve rates."""
        try:
            results = read_results(rates)
        except RunError as error:
            self.first.append(f"Give a finished run of `sod eval` as {option}: {error}")
            return
        if results.partial:
            self.first.append(f"Finish the evaluation in {rates}: run the same `sod eval` again.")
        elif data.is_file() and sha256_of_file(data) not in {each.sha256 for each in results.benchmarks.values()}:
            self.first.append(f"Give an evaluation of {data} as {option}: {rates} is one of other data.")

    def fitting(self, rollout: SomeSampling, *models: Found | None) -> SomeSampling:
        """Return the options with default lengths that fit the models, as the run caps them."""
        known = [model.positions for model in models if model]
        fitting = capped(rollout, [positions for positions in known if positions is not None])
        if fitting is not rollout:
            self.add(
                "does",
                f"prompts of up to {fitting.max_prompt_tokens:,} and responses of up to {fitting.max_tokens:,} tokens: the "
                "defaults exceed the positions of the model",
            )
        return fitting

    def check_processes(self, student: Found) -> None:
        """Check that a model that reads one sequence per pass is trained in one process."""
        if self.processes > 1 and student.shape and not student.shape.packs:
            self.first.append(f"Start one process: {student.name} reads one sequence per pass, and cannot be sharded.")

    def check_length(self, rollout: SamplingOptions, shapes: dict[str, AnyShape | None]) -> None:
        """Check that the models have enough positions."""
        tokens = longest(rollout)
        self.first += [
            f"Lower rollout.max_tokens: with the prompt it is {tokens:,}, and the {whose} has {shape.positions:,} positions."
            for whose, shape in shapes.items()
            if shape and tokens > shape.positions
        ]

    def check_share(self, options: TrainOptions | EvalOptions, shape: AnyShape) -> None:
        """Check that vLLM has room for one trajectory."""
        if options.engine.name != "vllm" or self.gpu is None:
            return
        share, (weights, trajectory) = round(options.engine.memory_share * self.gpu), sampling_bytes(options, shape)
        others = vllm_bytes(shape, ITEMSIZE[type_of(options.network)])
        if share < weights + others + trajectory:
            self.first.append(
                f"Raise engine.memory_share: vLLM needs {as_bytes(weights)} for weights, an estimated {as_bytes(others)} for "
                f"activations and CUDA graphs and {as_bytes(trajectory)} for one trajectory, and has {as_bytes(share)}."
            )

    def hold(self, memory: Memory, savings: Sequence[str] = ()) -> None:
        """Add every part of the memory, the total, and whether it fits. `savings`: options that would save memory."""
        parts, device = by_part(memory), self.device
        whole = self.peak = sum(parts.values())
        self.add("memory", *(f"{as_bytes(size):>9}  {name}" for name, size in parts.items()))
        each = f", in each of {self.processes} processes" if self.processes > 1 else ""
        self.add("memory", f"{as_bytes(whole):>9}  total at the peak{each}")
        if device is None:
            self.add("memory", f"not compared: this machine has no {self.wanted} with known memory")
            return
        if self.processes > 1 and not device.is_gpu:
            whole *= self.processes
            self.add("memory", f"{as_bytes(whole):>9}  in all processes")
        usable = usable_bytes(device)
        size = as_bytes(device.memory) + (
            f" less {SLACK:.0%} (assumed: driver and fragmentation)" if device.is_gpu else ""
        )
        advice = f"; try {', '.join([*savings, 'shorter trajectories'])}" if whole > usable else ""
        self.add("memory", f"{'fits' if whole <= usable else 'does NOT fit'} into {size}: {device.name}{advice}")

    def without_shape(self, **models: Found | None) -> "DryRun":
        reasons = [why_no_shape(found, whose) for whose, found in models.items() if found and found.shape is None]
        self.add("memory", *(f"not known: {reason}" for reason in dict.fromkeys(reasons)))
        return self

    def keep(self, checkpoint: int, *, copies: int, exchanged: int = 0) -> None:
        """Add the disk space of `copies` checkpoints, one that is being written, and the weights sent to the engine."""
        exchange = f"; {as_bytes(exchanged)} where weights are passed to vLLM" if exchanged else ""
        checkpoints = f"{copies} checkpoints of {as_bytes(checkpoint)}, one being written"
        self.add("disk", f"{as_bytes((copies + 1) * checkpoint)}: {checkpoints}{exchange}")

    def finished(self, width: int | None) -> str:
        """Return the text. Its last section lists what the user must do first."""
        wanted = dict.fromkeys([*self.first, *([self.last] if self.last else [])])
        steps = [f"{number}. {step}" for number, step in enumerate(wanted, 1)]
        self.add("to do", *(steps or ["nothing: all inputs are available"]))
        return self.written(width)
