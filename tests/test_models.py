"""What is loaded is the model that its files hold, all of it, and nothing else."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sod.batching import collate
from sod.config import ModelOptions, RolloutOptions
from sod.engines import Reply, Request
from sod.engines.hf import HFEngine
from sod.errors import ModelError, OptionError
from sod.export.model import plain_model
from sod.model.forward import end_ids, ends_beside, head, unused_generation
from sod.model.fsdp import _layers
from sod.model.loading import check_context, load_model, load_tokenizer
from sod.model.scores import score, score_top
from sod.processes.concurrency import Runner
from sod.types import Group, Piece, Problem, Trajectory

CPU = ModelOptions(device="cpu")
Weights = dict[str, Tensor]
Change = Callable[[Weights], object]


def rename(weights: Weights, prefix: str) -> None:
    for name in list(weights):
        weights[prefix + name] = weights.pop(name)


@pytest.fixture
def folder(untrained: Path, tmp_path: Path) -> Path:
    """A copy of a small model, to be damaged."""
    return Path(shutil.copytree(untrained, tmp_path / "model"))


def change_weights(folder: Path, change: Change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_head_of_its_own_under_a_configuration_that_ties_it_is_refused(folder: Path) -> None:
    """Transformers computes with this head, and vLLM with the embeddings."""
    change_weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    load_model(folder, CPU)
    change_weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 1}))
    with pytest.raises(ModelError, match=r"hold a head that differs from the embeddings.*tie_word_embeddings to false"):
        load_model(folder, CPU)
    change_json(folder / "config.json", tie_word_embeddings=False)
    load_model(folder, CPU)


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json"])
def test_an_error_of_a_library_is_one_line(folder: Path, lost: str) -> None:
    if lost == "config.json":
        change_json(folder / lost, model_type="mystery")
    else:
        (folder / lost).unlink()
    load: Callable[[], object] = (
        (lambda: load_model(folder, CPU)) if lost == "config.json" else (lambda: load_tokenizer(folder))
    )
    with pytest.raises(ModelError, match="cannot be loaded: ") as refusal:
        load()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "is a pointer of Git LFS, not the file"),
        ("<!DOCTYPE html>\n<html></html>", "is a web page"),
    ],
)
def test_what_stands_in_place_of_a_file_is_named(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    load = load_tokenizer if name == "tokenizer.json" else lambda folder: load_model(folder, CPU)
    with pytest.raises(ModelError, match=f"cannot be loaded: {name} {words}"):
        load(folder)


def test_a_folder_with_a_gguf_file_alone_names_the_command_that_reads_it(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "m.gguf")
    with pytest.raises(ModelError, match=r"no weights in safetensors but m\.gguf\. Type `sod import .*m\.gguf --out"):
        load_model(folder, CPU)


def test_a_value_that_transformers_do_not_know_is_named_with_its_file(folder: Path) -> None:
    change_json(folder / "config.json", hidden_act="foo")
    with pytest.raises(ModelError, match=r"config\.json has the value 'foo', which Transformers does not know"):
        load_model(folder, CPU)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("model.norm.weight"), r"lack model\.norm\.weight\. Download or save"),
        (lambda w: [w.pop(n) for n in list(w) if ".mlp." in n], r"lack model\.layers\.0\.mlp\.down_proj\.weight, "),
        (lambda w: rename(w, "base_model.model."), r"lack .* and \d+ more\. Download or save"),
        (
            lambda w: w.update({"model.layers.0.mlp.up_proj.bias": torch.ones(32)}),
            r"does not, .*up_proj\.bias\. Download or save",
        ),
        (lambda w: w.update({"model.layers.1.mlp.up_proj.weight": torch.ones(2)}), r"does not, model\.layers\.1"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(5)}),
            r"another shape for model\.norm\.weight\. Download or save",
        ),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(
    folder: Path, change: Change, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """In words of our own, with no table of another library, for `sod export` as well. NeMo-RL #415, sglang #26772."""
    change_weights(folder, change)
    for load in (lambda: load_model(folder, CPU), lambda: plain_model(folder, "auto")):
        with pytest.raises(ModelError, match=rf"^The weights in .* do not match the model: its files .*{words}"):
            load()
    assert capfd.readouterr() == ("", "")


