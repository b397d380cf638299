"""A model of 135M parameters on a CPU: drawing, sampling, and scoring with learning, against the usual ways of each.

    python benchmarks/laptop.py [--dtype float32] [--model DIR]

The shape is SmolLM2-135M's, with random weights unless `--model` names a directory. The trajectories are those of short tool
tasks: prompts of 255 tokens, of which 230 are the same in all problems, and 185 tokens after them, in groups of 4.

- Drawing is compared with Transformers' top-p warper and `torch.multinomial`, on the same logits.
- Sampling is compared with `generate` of Transformers on the same prompts, padded on the left.
- Scoring by student and teacher, and one optimiser step, are compared with a padded loop that holds all logits.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import in_turn, pairwise_ratios, parse, parser, per_second, report, row, show
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from sod.batching import CreditedBatch, collate
from sod.config import LearnOptions, ModelOptions
from sod.core import clipped_policy_loss
from sod.engines import Request
from sod.engines.drawing import draw_tokens
from sod.engines.hf import HFEngine
from sod.model.attention import ATTENTION
from sod.model.loading import load_model
from sod.model.policy import Policy
from sod.model.scores import score
from sod.types import Group, Piece, Problem, Trajectory

PROBLEM = Problem(id="p", messages=(), answer="1")


def network(options: Any) -> PreTrainedModel:
    """The given model, or a random one of SmolLM2-135M's shape. With --quick a tiny one."""
    if options.model:
        return load_model(options.model, ModelOptions(dtype=options.dtype, device="cpu"))
    small: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 4096}
    shape: dict[str, Any] = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "vocab_size": 49_152,
    }
    heads: dict[str, Any] = (
        {"num_attention_heads": 9, "num_key_value_heads": 3} if not options.quick else {"num_attention_heads": 3}
    )
    torch.manual_seed(0)
    config = LlamaConfig(**(small if options.quick else shape), **heads, tie_word_embeddings=True, pad_token_id=2)
    model = LlamaForCausalLM(config).to(getattr(torch, options.dtype)).eval()
    model.set_attn_implementation(ATTENTION)
    return model


# Drawing


def peaked_logits(rows: int, vocabulary: int) -> Tensor:
    """Logits as of a trained model: few tokens hold most of the mass, and all others have a little. -> (N, V)"""
    logits_NV = 2 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))
    logits_NV[:, :50] += torch.linspace(12, 3, 50)
    return logits_NV.bfloat16()


def draw_as_transformers(logits_NV: Tensor, temperature: float, top_p: float) -> Tensor:
    ids_NT: Any = None
    logits_NV = TemperatureLogitsWarper(temperature)(ids_NT, logits_NV.float())
    if top_p < 1:
        logits_NV = TopPLogitsWarper(top_p)(ids_NT, logits_NV)
    return torch.multinomial(logits_NV.softmax(-1), 1)


def drawing(options: Any, vocabulary: int, top_p: float) -> dict[str, Any]:
    logits_NV = peaked_logits(16, vocabulary)
    uniforms = torch.rand(16).tolist()
    seconds = in_turn(
        {
            "ours": lambda: draw_tokens(logits_NV, [0.9] * 16, [top_p] * 16, uniforms),
            "peer": lambda: draw_as_transformers(logits_NV, 0.9, top_p),
        },
        4 * options.rounds,
    )
    return row(
        f"drawing 16 tokens of {vocabulary:,}, top_p {top_p:g}",
        show(seconds["ours"]),
        f"Transformers' warpers and multinomial: {show(seconds['peer'])}",
        pairwise_ratios(seconds["peer"], seconds["ours"]),
    )


# Sampling


def sampling(options: Any, model: PreTrainedModel, top_p: float) -> dict[str, Any]:
    """4 prompts of different lengths x 4 samples x 24 tokens."""
    generator = torch.Generator().manual_seed(0)
    sizes, count = ((60, 85, 100, 125), 24) if not options.quick else ((6, 8, 10, 12), 4)
    prompts = [torch.randint(5, model.config.vocab_size, (size,), generator=generator).tolist() for size in sizes]
    requests = [
        Request(
            ids=tuple(prompt), max_tokens=count, stops=(), seed=sample, temperature=1.0, top_p=top_p, trajectory=None
        )
        for prompt in prompts
        for sample in range(4)
    ]

    def ours() -> None:
        async def ask() -> None:
            engine = HFEngine(model, slots=len(requests))
            await asyncio.gather(*map(engine.sample, requests))

        asyncio.run(ask())

    width = max(sizes)
    ids_BT = torch.tensor([[2] * (width - len(prompt)) + prompt for prompt in prompts])
    settings = GenerationConfig(
        do_sample=True,
        top_p=top_p,
        top_k=0,
        max_new_tokens=count,
        min_new_tokens=count,
        num_return_sequences=4,
        pad_token_id=2,
    )

    def generate() -> None:
        model.set_attn_implementation("sdpa")
        model.generate(ids_BT, attention_mask=(ids_BT != 2).long(), generation_config=settings)  # type: ignore[operator]
        model.set_attn_implementation(ATTENTION)

    seconds = in_turn({"ours": ours, "peer": generate}, options.rounds)
    tokens = len(requests) * count
    return row(
        f"sampling {len(requests)} sequences of {count} tokens, top_p {top_p:g}",
        per_second(tokens, seconds["ours"]),
        f"generate: {per_second(tokens, seconds['peer'])}",
        pairwise_ratios(seconds["peer"], seconds["ours"]),
        ">= 2",
    )


