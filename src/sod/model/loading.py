"""Load Transformers models and tokenizers, and check them."""

import json
import re
import sys
import textwrap
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.utils import logging

from sod.config import ModelOptions, SamplingOptions
from sod.errors import ModelError, SodError
from sod.model.attention import ATTENTION
from sod.model.devices import LOADING, chosen_device, device_errors, device_refusal, prepare_device
from sod.model.dtypes import dtype_of
from sod.model.forward import id_count
from sod.model.fsdp import head_layer
from sod.model.multimodal import is_multimodal, text_config, text_part, whole_class
from sod.model.proof import check_configuration, prove_model

logging.disable_progress_bar()  # sod.console.progress shows progress

HARMLESS = re.compile(r"\.(inv_freq|masked_bias|rotary_emb\.\w+)$")
"""Names of tables that models compute; older files also hold them."""
SHOWN_NAMES = 3
LONGEST_HEADER = 100_000_000
"""Bytes. The limit of safetensors itself."""
LFS_POINTER = b"version https://git-lfs"
"""Beginning of a file that Git LFS puts in place of a large one."""
LONGEST_ERROR = 400
"""Characters of an error of a library, which may have several lines."""


def load_model(folder: Path, options: ModelOptions) -> PreTrainedModel:
    """Return a causal language model from a directory, verified to compute the same as in Transformers.

    Raise ModelError if it cannot be loaded or is not supported.
    """
    if refusal := device_refusal(options.device):
        raise ModelError(refusal)
    device = chosen_device(options.device)
    dtype = dtype_of(options)
    prepare_device(device)
    model = read_model(folder, dtype, attention=ATTENTION)
    try:
        with device_errors(f"loading {folder}", LOADING):
            model.to(torch.device(device))  # type: ignore[arg-type]
    except SodError:
        raise
    except Exception as error:  # no such device
        raise ModelError(f"The model in {folder} cannot be moved to {device}: {error}") from error
    layer = head_layer(model)
    layer.out_features = min(layer.weight.shape[0], _tokens(folder))
    try:
        prove_model(model, folder)
    except ModelError as error:
        if (method := quantised(model.config)) is None:
            raise
        raise ModelError(
            f"The model in {folder} is quantised ({method}), and does not compute here as a whole model does. Convert it to "
            f"bfloat16. ({textwrap.shorten(str(error), LONGEST_ERROR)})"
        ) from error
    return model


def quantised(config: PreTrainedConfig) -> str | None:
    """Return the method of quantisation that a configuration names; None without one."""
    about = getattr(config, "quantization_config", None)
    method = about.get("quant_method") if isinstance(about, dict) else getattr(about, "quant_method", None)
    return None if about is None else str(getattr(method, "value", method))


def check_written(folder: Path) -> None:
    """Raise ModelError unless the directory's files hold every weight of the model by name and shape. Read no weights."""
    read_model(folder, "auto", place="meta")


def check_weight_files(folder: Path) -> None:
    """Raise the ModelError of `load_model` or `check_embeddings` if headers of the files already show it. Read no weights."""
    config = _check_folder(folder)
    if not is_multimodal(config):  # its text part is compared by computing
        check_written(folder)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(rows, int) and (folder / "tokenizer_config.json").is_file():
        _check_rows(rows, load_tokenizer(folder), folder)


def read_model(folder: Path, dtype: str, *, attention: str | None = None, place: str | None = None) -> PreTrainedModel:
    """Return a causal language model of a type in Transformers, with every weight from the directory's safetensors.

    Raise ModelError if it cannot be loaded.
    """
    config = _check_folder(folder)
    if not is_multimodal(config):
        model, report = _loaded(AutoModelForCausalLM, folder, dtype, attention, place)
    else:
        whole, report = _loaded(whole_class(config), folder, dtype, None, place)
        _check_weights(folder, report)
        model, report = text_part(whole, folder, attention)
    _check_weights(folder, report)
    _check_head(model, folder)
    return model.eval()


