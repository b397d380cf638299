"""Learning from trajectories of very different lengths: packed, against the same update padded to the longest; what the
options of the loss cost; and what SOD costs beyond OPD on the same trajectories.

    python benchmarks/learning.py [--trajectories 64] [--longest 1024]

Lengths are spread 1:8, evenly on a logarithmic scale (as many short as long ones: what tool-using trajectories look like)
and evenly on a linear one. A network of 2.6M parameters, one optimiser step on all trajectories, the clipped policy loss
in chunks on both sides; only the layout differs.
"""

from dataclasses import replace
from statistics import median
from typing import Any

import torch
from measure import in_turn, pairwise_ratios, parse, parser, per_second, report, row, show
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from sod.batching import CreditedBatch, collate, microbatches
from sod.config import AlgorithmOptions, LearnOptions
from sod.core import clipped_policy_loss, token_loss
from sod.credit.algorithms import ALGORITHMS
from sod.model.attention import ATTENTION
from sod.model.forward import head
from sod.model.policy import Policy
from sod.model.scores import score, selected
from sod.types import Group, Piece, Problem, Trajectory


def network(width: int, layers: int, vocabulary: int = 2048) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        intermediate_size=3 * width,
        head_dim=32,
        max_position_embeddings=32_768,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    model.set_attn_implementation(ATTENTION)
    return model


def lengths(count: int, longest: int, *, logarithmic: bool) -> list[int]:
    """From longest / 8 to longest, evenly on one of two scales."""
    at = [i / (count - 1) for i in range(count)]
    return [round(longest * (8 ** (x - 1) if logarithmic else (1 + 7 * x) / 8)) for x in at]


def made_up(sizes: list[int], model: PreTrainedModel, vocabulary: int = 2048) -> CreditedBatch:
    """Trajectories of four turns with observations between them, in groups of 8, with random scores of the teacher."""
    generator = torch.Generator().manual_seed(0)

    def trajectory(sample: int, size: int) -> Trajectory:
        ids = torch.randint(1, vocabulary, (size,), generator=generator).tolist()
        cuts = [round(size * share) for share in (0.1, 0.3, 0.4, 0.55, 0.65, 0.8, 0.9)]
        parts = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
        authors = ["prompt", "student", "tool", "student", "tool", "student", "tool", "student"]
        pieces = [Piece(author, tuple(part)) for author, part in zip(authors, parts, strict=True)]  # type: ignore[arg-type]
        return Trajectory(PROBLEM, sample, tuple(pieces), "answered", "", reward=float(sample % 2))

    rows = [trajectory(i, size) for i, size in enumerate(sizes)]
    batch = collate([Group(PROBLEM, rows[i : i + 8]) for i in range(0, len(rows), 8)])
    student_BT, _ = score(model, batch, 1.0, 16_384)
    noise_BT = torch.randn(student_BT.shape, generator=generator)
    scored = replace(batch.scored(student_BT), teacher_BT=student_BT + 0.3 * noise_BT)
    return scored.credited(noise_BT * batch.mask_BT)


PROBLEM = Problem(id="p", messages=(), answer="1")