# Scoring and learning


def trajectories(options: Any, model: PreTrainedModel) -> CreditedBatch:
    """4 groups of 4, or of 2. The lengths after the prompt are spread from 0.5 to 1.5 of their mean."""
    generator = torch.Generator().manual_seed(0)
    system, question, rest, groups, samples = (230, 25, 185, 4, 4) if not options.quick else (20, 4, 16, 2, 2)
    ids = lambda count: torch.randint(5, model.config.vocab_size, (count,), generator=generator).tolist()  # noqa: E731
    shared, made = ids(system), []
    for _ in range(groups):
        prompt = (*shared, *ids(question))
        sizes = [round(rest * (0.5 + sample / max(1, samples - 1))) for sample in range(samples)]
        rows = [
            Trajectory(
                PROBLEM,
                sample,
                (Piece("prompt", prompt), Piece("student", tuple(ids(size)))),
                "answered",
                "",
                reward=1.0,
            )
            for sample, size in enumerate(sizes)
        ]
        made.append(Group(PROBLEM, rows))
    batch = collate(made)
    scored = replace(batch.scored(torch.zeros(batch.ids_BT.shape)), teacher_BT=torch.zeros(batch.ids_BT.shape))
    return scored.credited(torch.randn(batch.ids_BT.shape, generator=generator) * batch.mask_BT)


def update_padded(policy: Policy, teacher: PreTrainedModel, batch: CreditedBatch, rows: int) -> None:
    """Scores of student and teacher, and one step, from all logits of rows that are padded to the longest."""
    tokens = int(batch.mask_BT.sum())

    def logprobs(model: PreTrainedModel, index: Tensor) -> Tensor:
        ids_BT = batch.ids_BT[index]
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
        return logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:, None])[..., 0]

    for network in (policy.model, teacher):
        network.set_attn_implementation("sdpa")
    for index in torch.arange(len(batch)).split(rows):
        mask_BT = batch.mask_BT[index, 1:]
        with torch.no_grad():
            old_M = logprobs(policy.model, index)[mask_BT]
            logprobs(teacher, index)
        new_M = logprobs(policy.model, index)[mask_BT]
        (clipped_policy_loss(new_M, old_M, batch.credit_BT[index, 1:][mask_BT]).sum() / tokens).backward()
    policy._step()  # the optimiser's part is the same
    for network in (policy.model, teacher):
        network.set_attn_implementation(ATTENTION)


def scoring_and_learning(options: Any, model: PreTrainedModel) -> dict[str, Any]:
    batch, budget = trajectories(options, model), 16_384
    tokenizer: Any = None
    policy = Policy(model, tokenizer, LearnOptions(minibatches=1, lr=1e-6, microbatch_tokens=budget))

    def ours() -> None:
        scored = batch
        for _student_and_teacher in range(2):
            score(model, scored, 1.0, budget)
        policy.learn(scored, 1.0, torch.Generator().manual_seed(0))

    seconds = in_turn({"ours": ours, "peer": lambda: update_padded(policy, model, batch, 4)}, options.rounds)
    tokens = int(batch.lengths_B.sum())
    return row(
        f"scoring twice and learning, {len(batch)} trajectories of {tokens // len(batch)} tokens",
        per_second(tokens, seconds["ours"]),
        f"padded to the longest, all logits: {per_second(tokens, seconds['peer'])}",
        pairwise_ratios(seconds["peer"], seconds["ours"]),
        ">= 2.5",
    )


def main() -> None:
    made = parser(__doc__, rounds=3)
    made.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    made.add_argument("--model", type=Path, help="directory of a model to use instead of random weights")
    options = parse(made)
    vocabularies = (49_152, 151_936) if not options.quick else (4096,)
    rows = [drawing(options, size, top_p) for size in vocabularies for top_p in (1.0, 0.6)]
    model = network(options)
    rows += [sampling(options, model, top_p) for top_p in (1.0, 0.6)]
    rows.append(scoring_and_learning(options, model))
    report(options, rows, parameters=model.num_parameters(), dtype=options.dtype)


if __name__ == "__main__":
    main()