def _check_head(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError for a head that is zero, or that files hold although the configuration ties it to the embeddings.

    Transformers computes with that head. Programs that follow the configuration, such as vLLM, compute with the embeddings.
    """
    head, embeddings = (
        getattr(layer, "weight", None) for layer in (model.get_output_embeddings(), model.get_input_embeddings())
    )
    if head is not None and not head.is_meta and not head.any():
        raise ModelError(
            f"The output embedding of the model in {folder} is zero, so all tokens are equally likely. Save it again."
        )
    ties = getattr(model.config, "tie_word_embeddings", False) and bool(getattr(model, "_tied_weights_keys", None))
    if not ties or head is embeddings or head is None or embeddings is None or head.is_meta:
        return
    if head.shape == embeddings.shape and not torch.equal(head, embeddings):
        raise ModelError(
            f"The files in {folder} hold a head that differs from the embeddings, but config.json ties the two, so programs "
            "differ in the logits that they compute. Set tie_word_embeddings to false there, or remove the head from the files."
        )


def _loaded(
    kind: Any, folder: Path, dtype: str, attention: str | None, place: str | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model with a class of Transformers. -> the model, and the report of its weights"""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # missing weights are reported by `_check_weights`
    try:
        return kind.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            device_map=place,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # for a damaged file, the libraries raise many kinds of exceptions
        raise ModelError(_unreadable("model", folder, error)) from error
    finally:
        logging.set_verbosity(verbosity)


def check_config(folder: Path) -> None:
    """Raise the ModelError of `load_model` if config.json already shows it. Read no weights."""
    config = text_config(_config(folder))
    assert config is not None
    check_configuration(config)


def _config(folder: Path) -> PreTrainedConfig:
    """Return the configuration. Raise ModelError for types that need code of their own or are no causal language models."""
    _refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model: config.json is missing. Give the directory of a Hugging Face model."
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as below
        raise ModelError(_unreadable("model", folder, error)) from error
    with suppress(FileNotFoundError):
        try:
            json.loads((folder / "generation_config.json").read_bytes())
        except ValueError as error:  # Transformers would go on without the tokens that end a turn
            raise ModelError(
                f"{folder / 'generation_config.json'} is not JSON ({error}). Download it again, or remove it."
            ) from error
    if text_config(config) is None:
        raise ModelError(
            f"The model in {folder} is of type {config.model_type}, which Transformers does not load as a causal language "
            "model. Use a text model such as Qwen3."
        )
    return config


def _refuse_adapter(folder: Path) -> None:
    """Raise ModelError for a folder with an adapter, which Transformers would add to the weights beside it or to a base model."""
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json), and only whole models are read. Merge it in Python: "
            "AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW_FOLDER). If the weights are "
            "merged already, remove adapter_config.json."
        )


