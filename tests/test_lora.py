"""Low-rank differences: what learns and what does not, who notices, what is handed over, and how a run goes on."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from test_loops import same_metrics, same_weights, start_and_kill
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from warm import run_warm

from sod.batching import Batch, collate, collate_demonstrations, demonstration_row
from sod.chat.format import ChatFormat
from sod.cli import run as sod
from sod.config import LearnOptions, ModelOptions, RolloutOptions, ScoreOptions
from sod.core import token_loss
from sod.engines import Request
from sod.engines.hf import HFEngine
from sod.errors import RunError
from sod.lab.demonstrations import STUDENT_STYLE
from sod.lab.make import write_demonstrations
from sod.model.attention import ATTENTION
from sod.model.forward import hidden_states
from sod.model.loading import load_model
from sod.model.lora import add_low_rank, plain_parameters, save_plain, save_weights
from sod.model.policy import Policy, origin
from sod.model.scores import score, selected
from sod.runs.directory import Run
from sod.teachers import TeacherSetup
from sod.teachers.privileged import PrivilegedTeacher
from sod.types import Group

pytest.importorskip("peft", reason='needs PEFT: pip install ".[lean]"')

MakeModel = Callable[..., Qwen3ForCausalLM]
MakeGroups = Callable[..., list[Group]]
Dtype = Literal["float32", "bfloat16"]
Rows = tuple[Tensor, Tensor, Tensor]

EVERYTHING = 1 << 20


def policy(model: PreTrainedModel, tokenizer: Any = None, **fields: Any) -> Policy:
    given = {"lr": 1e-2, "weight_decay": 0.0, "lora_rank": 4, "lora_alpha": 8.0} | fields
    return Policy(model, tokenizer, LearnOptions.model_validate(given))


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def differences(model: PreTrainedModel) -> dict[str, Tensor]:
    """What learns, by name."""
    return {name: weight for name, weight in model.named_parameters() if ".lora_" in name}


def biased_model() -> Qwen2ForCausalLM:
    """With biases, and a head of its own."""
    config = Qwen2Config(
        vocab_size=24,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.4,
        attn_implementation=ATTENTION,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).eval()
        for name, weight in model.named_parameters():
            if name.endswith(".bias"):
                weight.data.normal_()
        return model


@pytest.fixture(params=["tied", "biased"])
def model(request: pytest.FixtureRequest, random_model: MakeModel) -> PreTrainedModel:
    return random_model() if request.param == "tied" else biased_model()


@pytest.fixture
def batch(random_groups: MakeGroups) -> Batch:
    return collate(random_groups(2, 3))


@pytest.fixture
def rows(random_groups: MakeGroups) -> Rows:
    """Conversations to imitate."""
    return collate_demonstrations([demonstration_row(t.pieces, 1000) for group in random_groups(1, 8) for t in group])


def logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    return score(model, batch, 1.0, EVERYTHING)[0]


# What learns


def test_every_linear_layer_but_the_head_gets_a_difference_and_nothing_else_learns(model: PreTrainedModel) -> None:
    kind, head = type(model), model.get_output_embeddings()
    linear = {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    }
    add_low_rank(model, 4, 8.0)
    assert type(model) is kind
    assert model.get_output_embeddings() is head
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {f"{name}.lora_{which}.sod.weight" for name in linear for which in "AB"}
    assert len(linear) == 2 * 7


def test_before_it_has_learnt_the_model_computes_what_it_did(model: PreTrainedModel, batch: Batch) -> None:
    before_BT = logprobs(model, batch)
    add_low_rank(model, 4, 8.0)
    assert torch.equal(logprobs(model, batch), before_BT)


def test_differences_are_float32_and_the_same_in_every_run(random_model: MakeModel) -> None:
    models = [random_model(dtype=torch.bfloat16) for _ in range(2)]
    state = torch.random.get_rng_state()
    for model in models:
        add_low_rank(model, 4, 8.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, other in zip(*(differences(model).values() for model in models), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    assert models[0].dtype == torch.bfloat16


def test_learning_lowers_the_loss_and_moves_no_weight_of_the_model(model: PreTrainedModel, rows: Rows) -> None:
    before = weights(model)
    learner = policy(model)
    losses = [learner.imitate(*rows)["loss"] for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0]
    kept = [weight for name, weight in model.named_parameters() if ".lora_" not in name]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, before.values(), strict=True))


def test_differences_of_full_rank_learn_what_all_weights_of_the_layers_would(
    random_model: MakeModel, rows: Rows
) -> None:
    free, low = random_model(), random_model()
    for name, weight in free.named_parameters():
        weight.requires_grad_(name.endswith("_proj.weight"))
    learners = policy(free, lora_rank=0), policy(low, lora_rank=16, lora_alpha=16.0)
    first, last = ([learner.imitate(*rows)["loss"] for learner in learners] for _ in range(2))
    for _ in range(150):
        last = [learner.imitate(*rows)["loss"] for learner in learners]
    assert first[0] == first[1]
    assert max(last) < 0.25 * first[0]


def test_bf16_models_learn_at_rates_that_one_step_would_round_away(random_model: MakeModel, rows: Rows) -> None:
    model = random_model(dtype=torch.bfloat16)
    learner = policy(model, lr=1e-6)
    learner.imitate(*rows)  # A learns once B is no longer 0
    before = weights(model)
    learner.imitate(*rows)
    moved = [(weight != before[name]).float().mean().item() for name, weight in differences(model).items()]
    assert sum(moved) / len(moved) > 0.9


def test_the_gradient_that_is_clipped_is_that_of_the_differences(model: PreTrainedModel, rows: Rows) -> None:
    learner, seen = policy(model), []
    for weight in model.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.square().sum()))
    norm = learner.imitate(*rows)["grad_norm"]
    assert len(seen) == len(differences(model))
    assert norm == pytest.approx(torch.stack(seen).sum().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("low_rank", [False, True])
def test_a_frozen_head_has_no_gradient_to_keep(random_model: MakeModel, batch: Batch, low_rank: bool) -> None:
    model = random_model()
    if low_rank:
        add_low_rank(model, 4, 8.0)
    chosen = selected(model, batch.ids_BT, batch.mask_BT, batch.lengths_B)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        token_loss(chosen.hidden_MD, chosen.head, chosen.targets_M, lambda logprobs, _: -logprobs)
    assert (chosen.head.weight_VD.shape in kept) == (not low_rank)
    assert chosen.hidden_MD.shape in kept


def test_checkpointing_does_not_change_what_is_learnt(random_model: MakeModel, rows: Rows) -> None:
    learners = [policy(random_model(), checkpointing=checkpointing) for checkpointing in (False, True)]
    for _ in range(3):
        reports = [learner.imitate(*rows) for learner in learners]
        assert reports[0] == pytest.approx(reports[1], rel=1e-6)


# Who notices


@pytest.fixture
def learnt(model: PreTrainedModel, rows: Rows) -> PreTrainedModel:
    learner = policy(model)
    for _ in range(20):
        learner.imitate(*rows)
    return model


def test_the_sampler_samples_the_model_with_its_differences(learnt: PreTrainedModel) -> None:
    engine = HFEngine(learnt, slots=4)
    requests = [Request(ids=(5, 6, 7 + i), max_tokens=12, stops=(), seed=i, temperature=0.8) for i in range(4)]

    async def work() -> list[Any]:
        return await asyncio.gather(*map(engine.sample, requests))

    for request, reply in zip(requests, asyncio.run(work()), strict=True):
        ids = torch.tensor([[*request.ids, *reply.tokens]])
        with torch.no_grad():
            all_TV = (learnt(ids).logits[0, 2:-1] / 0.8).log_softmax(-1)
        expected_T = all_TV.gather(1, torch.tensor(reply.tokens)[:, None])[:, 0]
        assert list(reply.logprobs) == pytest.approx(expected_T.tolist(), abs=1e-5)


def test_packed_sequences_have_the_hidden_states_of_each_alone(learnt: PreTrainedModel) -> None:
    ids_BT, lengths_B = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    with torch.no_grad():
        together = hidden_states(learnt, ids_BT, lengths_B)
        apart = [hidden_states(learnt, ids_BT[row : row + 1], lengths_B[row : row + 1]) for row in (0, 1)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=0)


# What is handed over


def test_what_is_saved_is_a_plain_model_that_thinks_the_same(
    learnt: PreTrainedModel, batch: Batch, tmp_path: Path
) -> None:
    before, scores_BT = weights(learnt), logprobs(learnt, batch)
    save_plain(learnt, tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(learnt).items())
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=ATTENTION)
    assert type(saved) is type(learnt)
    plain = {name.replace(".base_layer", "") for name in before if ".lora_" not in name}
    assert set(load_file(tmp_path / "model.safetensors")) == set(weights(saved)) == plain
    torch.testing.assert_close(logprobs(saved, batch), scores_BT, atol=1e-5, rtol=0)


def test_merged_weights_are_the_sum_rounded_once_to_the_models_type(random_model: MakeModel, rows: Rows) -> None:
    model = random_model(dtype=torch.bfloat16)
    learner = policy(model)
    for _ in range(5):
        learner.imitate(*rows)
    layer: Any = model.model.layers[1].mlp.down_proj
    exact = layer.base_layer.weight.float() + 8.0 / 4 * layer.lora_B["sod"].weight @ layer.lora_A["sod"].weight
    merged = dict(zip(weights(random_model()), plain_parameters(model), strict=True))[
        "model.layers.1.mlp.down_proj.weight"
    ]
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, exact.bfloat16())
    assert not torch.equal(merged, layer.base_layer.weight)


def test_weights_alone_are_those_of_the_saved_model(learnt: PreTrainedModel, tmp_path: Path) -> None:
    save_plain(learnt, tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    save_weights(learnt, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_without_differences_is_saved_as_transformers_does(random_model: MakeModel, tmp_path: Path) -> None:
    model = random_model()
    save_plain(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    for theirs in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "ours" / theirs.name).read_bytes() == theirs.read_bytes()
    assert all(ours is theirs for ours, theirs in zip(plain_parameters(model), model.parameters(), strict=True))


def test_a_self_teacher_follows_the_merged_weights(
    untrained: Path, chat: ChatFormat, random_groups: MakeGroups, tmp_path: Path
) -> None:
    network = ModelOptions(device="cpu")
    student = load_model(untrained, network)
    learner = policy(student, chat.tokenizer)
    for _ in range(5):
        learner.imitate(*collate_demonstrations([demonstration_row(t.pieces, 1000) for t in random_groups(1, 4)[0]]))
    setup = TeacherSetup(
        folder=untrained,
        tokenizer=chat.tokenizer,
        network=network,
        score=ScoreOptions(),
        rollout=RolloutOptions(max_prompt_tokens=64, max_tokens=128),
        microbatch_tokens=EVERYTHING,
    )
    teacher = PrivilegedTeacher(setup, chat, [], context="gt", decay=0.75)
    teacher.follow(student)
    teacher.save(tmp_path)
    learner.save(tmp_path)
    averages = torch.load(tmp_path / "teacher.pt", weights_only=True)
    first, now = load_model(untrained, network), load_model(tmp_path, network)
    for average, old, new in zip(averages, first.parameters(), now.parameters(), strict=True):
        torch.testing.assert_close(average, 0.75 * old + 0.25 * new, atol=1e-6, rtol=0)


# How a run goes on


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_restored_goes_on_bit_for_bit(
    untrained: Path, tokenizer: PreTrainedTokenizerBase, rows: Rows, tmp_path: Path, dtype: Dtype, optimizer: str
) -> None:
    network, fields = ModelOptions(device="cpu", dtype=dtype), {"optimizer": optimizer, "warmup": 9}
    straight = policy(load_model(untrained, network), tokenizer, **fields)
    for _ in range(3):
        straight.imitate(*rows)
    straight.save(tmp_path)
    start = origin(untrained, tmp_path, LearnOptions(lora_rank=4))
    resumed = policy(load_model(start, network), tokenizer, **fields)
    resumed.restore(tmp_path)
    for _ in range(3):
        assert straight.imitate(*rows) == resumed.imitate(*rows)
    ours, theirs = weights(straight.model), weights(resumed.model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_policy_is_loaded_from_its_checkpoint_unless_that_is_merged(tmp_path: Path) -> None:
    first, checkpoint = tmp_path / "first", tmp_path / "checkpoint"
    for rank, found in ((0, checkpoint), (8, first)):
        assert origin(first, checkpoint, LearnOptions(lora_rank=rank)) == found
        assert origin(first, None, LearnOptions(lora_rank=rank)) == first


LEARN = ["--learn.lora-rank", "4", "--learn.lora-alpha", "8", "--learn.lr", "1e-2", "--learn.warmup", "3"]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations") / "demonstrations.jsonl"
    write_demonstrations(path, STUDENT_STYLE, 64, seed=0)
    return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_cold_start_goes_on_bit_for_bit(
    untrained: Path, demonstrations: Path, tmp_path: Path, dtype: Dtype
) -> None:
    straight, killed = Run(tmp_path / "straight"), Run(tmp_path / "killed")
    numbers = ["--batch", "8", "--epochs", "8", "--save-every", "20", "--network.dtype", dtype, *LEARN]
    command = ["sft", "--model", str(untrained), "--data", str(demonstrations), *numbers, "--out"]
    assert sod([*command, str(straight.folder)]) == 0
    start_and_kill([*command, str(killed.folder)], killed, rows=27)
    done, folder = killed.newest_checkpoint() or (0, None)
    assert 20 <= done < 64
    assert folder is not None
    AutoModelForCausalLM.from_pretrained(folder)
    assert sod([*command, str(killed.folder), "--resume"]) == 0
    same_weights(straight, killed)
    same_metrics(straight, killed)
    losses = [row["learn/loss"] for row in straight.metrics()]
    assert max(losses[-5:]) < min(losses[:5])


def test_a_killed_training_run_goes_on_bit_for_bit_and_its_model_can_be_measured(
    teacher: Path, problem_file: Path, tmp_path: Path
) -> None:
    rollout = ["--rollout.problems", "4", "--rollout.group", "2", "--rollout.max-turns", "8"]
    rollout += ["--rollout.max-turn-tokens", "48", "--rollout.max-tokens", "100", "--rollout.max-prompt-tokens", "64"]
    algorithm = ["--algorithm.name", "opsd_gt", "--opsd.decay", "0.9", "--updates", "4", "--save-every", "2"]
    files = [
        "--student",
        str(teacher),
        "--data",
        str(problem_file),
        "--network.device",
        "cpu",
        "--sandbox.workers",
        "2",
    ]
    learn = [*LEARN, "--learn.minibatches", "2", "--learn.optimizer", "adamw_8bit"]
    straight, killed = Run(tmp_path / "straight"), Run(tmp_path / "killed")
    command = ["train", *files, *algorithm, *rollout, *learn, "--out"]
    assert sod([*command, str(straight.folder)]) == 0
    start_and_kill([*command, str(killed.folder)], killed, rows=3)
    assert (killed.newest_checkpoint() or (0,))[0] == 2
    assert sod([*command, str(killed.folder), "--resume"]) == 0
    same_weights(straight, killed)
    same_metrics(straight, killed)
    assert all(row["sampler/gap_max"] < 1e-4 for row in straight.metrics())
    moved = load_file(straight.folder / "checkpoints" / "update-0004" / "model.safetensors")
    before = load_file(teacher / "model.safetensors")
    assert moved.keys() == before.keys()
    assert {name for name in moved if not torch.equal(moved[name], before[name])} == {
        name for name in before if "_proj." in name
    }


# Without it


def test_without_the_option_peft_is_not_imported(untrained: Path) -> None:
    code = """
