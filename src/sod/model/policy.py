"""Train a network: losses, optimiser step and learning rate; save and restore it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.batching import Batch, CreditedBatch, balanced_parts, microbatches, minibatches
from sod.config import LearnOptions, ModelOptions, OptimiserOptions
from sod.core import (
    PolicyLoss,
    TokenInputs,
    candidate_credit,
    loss_divisor,
    reference_kl,
    sequence_log_ratio,
    token_logprobs,
    token_loss,
)
from sod.core.logprobs import TokenLoss
from sod.errors import OptionError, TrainingError
from sod.model.fsdp import checkpoint_layers, copy_whole, load_sharded, whole
from sod.model.loading import check_written, load_model
from sod.model.lora import add_low_rank, save_plain
from sod.model.scores import Selected, selected
from sod.model.training_state import load_state, save_state
from sod.processes.distributed import ALONE, Ranks

STEPPED_ELEMENTS = 1 << 27
"""Weights whose gradients are float32 at a time on a GPU: 512 MiB, instead of 4 bytes for each weight of the model."""


def origin(model: Path, checkpoint: Path | None, options: OptimiserOptions) -> Path:
    """Return the folder to load a policy's model from, before `restore`: the checkpoint, or `model` if there is none.

    With LoRA it is always `model`, because a checkpoint holds the weights with the adapters merged and rounded.
    """
    return model if checkpoint is None or options.lora_rank else checkpoint


def load_learner(folder: Path, network: ModelOptions, ranks: Ranks) -> PreTrainedModel:
    """Load the model in float32 and shard it over the processes. It computes in the network's type."""
    whole_options = ModelOptions(dtype="float32", device="cpu")
    return load_sharded(lambda: load_model(folder, whole_options), ranks, getattr(torch, network.dtype))


