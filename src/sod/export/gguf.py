"""`sod import`: convert a GGUF file to an ordinary Hugging Face folder, with Transformers' own reader.

Transformers does not save a model that it read from GGUF, so the weights move to a new model of the same configuration. The
written folder is loaded again and must give the same logits; otherwise nothing is left behind.
"""

import io
import math
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sod.config import ImportOptions
from sod.console.progress import echo, warn
from sod.errors import ModelError, OptionError, RunError
from sod.export.folder import whole_or_not_at_all
from sod.export.model import save
from sod.model.hub import GGUF
from sod.model.loading import read_model

MAGIC = b"GGUF"
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Fields of a file's tokenizer that end a text, a turn, or a turn with a call."""
SENTENCE = "The capital of France is Paris, and the capital of Germany is Berlin."
"""A model that is read correctly predicts this text much better than chance."""
AGAIN = "Download the file again, or take the model's own folder from the Hugging Face hub."


@dataclass(frozen=True)
class Facts:
    """What the header of a GGUF file contains."""

    architecture: str
    name: str
    license: str
    ends: tuple[int, ...]
    """Ids that end generation."""
    scales_positions: bool
    """Whether the model's rotary frequencies are scaled, as in Llama 3.1 and later."""


def import_gguf(options: ImportOptions) -> None:
    """Write the folder, and verify that it gives the logits of the file."""
    file, out = options.file, options.out
    if out.exists():
        raise RunError(f"{out} exists already, and is never overwritten. Choose another --out.")
    facts = _facts(file)
    echo(f"reading {file}: {facts.name or 'a model without a name'}, {facts.architecture}")
    with redirect_stderr(io.StringIO()):  # the reader's own progress bar
        tokenizer = _tokenizer(file)
        loaded = _loaded(file, options.dtype, facts)
    before = _logits(loaded, tokenizer)
    if not before.isfinite().all():
        raise ModelError(f"{file} has weights that give logits that are not finite. {AGAIN}")
    with whole_or_not_at_all(out) as folder:
        save(_saveable(loaded, facts), tokenizer, folder)
        gap = (_logits(read_model(folder, options.dtype), tokenizer) - before).abs().max().item()
        if gap:
            raise ModelError(f"The folder written from {file} gives other logits than the file, by {gap:.2g}. {AGAIN}")
    _report(options, facts, loaded, tokenizer, before)


def _report(
    options: ImportOptions,
    facts: Facts,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    logits_TV: torch.Tensor,
) -> None:
    """Print what was written and what a user should know about it."""
    ids = torch.tensor(tokenizer(SENTENCE).input_ids)
    loss = torch.nn.functional.cross_entropy(logits_TV[:-1], ids[1:]).item()
    chance = math.log(logits_TV.shape[1])
    echo(f"checked: the folder gives the file's logits; an English sentence costs {loss:.2f} nats a token")
    if loss >= chance:
        warn(
            f"Guessing would cost {chance:.2f} nats a token. If the model is trained, the file is damaged or was read wrongly."
        )
    if not tokenizer.chat_template:
        warn(
            f"{options.file} has no chat template, so the model cannot be used in conversations as it is. Give one: "
            "--chat.template FILE.jinja."
        )
    terms = f", license {facts.license}" if facts.license else ""
    echo(f"{options.out}: {model.num_parameters() / 1e6:,.0f} million weights in {options.dtype}{terms}")


def _facts(file: Path) -> Facts:
    """Return the header. Raise ModelError for a file that is not whole, or that holds no model with a tokenizer."""
    if not file.is_file():
        raise ModelError(f"{file} is not a file. Give a {GGUF} file.")
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{file} is not a GGUF file: it does not start with the letters GGUF. {AGAIN}")
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise OptionError(
            f'`sod import` needs the package gguf, which cannot be imported ({error}). Type pip install ".[gguf]" in a '
            "checkout of sod."
        ) from error
    try:
        reader = GGUFReader(file)
        fields = reader.fields
        get = lambda name: fields[name].contents() if name in fields else None  # noqa: E731
        parts, architecture = get("split.count"), get("general.architecture")
        name, terms = (get(f"general.{key}") for key in ("name", "license"))
        ends = [get(f"tokenizer.ggml.{key}") for key in ENDS]
        scaled = get(f"{architecture}.rope.scaling.type") not in (None, "none")
        scaled = scaled or any(tensor.name.startswith(("rope_freqs", "rope_factors")) for tensor in reader.tensors)
    except Exception as error:  # a damaged file raises many kinds of exceptions
        raise ModelError(f"{file} is damaged or not complete: {_first_line(error)}. {AGAIN}") from error
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"{file} is one of {parts} parts of a model. Merge them first: llama-gguf-split --merge {file.name} MERGED.gguf."
        )
    if not isinstance(architecture, str):
        raise ModelError(f"{file} names no architecture (general.architecture), so it holds no model. {AGAIN}")
    if "tokenizer.ggml.tokens" not in fields:
        raise ModelError(
            f"{file} holds no tokenizer (tokenizer.ggml.tokens). Give the {GGUF} file of a whole language model, or the model's "
            "own folder from the Hugging Face hub."
        )
    return Facts(
        architecture,
        name if isinstance(name, str) else "",
        terms if isinstance(terms, str) else "",
        tuple(dict.fromkeys(end for end in ends if isinstance(end, int))),
        scaled,
    )


def _tokenizer(file: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # as above
        raise ModelError(_not_read("tokenizer", file, error)) from error


def _loaded(file: Path, dtype: str, facts: Facts) -> PreTrainedModel:
    """Return the model in the file. It cannot be saved."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # as above
        raise ModelError(_not_read(f"model of architecture {facts.architecture}", file, error)) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{file} lacks the weights {missing[0]} and {len(missing) - 1} more. {AGAIN}")
    rope = getattr(model.config, "rope_parameters", None) or {}
    if facts.scales_positions and rope.get("rope_type", "default") == "default":
        raise ModelError(
            f"{file} scales the model's positions (rope), and Transformers' reader ignores that, so the folder would hold "
            "another model. Take the model's own folder from the Hugging Face hub."
        )
    return cast(PreTrainedModel, model).eval()


def _not_read(what: str, file: Path, error: Exception) -> str:
    return (
        f"Transformers cannot read the {what} in {file}: {_first_line(error)}. Give another {GGUF} file, or the model's own "
        "folder from the Hugging Face hub."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _saveable(loaded: PreTrainedModel, facts: Facts) -> PreTrainedModel:
    """Return a model with the same weights that does not come from GGUF. The weights are shared, not copied."""
    config = type(loaded.config).from_dict(loaded.config.to_dict())
    for field in ("quantization_config", "_name_or_path"):
        if hasattr(config, field):
            delattr(config, field)
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    if facts.ends and (generation := loaded.generation_config) is not None:
        ends = list(facts.ends)
        generation.eos_token_id = ends if len(ends) > 1 else ends[0]
        model.generation_config = generation
    return model


@torch.no_grad()
def _logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return the logits of `SENTENCE`. -> (T, V), in float32"""
    return model(input_ids=torch.tensor([tokenizer(SENTENCE).input_ids])).logits[0].float()
