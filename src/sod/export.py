"""A model as a Hugging Face folder that stands by itself: weights, tokenizer, a card, and where it all came from.

    config.json, model*.safetensors, generation_config.json     for Transformers and vLLM
    tokenizer*, chat_template.jinja
    README.md                                                   the card: use, recipe, data, results with their errors
    sod/options.json, environment.json                          of the run
    sod/evaluation-1/options.json, environment.json, results.json ...

The card tells what is written down and nothing else: what a run does not know is left out. Nothing written names this
machine: of a local path its last two parts remain, of addresses and command lines nothing.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar, cast

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from sod import __version__
from sod.chat import ChatFormat
from sod.config import (
    ChatOptions,
    EvalOptions,
    EvalRolloutOptions,
    ExportOptions,
    ModelOptions,
    Options,
    SftOptions,
    ToolOptions,
    TrainOptions,
)
from sod.data import fingerprint, fingerprint_model
from sod.errors import ModelError, OptionError, RunError
from sod.hub import NAME, model_folder
from sod.models import check_embeddings, load_model, load_tokenizer
from sod.progress import say
from sod.recipes import to_toml
from sod.results import Sheet, to_markdown
from sod.runs import MANIFEST, Run
from sod.sandbox.local import LocalSandbox
from sod.tools.python import PythonTool
from sod.types import Message

Json = dict[str, Any]
SomeOptions = TypeVar("SomeOptions", bound=Options)

LIMIT = 1e-3
"""Nats that a log-probability may differ outside this project: another attention kernel, the same numbers."""
UPDATES = 10
"""Updates at either end of a run whose means the card tells."""
PAPER = "[arXiv 2605.07725](https://arxiv.org/abs/2605.07725)"
SCHEMA = PythonTool(LocalSandbox(unsafe=True), ToolOptions()).schema  # which starts nothing
PROBE: list[Message] = [
    {"role": "user", "content": "What is 17 * 23? Put the answer in \\boxed{}."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": SCHEMA["function"]["name"], "arguments": {"code": "17 * 23"}}}],
    },
    {"role": "tool", "name": SCHEMA["function"]["name"], "content": "391"},
    {"role": "assistant", "content": "It is \\boxed{391}."},
]
"""A conversation with a call, on which the exported model is held against its checkpoint."""


def export(options: ExportOptions) -> None:
    """Write the folder and check it as a stranger would load it; or leave nothing behind.

    The check computes in float32 on a CPU: 4 bytes of memory a weight, beside the weights that are written.
    """
    if options.out.exists():
        raise RunError(f"{options.out} exists already; nothing is written over. Choose another --out.")
    checkpoint = model_folder(options.model)
    if checkpoint == options.model:
        _check_whole(checkpoint)
    stages = _history(checkpoint)
    fingerprint = fingerprint_model(checkpoint)
    evaluations = [Evaluation.read(folder, fingerprint) for folder in options.results]
    base = _known_base(stages) if options.base is None else _checked_name(options.base)

    dtype = "auto" if options.dtype == "same" else getattr(torch, options.dtype)
    chat_options = stages[0].options.chat if stages else ChatOptions(on_drift="append")
    chat = ChatFormat.of(load_tokenizer(checkpoint), chat_options)
    model = _plain_model(checkpoint, dtype)
    probe = Probe.of(checkpoint, chat, model)
    model.generation_config = _generation(model, chat, evaluations)
    card = Card(
        name=options.name or options.out.name,
        folder=options.out.name,
        license=options.license,
        base=base,
        fingerprint=fingerprint,
        parameters=model.num_parameters(),
        dtype=str(model.dtype).removeprefix("torch."),
        positions=model.config.max_position_embeddings,
        example=str(chat.tokenizer.decode(probe.ids)),
        rounding=probe.rounding,
        stages=stages,
        evaluations=evaluations,
    )
    files = _records(stages, evaluations) | {"README.md": f"---\n{card.data.to_yaml()}\n---\n\n{card.text()}"}
    with whole_or_not_at_all(options.out) as folder:
        _write(folder, model, chat, files)
        del model
        gap = probe.check(folder, chat_options)
        _check_card(folder / "README.md", card.data)
    say(
        f"checked: plain Transformers loads it and gives the {len(probe.ids) - 1} tokens of a conversation with a call the "
        f"checkpoint's log-probabilities, to {gap:.1g} nats"
        + (f"; rounding to {card.dtype} moved them by up to {card.rounding:.1g}" if card.rounding else "")
    )
    partial = sum(evaluation.results["partial"] for evaluation in evaluations)
    say(
        f"{options.out}: {checkpoint} in {card.dtype}, with a card and {_counted(len(evaluations), 'evaluation')}"
        + (f", {partial} of them partial" if partial else "")
    )


# What is known


@dataclass(frozen=True)
class Stage:
    """A training run, up to the checkpoint that came of it."""

    updates: int
    """Of fine-tuning, optimiser steps."""
    options: SftOptions | TrainOptions
    environment: Json
    metrics: list[dict[str, float]]

    @classmethod
    def of(cls, checkpoint: Path) -> "Stage | None":
        """None where the checkpoint belongs to no run."""
        checkpoint = checkpoint.resolve()
        name = re.fullmatch(r"update-(\d+)", checkpoint.name)
        folder = checkpoint.parent.parent
        if name is None or checkpoint.parent.name != "checkpoints" or not (folder / "options.json").is_file():
            return None
        content, updates = _read_json(folder / "options.json"), int(name[1])
        return cls(
            updates,
            _as_options(TrainOptions if "student" in content else SftOptions, content, folder),
            _read_json(folder / "environment.json"),
            [row for row in Run(folder).metrics() if row["update"] <= updates],
        )

    @property
    def command(self) -> str:
        return "train" if isinstance(self.options, TrainOptions) else "sft"

    @property
    def algorithm(self) -> str:
        return public(self.options.algorithm.name) if isinstance(self.options, TrainOptions) else "sft"

    @property
    def start(self) -> Path:
        """The model that it began with, as its options name it."""
        return self.options.student if isinstance(self.options, TrainOptions) else self.options.model

    @property
    def data(self) -> dict[str, str]:
        """Fingerprints of what it read."""
        return self.environment["data"]

    @property
    def start_fingerprint(self) -> str:
        return self.data["student" if isinstance(self.options, TrainOptions) else "model"]

    def before(self) -> "Stage | None":
        """The run that made the model that this one began with; None where it is not there any more."""
        places = [self.start, *(self.start / "checkpoints").glob("update-*")]
        made = next((place for place in places if fingerprint_model(place) == self.start_fingerprint), None)
        return None if made is None else Stage.of(made)


def _history(checkpoint: Path) -> list[Stage]:
    """The run that a checkpoint came of, and the runs before it, the newest first."""
    stages: list[Stage] = []
    stage = Stage.of(checkpoint)
    while stage is not None:
        stages.append(stage)
        stage = stage.before()
    return stages


def _known_base(stages: Sequence[Stage]) -> str | None:
    """The name on the hub of the model that the first run began with, if its weights are known to be that model's."""
    name = NAME.fullmatch(str(stages[-1].start)) if stages else None
    if name is None:
        return None
    config = try_to_load_from_cache(name["repo"], "config.json", revision=name["revision"])
    if not isinstance(config, str) or fingerprint_model(Path(config).parent) != stages[-1].start_fingerprint:
        return None
    return name["repo"]