class Policy:
    """A model, its tokenizer and its optimiser.

    With several processes, `learner` is the same model sharded over them. It holds the gradients. `model` is a full copy in
    each process and receives its weights after every update. Each process trains on its share of the tokens. The result is
    the same as in one process with all tokens.

    With `total_steps`, the learning rate falls to 0 along a cosine over that many optimiser steps. Default: constant after
    the warm-up.
    """

    MAX_SKIPPED = 3
    """Number of consecutive optimiser steps with a non-finite gradient that stops the training."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        options: OptimiserOptions,
        *,
        total_steps: int | None = None,
        learner: PreTrainedModel | None = None,
        ranks: Ranks = ALONE,
    ):
        self.model = model
        self._learner = learner or model
        self._ranks = ranks
        if options.lora_rank:
            add_low_rank(model, options.lora_rank, options.lora_alpha)
        if options.checkpointing:
            checkpoint_layers(self._learner, keep_attention=options.keep_attention)
        self.tokenizer = tokenizer
        self.steps = 0
        self._options = options
        self._total_steps = total_steps
        self._skipped_in_a_row = 0
        learning = {name: weight for name, weight in self._learner.named_parameters() if weight.requires_grad}
        self._names, self._weights = list(learning), list(learning.values())
        # At the learning rates of distillation, rounding to bfloat16 would undo nearly every step.
        self._masters = [
            weight if weight.dtype == torch.float32 else weight.detach().float().requires_grad_()
            for weight in self._weights
        ]
        self._optimizer = _adamw(options.optimizer, is_fused=self._on_gpu)(
            self._masters, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay
        )

    def learn(
        self, batch: CreditedBatch, temperature: float, generator: torch.Generator, *, max_tokens: int | None = None
    ) -> dict[str, float]:
        """Take `minibatches` optimiser steps on the policy loss of a batch (`sod.core.PolicyLoss`). -> metrics

        The policy ratio is computed against `batch.student_BT`. `generator` assigns groups to minibatches. Each candidate of
        the batch is an additional action at its position; `candidate_credit` returns its credit. `max_tokens`: the limit on a
        response, which `learn.aggregation = constant` needs.
        """
        options = self._options
        assert isinstance(options, LearnOptions), "options of `sod sft` have no policy loss"
        order = lambda n: torch.randperm(n, generator=generator).tolist()  # noqa: E731
        reports = [
            self._learn_minibatch(
                part, loss_divisor(part.mask_BT.sum(1), options.aggregation, max_tokens), options, temperature
            )
            for part in minibatches(batch, options.minibatches, order)
        ]
        if not reports:
            raise TrainingError(
                "This update has no trajectory to train on: every attempt was dropped. See the warnings above for the reasons."
            )
        self._take_over()
        return {name: sum(report[name] for report in reports) / len(reports) for name in reports[0]}

    def _learn_minibatch(
        self, batch: CreditedBatch, divisor: Tensor | int, options: LearnOptions, temperature: float
    ) -> dict[str, float]:
        loss = PolicyLoss(options.loss, options.clip_low, options.clip_high, options.kl, options.entropy)
        tokens = int(batch.mask_BT.sum())
        totals: dict[str, float] = {}
        parts = self._parts(batch.lengths_B, batch.groups_B)
        for number, rows in enumerate(parts):
            self._reduce_after(last=number == len(parts) - 1)
            whole = divisor if isinstance(divisor, int) else divisor[rows]
            learnt, sums = self._learn_part(batch.rows(rows), whole, loss, temperature)
            for name, value in {"loss": learnt, **{name: total / tokens for name, total in sums.items()}}.items():
                totals[name] = totals.get(name, 0.0) + value
        return dict(zip(totals, self._ranks.total(list(totals.values())), strict=True)) | self._step()

    def _learn_part(
        self, part: CreditedBatch, divisor: Tensor | int, loss: PolicyLoss, temperature: float
    ) -> tuple[float, dict[str, float]]:
        """Add a micro-batch's gradient. -> its loss, and sums of other metrics over its sampled tokens"""
        candidates_BTJ = part.candidates_BTJ if part.teacher_weight_BT is not None else None
        chosen = self._chosen(part.ids_BT, part.mask_BT, part.lengths_B, candidates_BTJ)
        inputs = self._inputs(part, divisor, candidates=candidates_BTJ is not None)
        if loss.by_sequence:
            row_M = part.mask_BT.nonzero()[:, 0].to(self.model.device)
            inputs = replace(inputs, log_ratio_N=_sequence_log_ratio(chosen, inputs.old_N, row_M, temperature))
        total, logprobs_M, entropy_M = self._backward(
            chosen,
            lambda logprobs, where: loss.of_tokens(logprobs, where, inputs),
            temperature,
            loss.entropy_weights(inputs),
        )
        if candidates_BTJ is not None:  # metrics are of the sampled tokens only
            logprobs_M = logprobs_M[:, 0]
            inputs = replace(inputs, old_N=inputs.old_N[:, 0], credit_N=inputs.credit_N[:, 0])
        sums = {"entropy": entropy_M, "ratio_clipped": loss.clipped(logprobs_M, inputs)}
        if inputs.reference_N is not None:
            sums["kl"] = reference_kl(logprobs_M, inputs.reference_N)
        return total, {name: value_M.sum().item() for name, value_M in sums.items()}

    def _reduce_after(self, *, last: bool) -> None:
        """Choose whether the next backward pass of a sharded learner reduces the gradients over the processes."""
        if isinstance(self._learner, FSDPModule):
            self._learner.set_requires_gradient_sync(last or self._options.reduce == "microbatch")

    def _parts(self, lengths_B: Tensor, groups_B: Tensor | None = None) -> list[Tensor]:
        """Return this process's rows of each micro-batch. All processes have equally many micro-batches; some may be empty."""
        size = self._options.microbatch_tokens
        if self._ranks.alone:
            return list(microbatches(lengths_B, size, groups_B))
        return balanced_parts(lengths_B, size, self._ranks.count)[self._ranks.rank]

    def _inputs(self, part: CreditedBatch, divisor: Tensor | int, *, candidates: bool) -> TokenInputs:
        """Return the fixed inputs of the loss of every sampled token, and of its candidates."""
        old_M, credit_M = self._sampled(part, part.student_BT), self._sampled(part, part.credit_BT)
        if candidates:
            student_MJ, teacher_MJ, weight_M = (
                self._sampled(part, tensor)
                for tensor in (part.candidate_student_BTJ, part.candidate_teacher_BTJ, part.teacher_weight_BT)
            )
            credit_MJ = candidate_credit(student_MJ, teacher_MJ, weight_M)
            old_M, credit_M = torch.cat([old_M[:, None], student_MJ], 1), torch.cat([credit_M[:, None], credit_MJ], 1)
        if not isinstance(divisor, int):
            divisor = self._sampled(part, divisor[:, None].expand(part.mask_BT.shape))
        reference_M = None if part.reference_BT is None else self._sampled(part, part.reference_BT)
        return TokenInputs(old_M, credit_M, divisor, reference_N=reference_M)

    def _sampled(self, batch: Batch, tensor_BT: Tensor | None) -> Tensor:
        assert tensor_BT is not None
        return tensor_BT[batch.mask_BT].to(self.model.device)

    def imitate(self, ids_BT: Tensor, mask_BT: Tensor, lengths_B: Tensor) -> dict[str, float]:
        """Take one optimiser step on the mean negative log-likelihood of the masked tokens. -> metrics"""
        tokens = int(mask_BT.sum())
        if not tokens:
            raise TrainingError(
                "This batch has no token to train on. Check the assistant messages of the demonstrations, and their weights."
            )
        total = 0.0
        parts = self._parts(lengths_B)
        for number, rows in enumerate(parts):
            self._reduce_after(last=number == len(parts) - 1)
            chosen = self._chosen(ids_BT[rows], mask_BT[rows], lengths_B[rows])
            loss, _, _ = self._backward(chosen, lambda logprobs, _: -logprobs / tokens, temperature=1.0)
            total += loss
        return {"loss": self._ranks.total([total])[0]} | self._step()

    @torch.no_grad()
    def losses(self, ids_BT: Tensor, mask_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the negative log-likelihood of the masked tokens of each row, in nats. Nothing is learnt. -> (B,)

        All processes must call this with the same rows, and get the same result.
        """
        sums_B = torch.zeros(len(lengths_B), dtype=torch.float64)
        for rows in self._parts(lengths_B):
            chosen = self._chosen(ids_BT[rows], mask_BT[rows], lengths_B[rows])
            logprobs_M, _ = token_logprobs(chosen.hidden_MD, chosen.head, chosen.targets_M)
            if isinstance(self._learner, FSDPModule):
                self._learner.reshard()  # no backward pass does it, and the next pass would read the gathered old weights
            counts = mask_BT[rows].sum(1).tolist()
            sums_B[rows] = torch.tensor(
                [-part.double().sum().item() for part in logprobs_M.cpu().split(counts)], dtype=torch.float64
            )
        return torch.tensor(self._ranks.total(sums_B.tolist()), dtype=torch.float64)

    def _chosen(
        self, ids_BT: Tensor, mask_BT: Tensor, lengths_B: Tensor, candidates_BTJ: Tensor | None = None
    ) -> Selected:
        """Return the inputs of the head for a micro-batch's masked tokens, and for their candidates."""
        if not len(lengths_B):  # all processes must make a pass; this one reads a single token without loss
            ids_BT, mask_BT, lengths_B = (
                torch.zeros(1, 1, dtype=torch.long),
                torch.zeros(1, 1).bool(),
                torch.ones(1).long(),
            )
            candidates_BTJ = None if candidates_BTJ is None else candidates_BTJ.new_zeros(1, 1, candidates_BTJ.shape[2])
        return selected(self._learner, ids_BT, mask_BT, lengths_B, candidates_BTJ)

    def _backward(
        self, chosen: Selected, loss_of: TokenLoss, temperature: float, entropy_weights_M: Tensor | None = None
    ) -> tuple[float, Tensor, Tensor]:
        """Add a micro-batch's gradient. -> its loss, and log-probabilities and entropies of its masked tokens"""
        loss, logprobs_M, entropy_M = token_loss(
            chosen.hidden_MD,
            chosen.head,
            chosen.targets_M,
            loss_of,
            temperature=temperature,
            entropy=True,
            entropy_weights_N=entropy_weights_M,
        )
        assert entropy_M is not None
        (loss * self._ranks.count).backward()  # FSDP averages the processes' gradients
        return loss.item(), logprobs_M, entropy_M

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of optimiser step `step`, counted from 0."""
        options = self._options
        if step < options.warmup:
            return options.lr * (step + 1) / options.warmup
        if self._total_steps is None:
            return options.lr
        done = (step - options.warmup) / max(1, self._total_steps - options.warmup)
        return options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _step(self) -> dict[str, float]:
        """Clip the gradient and take an optimiser step. -> metrics

        Skip the step if the gradient is not finite. Raise TrainingError after `MAX_SKIPPED` of them in a row.
        """
        norm = whole(torch.nn.utils.clip_grad_norm_(self._weights, self._options.clip_grad)).item()
        rate = self.learning_rate(self.steps)
        if math.isfinite(norm):
            self._skipped_in_a_row = 0
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._step_masters()
        else:
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= self.MAX_SKIPPED:
                raise TrainingError(
                    f"The gradient was not finite {self.MAX_SKIPPED} times in a row (norm {norm}). Start a new run with a lower "
                    "learn.lr."
                )
        self._learner.zero_grad(set_to_none=True)
        self.steps += 1
        return {"grad_norm": norm, "lr": rate, "skipped": float(self._skipped_in_a_row > 0)}

    @torch.no_grad()
    def _step_masters(self) -> None:
        """Take one optimiser step on the float32 weights, and copy them into model weights of another type."""
        pairs = [(m, w) for m, w in zip(self._masters, self._weights, strict=True) if m is not w]
        if not pairs:
            self._optimizer.step()
        for part in _parts_of(pairs, STEPPED_ELEMENTS) if self._on_gpu else [pairs] if pairs else []:
            for master, weight in part:
                master.grad = None if weight.grad is None else weight.grad.float()
                weight.grad = None
            self._optimizer.step()
            for master, weight in part:
                weight.copy_(master)
                master.grad = None

    @property
    def _on_gpu(self) -> bool:
        return self._masters[0].is_cuda

    def _take_over(self) -> None:
        """Copy the sharded learner's weights into the full model."""
        if self._learner is not self.model:
            copy_whole(self._learner, self.model)

    def save(self, folder: Path) -> None:
        """Write the full model and its tokenizer in Hugging Face format, and the training state.

        All processes must call this. The folder must exist before the first one does.
        """
        self._take_over()
        if self._ranks.is_first:
            save_plain(self.model, folder)
            check_written(folder)
            self.tokenizer.save_pretrained(folder)
        optimizer = {
            name: self._optimizer.state[master] for name, master in zip(self._names, self._masters, strict=True)
        }
        numbers = {"steps": self.steps, "skipped": self._skipped_in_a_row}
        save_state(folder, self._beside(), optimizer, numbers, self._ranks)

    def restore(self, folder: Path) -> None:
        """Load the training state of `save`, with any number of processes. The model must be loaded from `origin`."""
        masters = dict(zip(self._names, self._masters, strict=True))
        optimizer, numbers = load_state(folder, masters, self._ranks)
        for name, state in optimizer.items():
            self._optimizer.state[masters[name]] = state
        with torch.no_grad():
            for master, weight in zip(self._masters, self._weights, strict=True):
                if master is not weight:
                    weight.copy_(master)
        self.steps, self._skipped_in_a_row = numbers["steps"], numbers["skipped"]

    def _beside(self) -> dict[str, Tensor]:
        """Return trained weights that the model's files do not hold: LoRA adapters, or float32 weights of a bfloat16 model."""
        if self._options.lora_rank or self.model.dtype != torch.float32:
            return dict(zip(self._names, self._masters, strict=True))
        return {}


@torch.no_grad()
def _sequence_log_ratio(chosen: Selected, old_M: Tensor, row_M: Tensor, temperature: float) -> Tensor:
    """Return the log of the ratio of each sampled token's trajectory. -> (M,)"""
    targets_M = chosen.targets_M
    if targets_M.dim() > 1:  # the sampled tokens are the first column
        targets_M, old_M = targets_M[:, 0], old_M[:, 0]
    logprobs_M, _ = token_logprobs(chosen.hidden_MD, chosen.head, targets_M, temperature=temperature)
    return sequence_log_ratio(logprobs_M, old_M, row_M)


def _parts_of(pairs: Sequence[tuple[Tensor, Tensor]], elements: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Return the weights in parts of at most `elements` elements, or one larger weight."""
    parts: list[list[tuple[Tensor, Tensor]]] = []
    room = 0
    for pair in pairs:
        size = pair[0].numel()
        if size > room:
            parts.append([])
            room = elements
        parts[-1].append(pair)
        room -= size
    return parts


def _adamw(name: str, *, is_fused: bool) -> Callable[..., torch.optim.Optimizer]:
    """Return PyTorch's AdamW, or the 8-bit one (arXiv 2110.02861). That keeps moments of tensors under 4,096 in float32.

    `is_fused`: on a GPU, one kernel reads each weight once and allocates nothing.
    """
    if name == "adamw":
        return partial(torch.optim.AdamW, fused=True) if is_fused else torch.optim.AdamW
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise OptionError(
            f"learn.optimizer = adamw_8bit needs bitsandbytes, which cannot be imported ({error}). Type pip install "
            '".[lean]" in a checkout of sod.'
        ) from error
    return AdamW8bit