def learn_padded(policy: Policy, batch: CreditedBatch, microbatch_tokens: int) -> None:
    """One optimiser step as it is usually laid out: rows in the order they came, each padded to the batch's longest."""
    width, tokens = batch.ids_BT.shape[1], int(batch.mask_BT.sum())
    rows = max(1, microbatch_tokens // width)
    for index in torch.arange(len(batch)).split(rows):
        ids_BT, mask_BT = batch.ids_BT[index], batch.mask_BT[index]
        old_M, credit_M = batch.student_BT[index][mask_BT], batch.credit_BT[index][mask_BT]
        hidden_BTD = policy.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        loss, _, _ = token_loss(
            hidden_BTD[:, :-1][mask_BT[:, 1:]],
            head(policy.model),
            ids_BT[mask_BT],
            lambda logprobs, where, old=old_M, credit=credit_M: (
                clipped_policy_loss(logprobs, old[where], credit[where]) / tokens
            ),
            entropy=True,
        )
        loss.backward()
    policy._step()  # the optimiser's part is the same


def learn_written_out(policy: Policy, batch: CreditedBatch, microbatch_tokens: int) -> None:
    """One optimiser step on the paper's loss, packed as in `Policy.learn`, without any option of the loss."""
    tokens = int(batch.mask_BT.sum())
    for rows in microbatches(batch.lengths_B, microbatch_tokens, batch.groups_B):
        part = batch.rows(rows)
        old_M, credit_M = part.student_BT[part.mask_BT], part.credit_BT[part.mask_BT]
        chosen = selected(policy.model, part.ids_BT, part.mask_BT, part.lengths_B)
        loss, _, _ = token_loss(
            chosen.hidden_MD,
            chosen.head,
            chosen.targets_M,
            lambda logprobs, where, old=old_M, credit=credit_M: (
                clipped_policy_loss(logprobs, old[where], credit[where]) / tokens
            ),
            entropy=True,
        )
        loss.backward()
    policy._step()


def losses(model: PreTrainedModel, batch: CreditedBatch, budget: int, rounds: int) -> list[Any]:
    """The default loss against itself written out, and the other losses against the default."""
    tokenizer: Any = None
    batch = replace(batch, reference_BT=batch.student_BT)
    others: dict[str, dict[str, Any]] = {
        "default": {},
        "gspo": {"loss": "gspo", "aggregation": "sequence_mean"},
        "cispo": {"loss": "cispo"},
        "kl": {"kl": 0.01},
        "entropy": {"entropy": 0.01},
    }
    policies = {
        name: Policy(
            model, tokenizer, LearnOptions(minibatches=1, lr=1e-6, microbatch_tokens=budget).model_copy(update=fields)
        )
        for name, fields in others.items()
    }
    calls: dict[str, Any] = {
        name: lambda policy=policy: policy.learn(batch, 1.0, torch.Generator().manual_seed(0))
        for name, policy in policies.items()
    }
    calls["written out"] = lambda: learn_written_out(policies["default"], batch, budget)
    seconds = in_turn(calls, rounds)
    costs = ", ".join(f"{name} {median(seconds[name]) / median(seconds['default']):.2f}" for name in others)
    return [
        row(
            "one update by the default loss, same trajectories",
            show(seconds["default"]),
            f"the paper's loss written out, without options: {show(seconds['written out'])}; times the default: {costs}",
            pairwise_ratios(seconds["default"], seconds["written out"]),
            "<= 1.02",
        )
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--trajectories", type=int, default=64)
    made.add_argument("--longest", type=int, default=1024)
    options = parse(made)
    width, layers = (192, 4) if not options.quick else (64, 1)
    if options.quick:
        options.trajectories, options.longest = 8, 64
    model = network(width, layers)
    tokenizer: Any = None
    budget = 16_384
    policy = Policy(model, tokenizer, LearnOptions(minibatches=1, lr=1e-6, microbatch_tokens=budget))
    rows, packed = [], [0.0]
    for logarithmic in (False, True):
        batch = made_up(lengths(options.trajectories, options.longest, logarithmic=logarithmic), model)
        seconds = in_turn(
            {
                "packed": lambda batch=batch: policy.learn(batch, 1.0, torch.Generator().manual_seed(0)),
                "padded": lambda batch=batch: learn_padded(policy, batch, budget),
            },
            options.rounds,
        )
        tokens, padded = int(batch.lengths_B.sum()), batch.ids_BT.numel()
        rows.append(
            row(
                f"one update, {options.trajectories} trajectories, lengths {options.longest // 8}-{options.longest} spread "
                f"{'logarithmically' if logarithmic else 'evenly'} ({padded / tokens:.2f} padded tokens a token)",
                per_second(tokens, seconds["packed"]),
                f"padded to the longest: {show(seconds['padded'])} against {show(seconds['packed'])}",
                pairwise_ratios(seconds["padded"], seconds["packed"]),
                ">= 2",
            )
        )
        packed = seconds["packed"]
    rows += losses(model, batch, budget, options.rounds)
    algorithm = AlgorithmOptions()

    credit = in_turn(
        {name: lambda name=name: ALGORITHMS[name](batch, algorithm) for name in ("sod", "opd")}, 20 * options.rounds
    )
    more = median(credit["sod"]) - median(credit["opd"])
    rows.append(
        row(
            "an update by SOD, same trajectories",
            f"credit in {show(credit['sod'])}",
            f"by OPD: credit in {show(credit['opd'])}, and in both {show(packed)} of learning",
            [1 + more / seconds for seconds in packed],
            "<= 1.01",
        )
    )
    report(options, rows, parameters=model.num_parameters())


if __name__ == "__main__":
    main()
