"""The model card: front matter for the hub, and text for people. The section on use is in usage.md."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from sod import __version__
from sod.config import ChatOptions, ExportOptions, TrainOptions
from sod.export.evaluation import Evaluation
from sod.export.probe import CONVERSATION, SCHEMA, Probe
from sod.export.training import Stage
from sod.export.wording import counted

PAPER = "[arXiv 2605.07725](https://arxiv.org/abs/2605.07725)"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The data of a model card."""

    options: ExportOptions
    base: str | None
    fingerprint: str
    """Fingerprint of the checkpoint."""
    model: PreTrainedModel
    """The exported model."""
    probe: Probe
    stages: Sequence[Stage]
    evaluations: Sequence[Evaluation]

    @property
    def name(self) -> str:
        return self.options.name or self.folder

    @property
    def folder(self) -> str:
        return self.options.out.name

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def content(self) -> ModelCard:
        return ModelCard(f"---\n{self._front_matter().to_yaml()}\n---\n\n{self._text()}")

    def _front_matter(self) -> ModelCardData:
        results = [result for evaluation in self.evaluations for result in evaluation.index()]
        distilled = ["on-policy-distillation"] if any(stage.has_teacher for stage in self.stages) else []
        return ModelCardData(
            license=self.options.license,
            base_model=self.base,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["sod", *distilled, "tool-use"],
            model_name=self.name if results else None,
            eval_results=results or None,
        )

    def _text(self) -> str:
        parts = [f"# {self.name}", *self._summary(), "## How to use it", *self._usage()]
        if self.stages:
            parts += ["## How it was trained", *(stage.section() for stage in self.stages)]
        if self.evaluations:
            parts += ["## Results", *(evaluation.section() for evaluation in self.evaluations)]
        parts += ["## Limits", "\n".join(f"- {limit}" for limit in self._limits())]
        parts += [
            f"Written by sod {__version__}. Local paths are shortened to their last two parts, here and in `sod/`; command lines "
            "are left out."
        ]
        return "\n\n".join(parts) + "\n"

    def _summary(self) -> Iterator[str]:
        what = "A language model"
        if self.stages or self.evaluations:
            what += " that calls a Python interpreter"
        if self.stages:
            what += f", trained with `sod`, a toolkit of step-wise on-policy distillation ({PAPER})"
        yield f"{what}."
        facts = [f"parameters: {self.model.num_parameters():,} in {self.dtype}"]
        if self.stages:
            facts += self.stages[0].facts()
        if self.base:
            facts.append(f"base model: [{self.base}](https://huggingface.co/{self.base})")
        facts.append(f"fingerprint of the checkpoint: `{self.fingerprint}`")
        if self.probe.rounding:
            moved = f"the log-probabilities of a short conversation by up to {self.probe.rounding:.1g} nats"
            facts.append(f"rounding to {self.dtype} changed {moved}")
        yield "\n".join(f"- {fact}" for fact in facts)

    def _usage(self) -> Iterator[str]:
        chat = self.stages[0].options.chat if self.stages else ChatOptions()
        messages, tools = CONVERSATION[:1], [SCHEMA]
        thinking, request = "", {"model": self.folder, "messages": messages, "tools": tools}
        if chat.thinking is not None:
            thinking = f", enable_thinking={chat.thinking}"
            request["chat_template_kwargs"] = {"enable_thinking": chat.thinking}
        text = Template(files("sod.export").joinpath("usage.md").read_text(encoding="utf-8")).substitute(
            name=json.dumps(self.folder),
            messages=json.dumps(messages),
            tools=json.dumps(tools, indent=4),
            thinking=thinking,
            tokens=min(1024, self.model.config.max_position_embeddings // 4),
            folder=shlex.quote(self.folder),
            request=shlex.quote(json.dumps(request, indent=2)),
            example=self.probe.text,
        )
        yield text.strip()
        if self.stages and chat.on_drift == "append":
            yield (
                "To continue a conversation, append tokens: the model's own, then the ones between two turns. If the chat "
                "template,\napplied again to all messages, renders earlier turns differently, use the appended tokens; the "
                "model was trained on them."
            )

    def _limits(self) -> Iterator[str]:
        yield "The model writes programs. Run them in a sandbox: no network, none of your files, limits on time and memory."
        yield "Each program starts in a new interpreter: variables and files of earlier programs are gone."
        if self.stages and isinstance(options := self.stages[0].options, TrainOptions):
            rollout = options.rollout
            yield (
                f"It was trained with prompts of up to {counted(rollout.max_prompt_tokens, 'token')}, responses of up to "
                f"{counted(rollout.max_tokens, 'token')} and up to {counted(rollout.max_turns, 'turn')} with tool calls. It read "
                f"at most {counted(options.tool.max_chars, 'character')} of a program's output."
            )
        if not self.evaluations:
            yield "This card contains no evaluation of the model."
        for evaluation in self.evaluations:
            if evaluation.options.network.dtype != self.dtype:
                names = ", ".join(evaluation.results.benchmarks)
                yield (
                    f"{names}: evaluated with weights in {evaluation.options.network.dtype}, not in {self.dtype} as exported "
                    "here."
                )
