"""Options `--chat`: how messages become tokens."""

from typing import Literal

from tyro.conf import DisallowNone

from sod.config.base import Options, Rare, ReadsFiles

BUILT_IN_TEMPLATE = "hermes"
"""The chat template that is a part of this package."""


class ChatOptions(Options):
    """How messages become tokens."""

    template: ReadsFiles[str | None] = None
    """Chat template in place of the tokenizer's own; every checkpoint stores it. hermes: a template with tools for models
    without one, such as SmolLM2 and base models. FILE.jinja: your own. Default: the tokenizer's own template."""
    on_drift: Rare[Literal["error", "append"]] = "error"
    """What to do if the chat template rewrites earlier turns. error: stop before the run. append: train and sample on the
    appended tokens. The empty thought that Qwen3's template adds to the last turn is not an error."""
    thinking: DisallowNone[bool | None] = None
    """Whether the student thinks before it answers. The chat template receives the value as `enable_thinking`; Qwen3's hybrid
    models read it. Default: the chat template decides."""
