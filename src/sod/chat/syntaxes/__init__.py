"""The ways in which models write tool calls. Each is a module, and `SYNTAXES` lists them in the order in which they are tried."""

from sod.chat.syntaxes.base import Block, Parameters, Syntax
from sod.chat.syntaxes.cohere import COHERE
from sod.chat.syntaxes.deepseek import DEEPSEEK
from sod.chat.syntaxes.gemma import FUNCTION_GEMMA, GEMMA
from sod.chat.syntaxes.glm import GLM
from sod.chat.syntaxes.granite import GRANITE, GRANITE_TAG
from sod.chat.syntaxes.harmony import HARMONY
from sod.chat.syntaxes.hermes import HERMES
from sod.chat.syntaxes.llama import LLAMA
from sod.chat.syntaxes.mistral import MISTRAL, MISTRAL_ARGS
from sod.chat.syntaxes.nemotron import NEMOTRON
from sod.chat.syntaxes.phi import FUNCTOOLS, PHI
from sod.chat.syntaxes.python_lists import BARE_LIST, LFM, LLAMA_4, OLMO, RAW_LFM
from sod.chat.syntaxes.xml import SEED, XML

__all__ = ["HERMES", "SYNTAXES", "Block", "Parameters", "Syntax"]

SYNTAXES: tuple[Syntax, ...] = (
    HERMES,
    XML,
    SEED,
    GLM,
    LFM,
    RAW_LFM,
    LLAMA_4,
    OLMO,
    PHI,
    GRANITE,
    GRANITE_TAG,
    FUNCTOOLS,
    NEMOTRON,
    COHERE,
    MISTRAL,
    MISTRAL_ARGS,
    DEEPSEEK,
    FUNCTION_GEMMA,
    GEMMA,
    HARMONY,
    LLAMA,
    BARE_LIST,
)
"""Those without tags come last, because their calls may also stand between tags."""
