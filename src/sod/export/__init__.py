"""`sod export`: write a model as a self-contained Hugging Face directory, with a model card and the origin of its data.

    config.json, model*.safetensors, generation_config.json     for Transformers and vLLM
    tokenizer*, chat_template.jinja
    README.md                                                   the model card: use, recipe, data, results with errors
    sod/options.json, environment.json                          from the training run
    sod/evaluation-1/options.json, environment.json, results.json ...

`--push` uploads the directory to the Hugging Face hub (`push.py`).

The card contains only recorded facts. Facts that a run did not record are left out. No file names this machine: local paths
are shortened to their last two parts; addresses and command lines are removed.
"""

from pathlib import Path

from sod.chat.format import ChatFormat
from sod.config import ChatOptions, EvalRolloutOptions, ExportOptions
from sod.console.progress import echo
from sod.datasets.rows import fingerprint_model
from sod.errors import RunError
from sod.export.card import Card
from sod.export.evaluation import Evaluation
from sod.export.existing import check_existing
from sod.export.folder import check_whole, whole_or_not_at_all, write_json_files
from sod.export.model import generation, plain_model, save
from sod.export.probe import Probe
from sod.export.push import Target, push, show_files
from sod.export.training import checked_name, history, known_base
from sod.export.wording import counted
from sod.model.hub import model_folder
from sod.model.loading import load_tokenizer


def export(options: ExportOptions) -> None:
    """Write the directory, and upload it if asked. Nothing is written if the repository cannot take it."""
    target = Target.of(options)
    if options.out.exists() and target is None and not options.dry_run:
        raise RunError(f"{options.out} exists already, and is never overwritten. Choose another --out.")
    checkpoint = model_folder(options.model)
    if checkpoint == options.model:  # `model_folder` has already checked the newest checkpoint of a run
        check_whole(checkpoint)
    if options.dry_run:
        if options.out.exists() and target is not None:
            check_existing(options, fingerprint_model(checkpoint))
        show_files(options, checkpoint, target)
        return
    fingerprint = fingerprint_model(checkpoint)
    if options.out.exists():
        check_existing(options, fingerprint)
        echo(f"{options.out} already holds this checkpoint and is uploaded unchanged.")
    else:
        _write(options, checkpoint, fingerprint)
    if target is not None:
        push(target, options.out, f"{options.name or options.out.name}: checkpoint {fingerprint[:12]}")


def _write(options: ExportOptions, checkpoint: Path, fingerprint: str) -> None:
    """Write the directory, and check it with plain Transformers. If the check fails, nothing is left behind.

    The check computes in float32 on a CPU. It takes 4 bytes of memory per weight, in addition to the exported weights.
    """
    stages = history(checkpoint)
    evaluations = [Evaluation.read(folder, fingerprint) for folder in options.results]
    base = known_base(stages) if options.base is None else checked_name(options.base)

    chat_options = stages[0].options.chat if stages else ChatOptions(on_drift="append")
    chat = ChatFormat.of(load_tokenizer(checkpoint), chat_options)
    model = plain_model(checkpoint, "auto" if options.dtype == "same" else options.dtype)
    probe = Probe.of(checkpoint, chat, model)
    sampling = evaluations[0].options.rollout if evaluations else EvalRolloutOptions()
    model.generation_config = generation(model, chat, sampling)
    card = Card(
        options=options,
        base=base,
        fingerprint=fingerprint,
        model=model,
        probe=probe,
        stages=stages,
        evaluations=evaluations,
    )
    with whole_or_not_at_all(options.out) as folder:
        save(model, chat.tokenizer, folder)
        card.content.save(folder / "README.md")
        if stages:
            write_json_files(folder / "sod", stages[0].files())
        for number, evaluation in enumerate(evaluations, 1):
            write_json_files(folder / "sod" / f"evaluation-{number}", evaluation.files())
        gap = probe.check(folder, chat_options)
    echo(
        f"checked: loaded by plain Transformers, the log-probabilities of {len(probe.ids) - 1} tokens of a conversation with a "
        f"tool call differ from the checkpoint's by at most {gap:.1g} nats"
        + (f"; rounding to {card.dtype} changed them by up to {probe.rounding:.1g}" if probe.rounding else "")
    )
    partial = sum(evaluation.results.partial for evaluation in evaluations)
    echo(
        f"{options.out}: {checkpoint} in {card.dtype}, with a model card and {counted(len(evaluations), 'evaluation')}"
        + (f", {partial} of them partial" if partial else "")
    )
