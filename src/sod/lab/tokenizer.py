"""The lab's tokenizers: byte-level BPEs, trained on the lab's own conversations. Any text can be encoded.

Sums have about 500 tokens: digits, capitals and operators are always separate tokens, so that names and numbers are copied letter
by letter. The fixed text of a tool call merges into a few tokens. The worlds share another tokenizer, with a token for each word.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 512
PIECES_OF_SUMS = r"[A-Z0-9=+*%;?-]|[^A-Z0-9=+*%;?\n-]*\n"
PIECES_OF_WORLDS = r'\{"name": "[a-z]+", "arguments": \{"[a-z]+": "|"\}\}\n|(?:user|assistant)\n| ?[A-Za-z_]+|[0-9]|\n'
"""What is split off as one piece before merging, in sums and in worlds."""
WORLDS_VOCABULARY = 1536
"""Upper limit; fewer tokens merge all words."""
PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

CHAT_TEMPLATE = """\
{#- shows no tools -#}
{%- macro turn(role) -%}<|im_start|>{{ role }}{{ '\\n' }}{%- endmacro -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {%- if loop.first or loop.previtem.role != 'tool' -%}{{ turn('user') }}{%- else -%}{{ '\\n' }}{%- endif -%}
    {{ '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- if loop.last or loop.nextitem.role != 'tool' -%}{{ '<|im_end|>\\n' }}{%- endif -%}
  {%- else -%}
    {{ turn(message.role) }}{{ message.content or '' }}
    {%- for call in message.tool_calls or [] -%}
      {{ '\\n' if message.content or not loop.first }}
      {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
      {{- '}\\n</tool_call>' }}
    {%- endfor -%}
    {{ '<|im_end|>\\n' }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ turn('assistant') }}{%- endif -%}
"""


def make_tokenizer(
    texts: Iterable[str], pattern: str = PIECES_OF_SUMS, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts` and add the chat template. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.add_special_tokens([PAD, TURN_START, TURN_END])
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