def _checked_name(base: str) -> str:
    """Raises OptionError where it cannot be a name on the hub."""
    name = NAME.fullmatch(base)
    if name is None or name["revision"] is not None:
        raise OptionError(f"base = {base!r} is no name of a model on the hub; give it as ORG/NAME.")
    return base


@dataclass(frozen=True)
class Evaluation:
    """A run of `sod eval`, of the very model that is exported."""

    options: EvalOptions
    environment: Json
    results: Json

    @classmethod
    def read(cls, folder: Path, model: str) -> "Evaluation":
        """Raises RunError where there are no results, or they are of a model with another fingerprint."""
        results, environment = _read_json(folder / "results.json"), _read_json(folder / "environment.json")
        if "benchmarks" not in results:
            raise RunError(f"{folder} holds results in an older form; run `sod eval` again, into a new directory.")
        found = environment["data"].get("model")
        if found != model:
            raise RunError(
                f"{folder} measured another model ({results['model']}, fingerprint {str(found)[:12]}) than is exported "
                f"(fingerprint {model[:12]}). Leave it out, or measure this one: `sod eval --model ...`."
            )
        return cls(_as_options(EvalOptions, _read_json(folder / "options.json"), folder), environment, results)


def _read_json(path: Path) -> Json:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); {path.parent} holds no run, or a damaged one.") from error


