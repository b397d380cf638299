"""Cap the default lengths of trajectories at the positions of the models. Lengths that the user gave are not changed."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sod.config import EvalOptions, SamplingOptions, ServeOptions, TrainOptions
from sod.config.teachers import routes_of
from sod.errors import SodError
from sod.model.hub import model_folder
from sod.runs.checkpoints import checkpoint_folders
from sod.runs.files import begun_options

SomeOptions = TypeVar("SomeOptions", bound=TrainOptions | EvalOptions | ServeOptions)
SomeSampling = TypeVar("SomeSampling", bound=SamplingOptions)

logger = logging.getLogger(__name__)


def with_lengths(options: SomeOptions) -> SomeOptions:
    """Return the options with default lengths that fit the models. A run that has begun keeps its lengths.

    A model that cannot be found is skipped, because loading it raises the error.
    """
    rollout = options.rollout
    if {"max_tokens", "max_prompt_tokens"} <= rollout.model_fields_set:
        return options
    with suppress(ValueError, LookupError, TypeError):
        before = begun_options(options.out, "rollout")
        kept = {name: int(before[name]) for name in ("max_tokens", "max_prompt_tokens")}
        given = {name: getattr(rollout, name) for name in kept.keys() & rollout.model_fields_set}
        return options.model_copy(update={"rollout": rollout.model_copy(update=kept | given)})
    fitting = capped(rollout, _positions(options))
    if fitting is rollout:
        return options
    logger.info(
        f"rollout.max_prompt_tokens is {fitting.max_prompt_tokens} and rollout.max_tokens is {fitting.max_tokens}, together the "
        "positions of the model."
    )
    return options.model_copy(update={"rollout": fitting})


def capped(rollout: SomeSampling, positions: Iterable[int]) -> SomeSampling:
    """Return the options with default lengths lowered to the fewest positions. The prompt gets at most half of them."""
    fewest = min(positions, default=None)
    if fewest is None or rollout.max_prompt_tokens + rollout.max_tokens <= fewest:
        return rollout
    prompt, response = rollout.max_prompt_tokens, rollout.max_tokens
    if "max_prompt_tokens" not in rollout.model_fields_set:
        prompt = min(prompt, fewest - response if "max_tokens" in rollout.model_fields_set else fewest // 2)
    if "max_tokens" not in rollout.model_fields_set:
        response = min(response, fewest - prompt)
    if min(prompt, response) < 1:  # a given length leaves no room; `check_context` raises the error
        return rollout
    return rollout.model_copy(update={"max_prompt_tokens": prompt, "max_tokens": response})


def _models(options: TrainOptions | EvalOptions | ServeOptions) -> list[Path | None]:
    match options:
        case TrainOptions():
            return [options.student, options.teacher, *(route.model for route in routes_of(options.teachers))]
        case EvalOptions():
            return [options.model, options.teacher, *(route.model for route in routes_of(options.teachers))]
        case ServeOptions():
            return [options.model]


def _positions(options: TrainOptions | EvalOptions | ServeOptions) -> Iterator[int]:
    """Yield the number of positions of the model and of its teachers, as far as their configurations are here or on the hub."""
    for model in _models(options):
        with suppress(SodError):
            found = None if model is None else positions_in(_config_of(model))
            if found is not None:
                yield found


def _config_of(model: Path) -> Path:
    """Return the config.json of a directory, of a run's newest checkpoint, or of a model on the hub."""
    for folder in (model, *reversed(checkpoint_folders(model / "checkpoints"))):
        if (folder / "config.json").is_file():
            return folder / "config.json"
    return model_folder(model, weights=False) / "config.json"


def positions_in(config: Path) -> int | None:
    """Return the number of positions in a config.json, or None if it has none or cannot be read.

    Some types name it differently or leave it out where it is their default. Transformers reads those.
    """
    with suppress(OSError, ValueError, AttributeError):
        content: dict[str, Any] = json.loads(config.read_bytes())
        found = (content.get("text_config") or content).get("max_position_embeddings")
        return found if isinstance(found, int) else _positions_of_type(config.parent)
    return None


def _positions_of_type(folder: Path) -> int | None:
    from transformers import AutoConfig  # takes seconds to import, and few types need it

    with suppress(Exception):  # loading the model reports it
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
        found = getattr(config, "max_position_embeddings", None)
        return found if isinstance(found, int) else None
    return None
