"""Policy losses, the credit of candidate tokens, the distance from the start, and how tokens are averaged.

docs/losses.md lists each with its name in TRL and verl.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossForm = Literal["ppo", "gspo", "cispo"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over the mask; 0, with a gradient of 0, for an empty mask. -> ()"""
    mask_BT = mask_BT.bool()
    return values_BT.masked_fill(~mask_BT, 0).sum() / mask_BT.sum().clamp(min=1)


# The loss of a token


def clipped_policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    credit_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """Return -min(ratio * credit, clip(ratio, 1 - clip_low, 1 + clip_high) * credit) of every token. -> (B, T)

    ratio = exp(log pi - log pi_old); the gradient flows through log pi only. The caller takes the mean over the mask
    (`masked_mean`). If log-probabilities outside the mask are not finite, select the tokens before calling.
    The result has the shape of the inputs.
    """
    ratio_BT = (logprobs_BT - old_logprobs_BT.detach()).exp()
    return _clipped(ratio_BT, credit_BT, clip_low, clip_high)


def sequence_policy_loss(
    logprobs_N: Tensor, log_ratio_N: Tensor, credit_N: Tensor, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Tensor:
    """Return `clipped_policy_loss` with the ratio of the whole sequence: GSPO, arXiv 2507.18071, Eq. 14 and 15. -> (N,)

    `log_ratio_N`: at each token, the log of its sequence's ratio (`sequence_log_ratio`), without gradient. The ratio is

        s(t) = sg(s) * pi(t) / sg(pi(t))        s = exp(mean over the sequence of log pi - log pi_old)

    where sg stops the gradient. Its value is s for each token, so a sequence is clipped as a whole. Its gradient is
    s * grad log pi(t). If all tokens of a sequence have the same credit, the gradient of their mean is that of
    min(s * credit, clip(s) * credit), Eq. 5. Here tokens have different credits, so this form is used (GSPO-token).
    With candidates, `logprobs_N` and `credit_N` are (N, 1 + J).
    """
    log_ratio_N = log_ratio_N.detach() if logprobs_N.dim() == 1 else log_ratio_N.detach()[:, None]
    ratio_N = (log_ratio_N + logprobs_N - logprobs_N.detach()).exp()
    return _clipped(ratio_N, credit_N, clip_low, clip_high)


def cispo_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    credit_BT: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
) -> Tensor:
    """Return -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * credit * log pi: CISPO, arXiv 2506.13585, Eq. 4. -> (B, T)

    sg stops the gradient. A clipped ratio bounds the weight of a token, but every token keeps its gradient. A `clip_low` of 1
    sets no lower bound, as in the paper. The result has the shape of the inputs.
    """
    ratio_BT = (logprobs_BT.detach() - old_logprobs_BT.detach()).exp()
    return -ratio_BT.clamp(1 - clip_low, 1 + clip_high) * credit_BT.detach() * logprobs_BT


def _clipped(ratio_BT: Tensor, credit_BT: Tensor, clip_low: float, clip_high: float) -> Tensor:
    credit_BT = credit_BT.detach()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio_BT * credit_BT, clipped_BT * credit_BT)