def _as_options(kind: type[SomeOptions], content: Json, folder: Path) -> SomeOptions:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise RunError(f"{folder}/options.json is of another version of sod: {error}") from error


def _check_whole(checkpoint: Path) -> None:
    """Raises ModelError where a checkpoint is not what its manifest says; the optimiser's state does not matter here."""
    if not (checkpoint / MANIFEST).is_file():
        return
    for name, entry in _read_json(checkpoint / MANIFEST).items():
        file = checkpoint / name
        if file.suffix != ".pt" and not (file.is_file() and fingerprint(file) == entry["sha256"]):
            raise ModelError(
                f"The checkpoint {checkpoint} is damaged: {name} is not what its manifest says. Name the run instead, whose "
                "newest whole checkpoint is then taken, or an older checkpoint."
            )


# The model


def _plain_model(folder: Path, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """The model as plain Transformers loads it, with nothing of this project."""
    try:
        return cast(
            PreTrainedModel, AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
        )
    except Exception as error:  # a damaged file makes the libraries below raise anything
        raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error


def _generation(model: PreTrainedModel, chat: ChatFormat, evaluations: Sequence[Evaluation]) -> GenerationConfig:
    """Sampling as it was evaluated, or as the paper evaluates; it ends with the turn, or where it ended before."""
    before, sampling = model.generation_config, evaluations[0].options.rollout if evaluations else EvalRolloutOptions()
    assert before is not None
    ends = before.eos_token_id if isinstance(before.eos_token_id, list) else [before.eos_token_id]
    ends = [chat.end_of_turn, *(end for end in ends if end not in (None, chat.end_of_turn))]
    return GenerationConfig(
        bos_token_id=before.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=next(id for id in (before.pad_token_id, chat.tokenizer.pad_token_id, ends[0]) if id is not None),
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,  # Transformers' own default is 50
    )


@dataclass(frozen=True)
class Probe:
    """What the checkpoint makes of a conversation, to hold against what was written of it."""

    ids: list[int]
    logprobs_T: Tensor
    """Of every token but the first, by the checkpoint's weights, rounded as those that are written."""
    rounding: float
    """Nats, the most that this rounding moved one of them."""

    @classmethod
    def of(cls, checkpoint: Path, chat: ChatFormat, written: PreTrainedModel) -> "Probe":
        model = load_model(checkpoint, ModelOptions(device="cpu"))
        check_embeddings(model, chat.tokenizer, checkpoint)
        ids = _conversation(chat)
        exact_T = _logprobs(model, ids)
        for parameter, rounded in zip(model.parameters(), written.parameters(), strict=True):
            parameter.data = parameter.data.to(rounded.dtype).float()
        logprobs_T = _logprobs(model, ids)
        return cls(ids, logprobs_T, (exact_T - logprobs_T).abs().max().item())

    def check(self, folder: Path, options: ChatOptions) -> float:
        """Load what was written as a stranger would. -> nats, the largest difference of a log-probability

        Raises ModelError where tokens or numbers are other ones.
        """
        if _conversation(ChatFormat.of(load_tokenizer(folder), options)) != self.ids:
            raise ModelError(
                "The tokenizer that was written gives other tokens than the checkpoint's. Nothing was kept of it."
            )
        gap = (_logprobs(_plain_model(folder, torch.float32), self.ids) - self.logprobs_T).abs().max().item()
        if not gap < LIMIT:  # not a number neither
            raise ModelError(
                f"The model that was written is not the checkpoint's: a log-probability is {gap:.2g} nats off, where {LIMIT:g} "
                "are allowed. Nothing was kept of it."
            )
        return gap


def _conversation(chat: ChatFormat) -> list[int]:
    return [token for piece in chat.render(PROBE, [SCHEMA]) for token in piece.tokens]


@torch.no_grad()
def _logprobs(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """log pi of every token but the first. -> (T - 1,)"""
    logits_TV = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]


# Writing


@contextmanager
def whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which takes its name when all went well, and is gone when not."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, model: PreTrainedModel, chat: ChatFormat, files: dict[str, str]) -> None:
    """Model, tokenizer, and files of text by their path."""
    try:
        model.save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
    except Exception as error:  # on a full disk, each library below raises something else
        raise RunError(f"The model cannot be written to {folder}: {error}.") from error
    for weights in folder.glob("*.safetensors"):  # which are the owner's alone at first
        shutil.copymode(folder / "config.json", weights)
    tokenizer = _read_json(folder / "tokenizer_config.json")
    kept = {key: value for key, value in tokenizer.items() if key not in ("is_local", "local_files_only")}
    for name, text in (files | {"tokenizer_config.json": _to_json(kept)}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _check_card(file: Path, data: ModelCardData) -> None:
    """Raises ModelError where the hub's own library reads another front matter than was meant."""
    if ModelCard.load(file).data.to_dict() != data.to_dict():
        raise ModelError(f"The front matter of {file.name} does not read back as it was written.")


def _records(stages: Sequence[Stage], evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Where the model came from and how it was measured, as files of JSON by their path."""
    content: Json = {}
    if stages:
        content |= {"options": _options_of(stages[0].options), "environment": _without_command(stages[0].environment)}
    for number, evaluation in enumerate(evaluations, 1):
        content[f"evaluation-{number}/options"] = _options_of(evaluation.options)
        content[f"evaluation-{number}/environment"] = _without_command(evaluation.environment)
        content[f"evaluation-{number}/results"] = evaluation.results
    return {f"sod/{name}.json": _to_json(public(part)) for name, part in content.items()}


def _to_json(content: Json) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


# What others may see

ADDRESSES = {"engine": ("url", "exchange"), "sandbox": ("url",)}
"""Options that name machines, and belong to no recipe."""


def _options_of(options: Options, *, only_changed: bool = False, without: Sequence[str] = ()) -> Json:
    """Options as JSON, without addresses; if asked, without those that have their default."""
    content = options.model_dump(mode="json", exclude_defaults=only_changed, exclude=set(without))
    for section, names in ADDRESSES.items():
        for name in names:
            content.get(section, {}).pop(name, None)
    return content


def _without_command(environment: Json) -> Json:
    return {key: value for key, value in environment.items() if key != "command"}


def public(content: Any) -> Any:
    """JSON in which paths are short."""
    match content:
        case dict():
            return {public(key): public(value) for key, value in content.items()}
        case list():
            return [public(value) for value in content]
        case str() if content.startswith(("/", "~")):
            return _short_path(content)
        case str():
            return re.sub(r"""[^\s"'(),=]*/[^\s"'(),=]*""", lambda path: _short_path(path[0]), content)
        case _:
            return content


def _short_path(text: str) -> str:
    """The last two parts of a path, without the home directory; an address on the web stays."""
    path = Path(text)
    if text.startswith(("http://", "https://")) or (len(path.parts) < 3 and not path.is_absolute()):
        return text
    if path.is_relative_to(Path.home()):
        path = path.relative_to(Path.home())
    return "/".join([part for part in path.parts if part not in ("/", "~", "..")][-2:])


# The card


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is told of a model: front matter for the hub, and text for people."""

    name: str
    folder: str
    license: str | None
    base: str | None
    fingerprint: str
    """Of the checkpoint."""
    parameters: int
    dtype: str
    positions: int
    example: str
    """A conversation with a call, in the tokenizer's words."""
    rounding: float
    """Nats; see `Probe`."""
    stages: Sequence[Stage]
    evaluations: Sequence[Evaluation]

    @property
    def data(self) -> ModelCardData:
        results = [result for evaluation in self.evaluations for result in _index(evaluation)]
        distilled = any("teacher" in stage.data or stage.algorithm.startswith("opsd") for stage in self.stages)
        return ModelCardData(
            license=self.license,
            base_model=self.base,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["sod", *(["on-policy-distillation"] if distilled else []), "tool-use"],
            model_name=self.name if results else None,
            eval_results=results or None,
        )

    def text(self) -> str:
        parts = [f"# {self.name}", self.summary(), "## How to use it", self.usage()]
        if self.stages:
            parts += ["## How it was trained", *map(_training, self.stages)]
        if self.evaluations:
            parts += ["## Results", *map(_measurement, self.evaluations)]
        parts += ["## Limits", "\n".join(f"- {limit}" for limit in self.limits())]
        parts += ["## Versions", "\n".join(f"- {line}" for line in self.versions())]
        parts += ["Of local paths the last two parts are written, here and in `sod/`; command lines are not."]
        return "\n\n".join(parts) + "\n"

    def summary(self) -> str:
        what = "A language model" + (" that calls a Python interpreter" if self.stages or self.evaluations else "")
        if self.stages:
            what += f", trained with `sod`, a toolkit of step-wise on-policy distillation ({PAPER})"
        facts = [
            ("parameters", f"{self.parameters:,} in {self.dtype}"),
            *(_origin(self.stages[0]) if self.stages else ()),
        ]
        if self.base:
            facts.append(("base model", f"[{self.base}](https://huggingface.co/{self.base})"))
        facts.append(("fingerprint of the checkpoint", f"`{self.fingerprint}`"))
        if self.rounding:
            words = f"moved the log-probabilities of a short conversation by up to {self.rounding:.1g} nats"
            facts.append((f"rounding to {self.dtype}", words))
        return f"{what}.\n\n" + Sheet("", ["", ""], facts).markdown()

    def usage(self) -> str:
        chat = self.stages[0].options.chat if self.stages else ChatOptions()
        template, request = "", {"model": self.folder, "messages": PROBE[:1], "tools": [SCHEMA]}
        if chat.thinking is not None:
            template = f", enable_thinking={chat.thinking}"
            request["chat_template_kwargs"] = {"enable_thinking": chat.thinking}
        text = f"""\
With Transformers, one turn:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = {json.dumps(self.folder)}  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")

messages = {json.dumps(PROBE[:1])}
tools = {json.dumps([SCHEMA])}
prompt = tokenizer.apply_chat_template(
    messages, tools=tools, add_generation_prompt=True, return_dict=True, return_tensors="pt"{template}
)
turn = model.generate(**prompt, max_new_tokens={min(1024, self.positions // 4)})[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(turn))
```

It samples as `generation_config.json` says. Where the turn holds a call, a JSON object between `<tool_call>` and `</tool_call>`,
run its `code` **in a sandbox**, append the turn and, as a message of role `tool`, what was printed, and ask for the next turn. A
turn without a call is the answer.

With vLLM, which reads the calls by itself:

```sh
vllm serve {shlex.quote(self.folder)} --enable-auto-tool-choice --tool-call-parser hermes
```

```sh
curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(request))}
```

A conversation with a call, as the tokenizer writes it:

````text
{self.example}
````
"""
        if self.stages and chat.on_drift == "append":
            text += """
A conversation goes on by appending tokens: the model's own, then those that stand between two turns. Where the chat template,
given all messages anew, would write earlier turns otherwise, the appended tokens are what the model has learnt from.
"""
        return text.strip()

    def limits(self) -> Iterator[str]:
        yield "It writes programs. Run them where they can do no harm: no network, no files of yours, little time and memory."
        yield "No program finds anything that an earlier one left behind."
        if self.stages and isinstance(options := self.stages[0].options, TrainOptions):
            rollout = options.rollout
            yield (
                f"It learnt from prompts of up to {_counted(rollout.max_prompt_tokens, 'token')} and responses of up to "
                f"{_counted(rollout.max_tokens, 'token')} with {_counted(rollout.max_turns, 'turn')} that call; of what a "
                f"program printed it has read {_counted(options.tool.max_chars, 'character')} at most."
            )
        if not self.evaluations:
            yield "Nothing is told here of how well it does."
        for evaluation in self.evaluations:
            if evaluation.options.network.dtype != self.dtype:
                names = ", ".join(evaluation.results["benchmarks"])
                yield f"{names}: measured with weights in {evaluation.options.network.dtype}, not {self.dtype} as here."

    def versions(self) -> Iterator[str]:
        yield f"this folder: sod {__version__}"
        for stage in self.stages:
            yield f"training, {stage.algorithm}: {_versions_in(stage.environment)}"
        for number, evaluation in enumerate(self.evaluations, 1):
            yield f"evaluation {number}: {_versions_in(evaluation.environment)}"


def _versions_in(environment: Json) -> str:
    named = {"sod": environment["sod"], "Python": environment["python"]} | environment["packages"]
    return ", ".join(f"{name} {version}" for name, version in named.items())


def _origin(stage: Stage) -> Iterator[tuple[str, str]]:
    """What a run says of itself, as rows."""
    yield "began with", f"`{public(str(stage.start))}`"
    yield "algorithm", f"`{stage.algorithm}`"
    if isinstance(options := stage.options, SftOptions):
        yield "optimiser steps", f"{stage.updates:,} of {_counted(options.batch, 'conversation')}"
        return
    if options.teacher is not None:
        yield "teacher", f"`{public(str(options.teacher))}`, fingerprint `{stage.data['teacher']}`"
    yield "updates", f"{stage.updates:,} of {options.rollout.problems} problems x {options.rollout.group} trajectories"


def _recipe(options: Options, *without: str) -> str:
    """Options that differ from their defaults, as a block of TOML."""
    return f"```toml\n{to_toml(public(_options_of(options, only_changed=True, without=without))).strip()}\n```"


def _training(stage: Stage) -> str:
    """One run: its recipe, data and course."""
    parts = [
        f"### {stage.algorithm}",
        f"The recipe of `sod {stage.command}`, as far as it differs from the defaults of sod {__version__}:",
        _recipe(stage.options, "out", "resume", "dry_run"),
        f"Data: `{public(str(stage.options.data))}`, SHA-256 `{stage.data['data']}`.",
    ]
    return "\n\n".join([*parts, *_course(stage)])


COURSE = {
    "rollout/solved": ("solved, %", 100),
    "rollout/reward": ("reward", 1),
    "tools/calls": ("calls per trajectory", 1),
    "tools/errors": ("tool errors per trajectory", 1),
    "rollout/tokens": ("tokens per trajectory", 1),
    "steps/d": ("divergence from the teacher, nats", 1),
    "learn/entropy": ("entropy, nats", 1),
    "learn/loss": ("loss", 1),
}
"""Metrics whose course a card tells: in words, and the factor of the unit."""


def _course(stage: Stage) -> Iterator[str]:
    """How a run went, from its metrics."""
    window = min(UPDATES, len(stage.metrics) // 2)
    if window:
        sides = stage.metrics[:window], stage.metrics[-window:]
        rows = [
            [words, *(f"{factor * fmean(row[name] for row in side):.3g}" for side in sides)]
            for name, (words, factor) in COURSE.items()
            if all(name in row for side in sides for row in side)
        ]
        unit = "update" if stage.command == "train" else "optimiser step"
        many = f" {window} {unit}s" if window > 1 else f" {unit}"
        where = ", on the problems that it was learning from" if stage.command == "train" else ""
        yield f"Means over its first and its last{many}{where}:"
        yield Sheet("", ["", "first", "last"], rows).markdown()
    if stage.command == "train" and stage.metrics:
        raised: dict[str, list[float]] = {}
        for row in stage.metrics:
            for name in row:
                if name.startswith("alarm/"):
                    raised.setdefault(name.removeprefix("alarm/"), []).append(row["update"])
        told = [f"`{name}` ({_counted(len(at), 'update')}, first {at[0]})" for name, at in raised.items()]
        yield f"Alarms: {', '.join(told)}." if told else "No alarm was raised."


# Results


def _index(evaluation: Evaluation) -> Iterator[EvalResult]:
    """The results as the hub's `model-index` has them, in percent."""
    results = evaluation.results
    settings = {key: results[key] for key in ("prompts", "temperature", "top_p", "max_turns", "max_tokens", "judge")}
    ending = " (partial)" if results["partial"] else ""
    for name, benchmark in results["benchmarks"].items():
        measured, source = benchmark["measured"], benchmark["source"]
        n = round(measured["samples"])
        for title, key in {f"avg@{n}": "avg", f"pass@{n}": f"pass@{n}", f"maj@{n}": "maj"}.items():
            if key in measured:
                yield EvalResult(
                    task_type="text-generation",
                    dataset_type=source.get("repo", name),
                    dataset_name=name,
                    dataset_revision=source.get("revision"),
                    metric_type="accuracy",
                    metric_name=title + ending,
                    metric_value=round(100 * measured[key], 2),
                    metric_args=settings,
                )


def _measurement(evaluation: Evaluation) -> str:
    """One evaluation: its tables, how it was made, on what."""
    results = evaluation.results
    parts = [
        f"### {', '.join(results['benchmarks'])}" + (" (partial)" if results["partial"] else ""),
        to_markdown(results).strip(),
        _pass_rates(results).markdown(),
        f"Measured by `sod eval`, weights in {evaluation.options.network.dtype}: {_counted(results['samples'], 'sample')} of "
        f"each problem at temperature {results['temperature']:g} and top_p {results['top_p']:g}, at most "
        f"{_counted(results['max_turns'], 'turn')} with calls and {_counted(results['max_tokens'], 'token')}, prompts "
        f"`{results['prompts']}`, judge `{results['judge']}`. As far as it differs from the defaults of sod "
        f"{__version__}:",
        _recipe(evaluation.options, "model", "out", "dry_run"),
        "\n".join(f"- {name}: {_read_from(benchmark)}" for name, benchmark in results["benchmarks"].items()),
    ]
    return "\n\n".join(parts)


def _pass_rates(results: Json) -> Sheet:
    """pass@k of every benchmark, for each k that was computed."""
    measured = {name: benchmark["measured"] for name, benchmark in results["benchmarks"].items()}
    keys = {key for each in measured.values() for key in each if key.startswith("pass@")}
    head = sorted(keys, key=lambda key: int(key.removeprefix("pass@")))
    rows = [
        [name, *(f"{100 * each[key]:.1f}" if key in each else "" for key in head)] for name, each in measured.items()
    ]
    return Sheet("At least one of k samples right, %", ["", *head], rows)


def _read_from(benchmark: Json) -> str:
    """The file of a benchmark, and where that came from."""
    known = [benchmark["source"][key] for key in ("repo", "revision") if benchmark["source"].get(key)]
    file = f"`{public(benchmark['file'])}`, SHA-256 `{benchmark['sha256']}`"
    return f"{file}, from {' at '.join(known)}" if known else file
