"""The chat format of a teacher with another tokenizer than the student's."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sod.chat.format import ChatFormat
from sod.config import ChatOptions, ScoreOptions
from sod.errors import OptionError, TemplateError


def teacher_chat(
    tokenizer: PreTrainedTokenizerBase, folder: Path, options: ScoreOptions, *, thinking: bool | None
) -> ChatFormat:
    """Return the chat format of a teacher with another tokenizer. Raise TemplateError."""
    try:
        return ChatFormat.of(
            tokenizer, ChatOptions(template=options.teacher_template, thinking=thinking, on_drift="append")
        )
    except (OptionError, TemplateError) as error:
        raise TemplateError(
            f"The teacher {folder} has another tokenizer than the student, so it must show the conversation in its own "
            f"chat template. {error} (For the teacher, the option is --score.teacher-template.)"
        ) from error