def sequence_log_ratio(logprobs_N: Tensor, old_logprobs_N: Tensor, rows_N: Tensor) -> Tensor:
    """Return, at each token, the mean of log pi - log pi_old over its sequence. -> (N,)

    `rows_N`: number of the sequence of each token, from 0. The mean over the length is GSPO's normalisation (arXiv 2507.18071,
    Eq. 7). fp32 for bf16 inputs.
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    log_ratio_N = log_ratio_N.to(torch.promote_types(log_ratio_N.dtype, torch.float32))
    sums = log_ratio_N.new_zeros(int(rows_N.max()) + 1 if rows_N.numel() else 0)
    counts = torch.zeros_like(sums).index_add_(0, rows_N, torch.ones_like(log_ratio_N))
    return (sums.index_add(0, rows_N, log_ratio_N) / counts)[rows_N]


def reference_kl(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """Return exp(d) - d - 1 with d = log pi_ref - log pi of every token, in nats: the estimator k3. -> (B, T)

    Its mean over samples of pi is KL(pi || pi_ref), and no value is negative (http://joschu.net/blog/kl-approx.html). The
    gradient flows through log pi only. The result has the shape of the inputs.
    """
    difference_BT = reference_BT.detach() - logprobs_BT
    return difference_BT.exp() - difference_BT - 1


def candidate_credit(student_NJ: Tensor, teacher_NJ: Tensor, weight_N: Tensor) -> Tensor:
    """Return weight * pi(v) * (log pi_teacher(v) - log pi(v)) of each candidate v. -> (N, J)

    pi is the student before the update. The credit is the `teacher_advantage` that v would get if sampled, times the
    probability of sampling v. It does not depend on the token that was sampled. Summed over v, `clipped_policy_loss` is
    then the expectation of that loss over the student's own choices (a factor pi(v) >= 0 passes through its minimum).
    Its gradient at ratio 1 is

        -weight sum_v pi(v) (log pi_teacher(v) - log pi(v)) grad log pi(v)  =  weight grad KL(pi || pi_teacher)

    over the whole vocabulary, where sum_v grad pi(v) = 0. Over a part of the vocabulary, it is the gradient of weight
    times sum_v pi(v) (log pi(v) - log pi_teacher(v) - 1); tokens outside that part are not scored.

    `student_NJ`, `teacher_NJ`: log-probabilities of the candidates under the whole softmax, in nats. No gradient.
    """
    student_NJ = student_NJ.detach()
    return weight_N.detach()[:, None] * student_NJ.exp() * (teacher_NJ.detach() - student_NJ)


# The loss of a minibatch


def loss_divisor(tokens_B: Tensor, aggregation: Aggregation, max_tokens: int | None = None) -> Tensor | int:
    """Return the number that a token's loss is divided by before all are summed; for `sequence_mean` one per sequence, (B,).

    `tokens_B`: number of sampled tokens of each sequence of the whole minibatch, over all micro-batches and processes.
    With S sequences that have tokens:

    - token_mean: all tokens. The sum is the mean over tokens (DAPO, arXiv 2503.14476).
    - sequence_mean: tokens of the sequence * S. The sum is the mean over sequences of their means (GRPO, arXiv 2402.03300).
    - constant: S * `max_tokens`. Every token has the same weight in every update (Dr. GRPO, arXiv 2503.20783).
    """
    if aggregation == "token_mean":
        return int(tokens_B.sum())
    sequences = int((tokens_B > 0).sum())
    if aggregation == "sequence_mean":
        return tokens_B * sequences
    assert max_tokens is not None, "a constant needs max_tokens"
    return sequences * max_tokens


@dataclass(frozen=True, slots=True)
class TokenInputs:
    """Fixed inputs of the loss for the N sampled tokens of a micro-batch; with candidates, for these and J candidates each."""

    old_N: Tensor
    """log pi before the update, (N,) or (N, 1 + J)."""
    credit_N: Tensor
    """Credit, (N,) or (N, 1 + J)."""
    divisor: Tensor | int
    """From `loss_divisor`: a number, or one for each token, (N,)."""
    log_ratio_N: Tensor | None = None
    """gspo only: from `sequence_log_ratio`."""
    reference_N: Tensor | None = None
    """log pi of the reference on the sampled tokens, (N,); None without one."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss that an update takes its steps on, as a function of log-probabilities.

    Each sampled token has the loss (form + kl * k3 - entropy * H) / divisor; the loss of the minibatch is the sum.
    Candidates have the first term only.
    """

    form: LossForm = "ppo"
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.0
    """Coefficient of `reference_kl`."""
    entropy: float = 0.0
    """Coefficient of the entropy, which is added by `sod.core.token_loss` (`entropy_weights`)."""

    @property
    def by_sequence(self) -> bool:
        """Return whether a token's ratio depends on its whole sequence."""
        return self.form == "gspo"

    def of_tokens(self, logprobs_N: Tensor, where: slice, inputs: TokenInputs) -> Tensor:
        """Return the loss of the tokens `where`, without the entropy. -> (n,) or (n, 1 + J)"""
        loss_N = self._form(logprobs_N, where, inputs)
        if self.kl:
            assert inputs.reference_N is not None, "no reference has scored these tokens"
            loss_N = loss_N + self._kl(logprobs_N, inputs.reference_N[where])
        return loss_N / _row(inputs.divisor, where, logprobs_N)

    def entropy_weights(self, inputs: TokenInputs) -> Tensor | None:
        """Return the factor of each token's entropy in the loss, (N,); None without an entropy bonus."""
        if not self.entropy:
            return None
        return inputs.old_N.new_full((len(inputs.old_N),), -self.entropy) / inputs.divisor

    def clipped(self, logprobs_N: Tensor, inputs: TokenInputs) -> Tensor:
        """Return where the clip range changes the gradient. -> (N,) bool; without candidates

        ppo, gspo: the ratio is beyond the side that the credit points to, so the gradient is 0. cispo: the ratio is beyond
        either side.
        """
        log_ratio_N = logprobs_N - inputs.old_N if inputs.log_ratio_N is None else inputs.log_ratio_N
        ratio_N = log_ratio_N.exp()
        above_N, below_N = ratio_N > 1 + self.clip_high, ratio_N < 1 - self.clip_low
        cut_N = above_N | below_N if self.form == "cispo" else torch.where(inputs.credit_N > 0, above_N, below_N)
        return cut_N & (inputs.credit_N != 0)

    def _form(self, logprobs_N: Tensor, where: slice, inputs: TokenInputs) -> Tensor:
        old_N, credit_N = inputs.old_N[where], inputs.credit_N[where]
        if self.form == "gspo":
            assert inputs.log_ratio_N is not None, "gspo needs the ratio of each sequence"
            log_ratio_N = inputs.log_ratio_N[where]
            return sequence_policy_loss(
                logprobs_N, log_ratio_N, credit_N, clip_low=self.clip_low, clip_high=self.clip_high
            )
        function = cispo_loss if self.form == "cispo" else clipped_policy_loss
        return function(logprobs_N, old_N, credit_N, clip_low=self.clip_low, clip_high=self.clip_high)

    def _kl(self, logprobs_N: Tensor, reference_N: Tensor) -> Tensor:
        if logprobs_N.dim() == 1:
            return self.kl * reference_kl(logprobs_N, reference_N)
        sampled_N1 = self.kl * reference_kl(logprobs_N[:, :1], reference_N[:, None])
        return torch.nn.functional.pad(sampled_N1, (0, logprobs_N.shape[1] - 1))


def _row(divisor: Tensor | int, where: slice, like_N: Tensor) -> Tensor | int:
    """Return the divisors of these tokens, with a second dimension if the losses have one."""
    if isinstance(divisor, int):
        return divisor
    return divisor[where] if like_N.dim() == 1 else divisor[where, None]
