"""Load the model with plain Transformers, set its generation config, and save it with its tokenizer."""

import shutil
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sod.chat.format import ChatFormat
from sod.config import SamplingOptions
from sod.errors import RunError
from sod.export.folder import read_json, write_json_files
from sod.model.loading import read_model

OF_THIS_MACHINE = {"is_local", "local_files_only"}
"""Fields of a tokenizer's configuration in which Transformers records how it was loaded."""


def plain_model(folder: Path, dtype: str) -> PreTrainedModel:
    """Load the model without changes of this project. `dtype`: a type's name, or "auto" for its own. Raises ModelError."""
    return read_model(folder, dtype)


def generation(model: PreTrainedModel, chat: ChatFormat, sampling: SamplingOptions) -> GenerationConfig:
    """Return a generation config with these options that stops at the end of a turn or at the model's own end ids."""
    before = model.generation_config
    assert before is not None
    ends = before.eos_token_id if isinstance(before.eos_token_id, list) else [before.eos_token_id]
    ends = [*chat.ends, *(end for end in ends if end is not None and end not in chat.ends)]
    return GenerationConfig(
        bos_token_id=before.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=next(id for id in (before.pad_token_id, chat.tokenizer.pad_token_id, ends[0]) if id is not None),
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,  # Transformers' own default is 50
    )


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer, and give the weights the same permissions as the other files. Raises RunError."""
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # on a full disk, each library raises a different type
        raise RunError(
            f"The model cannot be written to {folder}: {error}. Free some space, or choose another --out."
        ) from error
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)
    content = read_json(folder / "tokenizer_config.json")
    write_json_files(folder, {"tokenizer_config": {key: content[key] for key in content if key not in OF_THIS_MACHINE}})