import sys
from pathlib import Path
from sod.config import LearnOptions, ModelOptions
from sod.model.loading import load_model, load_tokenizer
from sod.model.policy import Policy
folder = Path(sys.argv[1])
Policy(load_model(folder, ModelOptions(device="cpu")), load_tokenizer(folder), LearnOptions())
print([name for name in ("peft", "bitsandbytes") if name in sys.modules])
"""
    done = run_warm(["-c", code, untrained])
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("package", "option"),
    [("peft", ["--learn.lora-rank", "4"]), ("bitsandbytes", ["--learn.optimizer", "adamw_8bit"])],
)
def test_a_missing_package_is_an_error_that_names_the_extra_before_anything_is_written(
    untrained: Path, demonstrations: Path, tmp_path: Path, package: str, option: list[str]
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('No module named {package}')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sod.cli import main; main(sys.argv[1:])"
    command = ["sft", "--model", untrained, "--data", demonstrations, *option, "--out", tmp_path / "run"]
    ended = run_warm(["-c", code, *command])
    assert ended.returncode == 2
    assert 'pip install ".[lean]"' in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


# Experts


def test_experts_stay_as_they_are_and_that_is_said_and_a_checkpoint_has_all_of_them(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT wraps blocks of experts as well, under names that no checkpoint has: unsloth-zoo #647, ms-swift #6435."""
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    learner = policy(load_model(tmp_path / "base", ModelOptions(device="cpu")), tokenizer)
    assert "% of the weights: " in " ".join(capsys.readouterr().out.split())
    for _ in range(3):
        learner.imitate(*rows)
    (tmp_path / "saved").mkdir()
    learner.save(tmp_path / "saved")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "saved"))
    assert {name: tensor.shape for name, tensor in before.items()} == {n: t.shape for n, t in after.items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".self_attn.q_proj." in name for name in changed)
    assert not any(".experts." in name or ".mlp.gate." in name for name in changed)
    again = load_model(tmp_path / "saved", ModelOptions(device="cpu"))
    ids = torch.arange(9)[None]
    torch.testing.assert_close(
        hidden_states(again, ids, torch.tensor([9])), hidden_states(learner.model, ids, torch.tensor([9]))
    )


def test_a_checkpoint_that_lacks_weights_does_not_come_to_be(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, random_model: MakeModel
) -> None:
    """Or has them in other shapes than those of which its configuration speaks."""
    learner = policy(random_model(), tokenizer)
    learner.model.config.intermediate_size += 1
    with pytest.raises(RunError, match=r"have another shape for model\.layers\.0\.mlp\.down_proj\.weight"):
        Run(tmp_path).save(1, learner.save, keep=1)
    assert Run(tmp_path).newest_checkpoint() is None