def test_a_table_of_positions_in_an_older_file_is_harmless(folder: Path) -> None:
    change_weights(folder, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    load_model(folder, CPU)


def test_pickled_weights_are_not_read_and_the_way_out_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ModelError, match=r"no weights in safetensors but pytorch_model\.bin, .*save_pretrained"):
        load_model(folder, CPU)


def test_code_in_a_models_folder_never_runs_and_is_not_asked_about(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    own = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
    for file in ("config", "tokenizer_config"):
        change_json(folder / f"{file}.json", auto_map=own)
    load_model(folder, CPU)  # of a type that Transformers has itself
    change_json(folder / "config.json", model_type="evil")
    change_json(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    for load in (load_tokenizer, lambda folder: load_model(folder, CPU)):
        with pytest.raises(ModelError, match=r"^The \w+ in .* needs Python code of its own, which sod never runs"):
            load(folder)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["t5", "bart_no_such_kind"])
def test_a_model_that_is_no_text_model_is_refused_in_a_sentence(folder: Path, kind: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelError, match=kind) as caught:
        load_model(folder, CPU)
    assert kind == "bart_no_such_kind" or len(str(caught.value)) < 300


def test_a_model_that_names_no_positions_is_refused() -> None:
    """Bloom has no limit."""
    config = BloomConfig(vocab_size=8, hidden_size=8, n_layer=1, n_head=2)
    with pytest.raises(ModelError, match="has no max_position_embeddings"):
        check_context(BloomForCausalLM(config), RolloutOptions())


def test_a_model_without_attention_has_no_limit() -> None:
    config = MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1)
    check_context(MambaForCausalLM(config), RolloutOptions())


# A head with more rows than the tokenizer has ids


