"""Small tokenizers of other kinds than the lab's, with its turn tokens, trained on a few lines of text."""

import json
from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sod.config import ModelOptions
from sod.lab.tokenizer import CHAT_TEMPLATE, PAD, TURN_END, TURN_START
from sod.model.loading import load_model, load_tokenizer

TEXTS = [
    "So the answer is 42, and we print the value of the sum.",
    'tool_call {"name": "code_interpreter", "arguments": {"code": "print(1 + 2)\\nprint(3)"}}',
    "def total(values):\n    return sum(values)\n\nprint(total([1, 2, 3]))\n",
    "Was für Schafe gilt, gilt auch für Ziegen. 证毕。",
] * 20


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([PAD, TURN_START, TURN_END])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=TURN_END, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def byte_level(size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges of its own, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return _fast(tokenizer)


def sentence_piece(*, fallback: bool = True, dummy_prefix: bool = False) -> PreTrainedTokenizerFast:
    """A BPE over characters, with byte fallback as Llama 2's and Gemma's. Without `fallback`, other characters are lost.

    `dummy_prefix`: a space is put before every text, as Llama 2 does.
    """
    trained = Tokenizer(models.BPE())
    replace = normalizers.Replace(" ", "▁")
    trained.normalizer = replace
    trained.train_from_iterator(TEXTS[:3], trainers.BpeTrainer(vocab_size=200, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    vocabulary: dict[str, int] = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256 if fallback else 0)}
    for token in ["▁", *model["vocab"]]:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=fallback))
    prepend = [normalizers.Prepend("▁")] if dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, replace])
    strip = [decoders.Strip(" ", 1, 0)] if dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    fast = _fast(tokenizer)
    fast.unk_token = "<unk>"
    return fast


def word_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "So": 1, "##me": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return _fast(tokenizer)


def swap_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Exchange the same two letters in a model's embeddings and in its head."""
    one, two = (int(tokenizer.convert_tokens_to_ids(letter)) for letter in ("q", "z"))  # type: ignore[arg-type]
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = {id(table): table for layer in layers for table in layer.parameters()}  # type: ignore[union-attr]
    with torch.no_grad():
        for table in tables.values():
            table[[one, two]] = table[[two, one]]


def swapped(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer, with the ids of two letters exchanged: another vocabulary, the same tokens."""
    changed = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    names = changed["model"]["vocab"]
    names["q"], names["z"] = names["z"], names["q"]
    other = deepcopy(tokenizer)
    other._tokenizer = Tokenizer.from_str(json.dumps(changed))  # type: ignore[attr-defined]
    return other


def permute_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Permute the rows of a model's embeddings and of its head. -> the new id of each id; those of added tokens stay."""
    added = set(tokenizer.added_tokens_decoder)
    ordinary = [each for each in range(len(tokenizer)) if each not in added]
    new_id = list(range(model.get_input_embeddings().weight.shape[0]))  # type: ignore[union-attr, arg-type]
    for place, old in enumerate(ordinary):
        new_id[old] = ordinary[(place + 37) % len(ordinary)]
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = {id(table): table for layer in layers for table in layer.parameters()}  # type: ignore[union-attr]
    with torch.no_grad():
        for table in tables.values():
            table[torch.tensor(new_id)] = table.clone()
    return new_id


def permuted(tokenizer: PreTrainedTokenizerBase, new_id: list[int]) -> PreTrainedTokenizerBase:
    """The same tokenizer with other ids: another vocabulary, the same tokens."""
    changed = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    names = changed["model"]["vocab"]
    changed["model"]["vocab"] = {name: new_id[id] for name, id in names.items()}
    other = deepcopy(tokenizer)
    other._tokenizer = Tokenizer.from_str(json.dumps(changed))  # type: ignore[attr-defined]
    return other


def save_permuted(model: Path, folder: Path) -> Path:
    """Write a model with permuted ids: the same model, with another vocabulary. -> the folder"""
    tokenizer, network = load_tokenizer(model), load_model(model, ModelOptions(device="cpu"))
    new_id = permute_rows(network, tokenizer)
    network.save_pretrained(folder)
    permuted(tokenizer, new_id).save_pretrained(folder)
    return folder