def _check_folder(folder: Path) -> PreTrainedConfig:
    """Return the configuration. Raise ModelError unless the folder also holds safetensors. Pickled weights are never read."""
    config = _config(folder)
    if not any(folder.glob("*.safetensors")):
        if gguf := next(folder.glob("*.gguf"), None):
            raise ModelError(
                f"{folder} holds no weights in safetensors but {gguf.name}. Type `sod import {gguf} --out NEW_FOLDER`."
            )
        kinds = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        raise ModelError(
            f"{folder} holds no weights in safetensors{f' but {kinds[0]}, which is not read' if kinds else ''}. Convert the "
            "weights in Python: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)."
        )
    if all((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise ModelError(
            f"{folder} holds two sets of weights: model.safetensors, and the files that model.safetensors.index.json lists. "
            "Remove one of the two sets."
        )
    if quantised(config) not in AUTO_QUANTIZER_MAPPING:  # Transformers ignores a method that it does not know
        _refuse_codes(folder)
    return config


def _refuse_codes(folder: Path) -> None:
    """Raise ModelError for weights in files that are codes of quantisation: Transformers would take the codes for the values."""
    for file in sorted(folder.glob("*.safetensors")):
        with (
            suppress(OSError, ValueError, LookupError, TypeError),
            file.open("rb") as opened,
        ):  # the reader reports damage
            header = json.loads(opened.read(min(int.from_bytes(opened.read(8), "little"), LONGEST_HEADER)))
            coded = {name: about["dtype"] for name, about in header.items() if name.endswith(".weight")}
            coded = {name: dtype for name, dtype in coded.items() if dtype not in ("F64", "F32", "F16", "BF16")}
            if coded:
                raise ModelError(
                    f"{file} holds {len(coded)} weights that are not fractions, such as {min(coded)} ({coded[min(coded)]}), and "
                    "config.json has no quantization_config with a method that Transformers knows. Convert the model to bfloat16."
                )


def _unreadable(what: str, folder: Path, error: Exception) -> str:
    """Return the message for a model or tokenizer that Transformers cannot load, with the likely cause."""
    if "trust_remote_code" in str(error):
        return f"The {what} in {folder} needs Python code of its own, which sod never runs. Use one that Transformers includes."
    if substitute := _substitute(folder):
        return f"The {what} in {folder} cannot be loaded: {substitute}"
    if isinstance(error, KeyError):
        return f"The {what} in {folder} cannot be loaded: config.json has the value {error}, which Transformers does not know."
    return f"The {what} in {folder} cannot be loaded: {textwrap.shorten(str(error), LONGEST_ERROR)}"


def _substitute(folder: Path) -> str:
    """Return what stands in place of the first file that a download has not brought; empty if all files have content."""
    for file in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"))):
        with suppress(OSError):
            with file.open("rb") as opened:
                start = opened.read(len(LFS_POINTER)).lstrip()
            if start.startswith(LFS_POINTER):
                return f"{file.name} is a pointer of Git LFS, not the file. Run `git lfs pull` there, or download the file."
            if start.startswith(b"<"):
                return f"{file.name} is a web page. Download the file again."
    return ""


def _check_weights(folder: Path, report: dict[str, Any]) -> None:
    """Raise ModelError unless the files hold every weight of the model, and the model every tensor of the files.

    Transformers does not report tensors that a model type usually omits, such as tied heads and position tables.
    """
    for verb, names in (
        ("lack", report["missing_keys"]),
        ("have another shape for", {name for name, *_ in report["mismatched_keys"]}),
        ("have, and the model does not,", {name for name in report["unexpected_keys"] if not HARMLESS.search(name)}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:SHOWN_NAMES])
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            raise ModelError(
                f"The weights in {folder} do not match the model: its files {verb} {shown}{more}. Download or save the model "
                "again."
            )


def _tokens(folder: Path) -> int:
    """Return the number of ids of the tokenizer in a model's folder, or `sys.maxsize` without a tokenizer."""
    if not (folder / "tokenizer_config.json").is_file():
        return sys.maxsize
    return id_count(load_tokenizer(folder))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder. Its files are read once per process, and again when one of them changes.

    All callers share the object, so none may change it.
    """
    _refuse_adapter(folder)
    if not (folder / "tokenizer_config.json").is_file():
        raise ModelError(
            f"{folder} holds no tokenizer: tokenizer_config.json is missing. Save the tokenizer in the model's folder."
        )
    stats = ((file.name, file.stat()) for file in sorted(folder.iterdir()) if file.suffix != ".safetensors")
    return _tokenizer(folder, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=4)
def _tokenizer(folder: Path, files: tuple[tuple[str, int, int], ...]) -> PreTrainedTokenizerBase:
    """Load a tokenizer. `files`: name, time and size of each file, so that the cache has no outdated entry."""
    del files
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        if (folder / "config.json").is_file():
            _config(folder)  # the tokenizer's loader reads it, too
        raise ModelError(_unreadable("tokenizer", folder, error)) from error


def check_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raise ModelError unless every id of the tokenizer has an embedding."""
    _check_rows(head_layer(model).out_features, tokenizer, folder)


def _check_rows(rows: int, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    highest = id_count(tokenizer) - 1
    if highest >= rows:
        raise ModelError(
            f"The model in {folder} has {rows} embeddings, but its tokenizer has ids up to {highest}. Save the model's own "
            "tokenizer there."
        )


def check_same_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raise ModelError unless student and teacher use the same token for every id.

    Otherwise their log-probabilities would belong to different tokens.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    example = next(iter(sorted(set(ours.items()) ^ set(theirs.items()))))
    raise ModelError(
        f"Student and teacher have different vocabularies ({len(ours)} and {len(theirs)} tokens; they differ at "
        f"{example[0]!r}, id {example[1]}), so their log-probabilities cannot be compared. Choose a teacher with the student's "
        "tokenizer."
    )


def positions_of(model: PreTrainedModel) -> int:
    """Return the length of the longest sequence of the model: `sys.maxsize` without attention, such as Mamba.

    Raise ModelError if its configuration does not contain it.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)  # not all types have it
    if positions is None and getattr(config, "num_attention_heads", None) is None:
        return sys.maxsize
    if not isinstance(positions, int):
        raise ModelError(
            f"The {model.config.model_type} model's configuration has no max_position_embeddings, so its longest sequence is "
            "unknown. Add it to config.json."
        )
    return positions


def check_context(model: PreTrainedModel, options: SamplingOptions, whose: str = "model") -> None:
    """Raise ModelError unless the longest trajectory fits into the model's positions."""
    longest = options.max_prompt_tokens + options.max_tokens
    positions = positions_of(model)
    if longest > positions:
        raise ModelError(
            f"rollout.max_prompt_tokens + rollout.max_tokens is {longest}, but the {whose} has {positions} positions. Lower one "
            "of the two."
        )