@pytest.fixture
def padded(folder: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model that would rather write one of the 50 ids without a token than any other."""

    def pad(weights: Weights) -> None:
        rows = weights["model.embed_tokens.weight"]
        weights["model.embed_tokens.weight"] = torch.cat([rows, 3 * rows[:50]])

    change_weights(folder, pad)
    change_json(folder / "config.json", vocab_size=len(tokenizer) + 50)
    return load_model(folder, CPU)


def sample(model: PreTrainedModel, **fields: object) -> Reply:
    async def go() -> Reply:
        engine = HFEngine(model, slots=1)
        try:
            return await engine.sample(
                Request(**({"ids": [5, 6, 7], "max_tokens": 60, "stops": (), "seed": 0} | fields))
            )  # type: ignore[arg-type]
        finally:
            await engine.close()

    with Runner() as loop:
        return loop.run(go())


def test_ids_without_a_token_are_never_written_and_the_sampler_agrees_with_the_learner(
    padded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """NeMo-RL #237, pegainfer #673: decoded to nothing, such ids went into the trajectory."""
    assert len(head(padded)) == len(tokenizer) == padded.get_input_embeddings().weight.shape[0] - 50  # type: ignore[union-attr, operator]
    reply = sample(padded)
    assert max(reply.tokens) < len(tokenizer)
    pieces = (Piece("prompt", (5, 6, 7)), Piece("student", reply.tokens, reply.logprobs))
    problem = Problem(id="p", messages=(), answer="1")
    batch = collate([Group(problem, [Trajectory(problem, 0, pieces, "answered", "")])])
    logprobs_BT, _ = score(padded, batch, 1.0, 1024)
    torch.testing.assert_close(logprobs_BT[0, 3:], torch.tensor(reply.logprobs), atol=1e-4, rtol=0)
    ids_BTJ, of_all_BTJ = score_top(padded, batch, 1.0, 1024, len(tokenizer))
    assert ids_BTJ.max() < len(tokenizer)
    torch.testing.assert_close(of_all_BTJ[0, 3:, 1:].exp().sum(-1), torch.ones(60))  # nothing is left for other ids


def test_a_teacher_with_fewer_rows_scores_all_that_a_student_with_more_can_write(
    padded: PreTrainedModel, untrained: Path
) -> None:
    """With `divergence exact`, too, which asks about tokens that were not written. TRL #2215, LMOps #331."""
    pieces = (Piece("prompt", (5, 6, 7)), Piece("student", sample(padded).tokens))
    problem = Problem(id="p", messages=(), answer="1")
    batch = collate([Group(problem, [Trajectory(problem, 0, pieces, "answered", "")])])
    ids_BTJ, _ = score_top(padded, batch, 1.0, 1024, 40)
    asked = replace(batch, candidates_BTJ=ids_BTJ[..., 1:])
    logprobs_BTJ, _ = score(load_model(untrained, CPU), asked, 1.0, 1024)
    assert logprobs_BTJ.shape[2] == 41
    assert logprobs_BTJ.isfinite().all()


def test_a_padded_head_is_written_whole(padded: PreTrainedModel, tmp_path: Path) -> None:
    padded.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again", CPU)
    assert again.get_input_embeddings().weight.shape == padded.get_input_embeddings().weight.shape  # type: ignore[union-attr]


# Ends


def test_every_end_id_of_a_model_ends_what_it_writes(folder: Path) -> None:
    """Qwen3 and Llama 3 declare several: TRL #7039."""
    free = sample(load_model(folder, CPU)).tokens
    for stop, ends, length in (
        (free[30], [free[10], free[20]], 11),
        (free[8], free[30], 9),
        (free[8], [10**6, None], 9),
    ):
        change_json(folder / "generation_config.json", eos_token_id=ends)
        model = load_model(folder, CPU)
        reply = sample(model, stops=(stop,))
        first = min(free.index(id) for id in (stop, *end_ids(model)) if id in free)
        assert (reply.tokens, reply.stop) == (free[: first + 1], "stop")
        assert len(reply.tokens) <= length
        assert ends_beside(folder) == end_ids(model)
        assert sample(model).stop == "length"  # nothing ends what a probe writes


def test_a_damaged_generation_config_is_refused_because_it_may_name_ends(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, ')
    with pytest.raises(ModelError, match=r"generation_config\.json is not JSON"):
        load_model(folder, CPU)


def test_settings_of_a_generation_config_that_no_engine_applies_are_listed(folder: Path) -> None:
    assert unused_generation(load_model(folder, CPU)) == ""
    change_json(folder / "generation_config.json", repetition_penalty=1.3, suppress_tokens=[5], temperature=0.5)
    assert unused_generation(load_model(folder, CPU)) == "suppress_tokens = [5], repetition_penalty = 1.3"


@pytest.mark.parametrize("about", [None, {"quant_method": "of_ours"}])
def test_codes_of_quantised_weights_are_not_taken_for_values(folder: Path, about: dict[str, str] | None) -> None:
    change_json(folder / "config.json", **({"quantization_config": about} if about else {}))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "up_proj" in name)
    save_file(weights | {name: weights[name].to(torch.int8)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"holds 1 weights that are not fractions, such as .*up_proj.weight \(I8\)"):
        load_model(folder, CPU)


def test_a_head_of_zeros_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "embed" in name or "lm_head" in name)
    save_file(
        {key: value * (key != name) for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"output embedding .* is zero"):
        load_model(folder, CPU)


def test_two_sets_of_weights_in_a_folder_are_refused(folder: Path) -> None:
    """Transformers reads model.safetensors, other programs read the shards."""
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {}}))
    with pytest.raises(ModelError, match="two sets of weights"):
        load_model(folder, CPU)


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_with_an_adapter_is_refused(folder: Path, whole: bool) -> None:
    """Transformers would add the adapter to the weights beside it, or to another folder's."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "base"}))
    if not whole:
        (folder / "config.json").unlink()
    for load in (lambda: load_model(folder, CPU), lambda: load_tokenizer(folder)):
        with pytest.raises(ModelError, match=r"holds an adapter.*merge_and_unload"):
            load()


def test_a_folder_without_a_generation_config_names_no_ends(tmp_path: Path) -> None:
    assert ends_beside(tmp_path) == frozenset()
    (tmp_path / "generation_config.json").write_text("[1")
    assert ends_beside(tmp_path) == frozenset()


def test_a_tokenizer_is_read_once_and_again_when_its_files_change(teacher: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher, tmp_path / "copy")
    first = load_tokenizer(folder)
    load_model(folder, ModelOptions(device="cpu"))
    assert load_tokenizer(folder) is first
    (folder / "chat_template.jinja").write_text("another")
    assert load_tokenizer(folder).chat_template == "another"
    assert first.chat_template != "another"


def test_a_model_is_divided_by_its_decoder_layers_and_by_no_other_list(random_model: Callable[..., Any]) -> None:
    model = random_model()
    layers = model.model.layers
    model.other = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in layers)
    assert _layers(model) is layers
    model.more = torch.nn.ModuleList(layers)
    with pytest.raises(OptionError, match=r"has 2 lists of 2 decoder layers .* Start one process\."):
        _layers(model)
