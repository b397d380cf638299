"""What the proof at load found about a model, kept with the model."""

from dataclasses import dataclass

from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Traits:
    """What the proof at load (`sod.model.proof`) found about a model."""

    packs: bool = True
    """It can read packed sequences. Otherwise it reads one sequence per pass."""
    single_steps: bool = False
    """After a cached prefix, it reads one token per pass. Only for a model that does not pack."""
    no_sampling: str = ""
    """Why the engine hf cannot sample it; "" if it can."""
    scale: float = 1.0
    cap: float | None = None
    """Scale and cap of its logits, see `sod.core.Head`."""


def traits_of(model: PreTrainedModel) -> Traits:
    """Return the model's traits. A model that was not loaded by `load_model` has the usual ones."""
    return getattr(model, "sod_traits", Traits())


def set_traits(model: PreTrainedModel, traits: Traits) -> None:
    model.sod_traits = traits  # type: ignore[assignment]
