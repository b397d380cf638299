"""`sod import`, with a real GGUF file: a tiny random Llama that the test writes with the package gguf."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from sod.cli import run as sod
from sod.config import ImportOptions, ModelOptions
from sod.errors import ModelError, RunError
from sod.export.gguf import import_gguf
from sod.lab.make import TEACHER_FOLDER
from sod.model.hub import model_folder
from sod.model.loading import load_model, load_tokenizer, read_model

gguf: Any = pytest.importorskip("gguf", reason="needs the package gguf (extra `gguf`)")

HEADS, KV_HEADS = 4, 2
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Names in Transformers, and in GGUF."""


def llama(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=64,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    torch.manual_seed(3)
    return LlamaForCausalLM(config).eval()


def as_in_gguf(name: str, weight: torch.Tensor) -> tuple[str, np.ndarray]:
    """Return a weight's name in GGUF and its values. llama.cpp orders the rows of queries and keys in its own way."""
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    short = name.removesuffix(".weight")
    heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(short.partition("layers.")[2][2:])
    if heads:
        rows, columns = weight.shape
        weight = weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    if short not in top:
        number, _, part = short.removeprefix("model.layers.").partition(".")
        short = f"blk.{number}.{NAMES[part]}"
    return f"{top.get(short, short)}.weight", weight.detach().float().contiguous().numpy()


def write(
    path: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    architecture: str = "llama",
    scaled: bool = False,
    splits: str | None = None,
) -> Path:
    """Write a GGUF file. `splits`: llama.cpp's name for the way in which the tokenizer splits texts."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_string("general.license", "apache-2.0")
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(model.config.vocab_size)
    if tokenizer is not None:
        content = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
        added = {token["id"] for token in content["added_tokens"]}
        writer.add_tokenizer_model("gpt2")
        if splits is not None:
            writer.add_tokenizer_pre(splits)
        writer.add_token_list(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__))
        writer.add_token_types([3 if id in added else 1 for id in range(len(tokenizer))])
        writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
        writer.add_eos_token_id(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        writer.add_eot_token_id(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
        writer.add_chat_template(tokenizer.chat_template)
    for name, weight in model.state_dict().items():
        writer.add_tensor(*as_in_gguf(name, weight))
    if scaled:
        writer.add_tensor("rope_freqs.weight", np.full(4, 8.0, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = load_tokenizer(TEACHER_FOLDER)
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama(tokenizer), tokenizer)


def test_the_folder_computes_what_the_model_in_the_file_does(whole: Path, tmp_path: Path) -> None:
    import_gguf(ImportOptions(file=whole, out=tmp_path / "model"))
    tokenizer = load_tokenizer(tmp_path / "model")
    ids = torch.tensor([tokenizer("so let me compute the value of 12+30.").input_ids])
    before, after = llama(load_tokenizer(TEACHER_FOLDER)), read_model(tmp_path / "model", "float32")
    assert torch.allclose(before(input_ids=ids).logits, after(input_ids=ids).logits, atol=1e-5)
    load_model(tmp_path / "model", ModelOptions(device="cpu"))  # packed, cached and whole alike


def test_tokens_template_and_end_ids_come_along(whole: Path, tmp_path: Path) -> None:
    import_gguf(ImportOptions(file=whole, out=tmp_path / "model"))
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path / "model"), load_tokenizer(TEACHER_FOLDER)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == theirs.chat_template
    generation = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == theirs.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())


def test_bfloat16_is_written_if_asked_for(whole: Path, tmp_path: Path) -> None:
    import_gguf(ImportOptions(file=whole, out=tmp_path / "model", dtype="bfloat16"))
    assert read_model(tmp_path / "model", "auto").dtype == torch.bfloat16


def test_the_command_says_what_it_wrote(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sod(["import", str(whole), "--out", str(tmp_path / "model")]) == 0
    out, err = capsys.readouterr()
    assert "Tiny, llama" in out
    assert "checked: the folder gives the file's logits" in out
    assert "in float32, license apache-2.0" in out
    assert not err


def test_a_folder_that_exists_is_not_overwritten(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists already, and is never overwritten"):
        import_gguf(ImportOptions(file=whole, out=tmp_path))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4000])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def overwrite(path: Path) -> None:
    path.write_bytes(b"NOPE" + path.read_bytes()[4:])


def spoil(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-4096] + b"\xff" * 4096)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "is damaged or not complete"),
        (cut_in_the_header, "is damaged or not complete"),
        (overwrite, "is not a GGUF file"),
        (spoil, "not finite"),
    ],
)
def test_a_damaged_file_is_named_and_leaves_nothing(
    damage: Callable[[Path], None], words: str, whole: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(whole.read_bytes())
    damage(file)
    with pytest.raises(ModelError, match=words) as caught:
        import_gguf(ImportOptions(file=file, out=tmp_path / "model"))
    assert str(file) in str(caught.value)
    assert "Download the file again" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TEACHER_FOLDER)
    file = write(tmp_path / "odd.gguf", llama(tokenizer), tokenizer, architecture="oddity")
    with pytest.raises(ModelError, match=r"odd\.gguf.*oddity.*Give another \.gguf file"):
        import_gguf(ImportOptions(file=file, out=tmp_path / "model"))


def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "bare.gguf", llama(load_tokenizer(TEACHER_FOLDER)), None)
    with pytest.raises(ModelError, match=r"bare\.gguf holds no tokenizer"):
        import_gguf(ImportOptions(file=file, out=tmp_path / "model"))


def test_scaled_positions_that_the_reader_would_lose_are_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TEACHER_FOLDER)
    file = write(tmp_path / "long.gguf", llama(tokenizer), tokenizer, scaled=True)
    with pytest.raises(ModelError, match=r"long\.gguf scales the model's positions"):
        import_gguf(ImportOptions(file=file, out=tmp_path / "model"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf is not a file"):
        import_gguf(ImportOptions(file=tmp_path / "none.gguf", out=tmp_path / "model"))


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_gguf_file_as_the_model_names_the_command(
    folder: bool, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "tiny.gguf"
    file.write_bytes(whole.read_bytes())
    given = file.parent if folder else file
    with pytest.raises(ModelError, match=r"tiny\.gguf is a GGUF file.*Type sod import .*tiny\.gguf --out tiny"):
        model_folder(given)
    data = tmp_path / "problems.jsonl"
    data.write_text('{"id": "a", "prompt": "1+1?", "answer": "2"}\n')
    for flags in ((), ("--dry-run",)):
        assert sod(["eval", "--model", str(given), "--data", str(data), "--out", str(tmp_path / "out"), *flags]) == 2
        assert "Type sod import" in capsys.readouterr().err, flags
    assert sod(["plan", str(given)]) == 2
    assert "Type sod import" in capsys.readouterr().err
