"""Weighting rules from other papers that change the weights of teacher and outcome from update to update.

w is the weight of the teacher's signal, v that of the outcome. A wave (~) marks values that are scaled to the range from 0 to 1
within each trajectory. There a trajectory with equal values has 1.
"""

import torch
from torch import Tensor

from sod.core.rules.common import min_max
from sod.core.rules.inputs import StepInfo, Weights
from sod.core.steps import step_mean


def curriculum(d_BK: Tensor, info: StepInfo, *, updates_per_step: int = 5) -> Tensor:
    """Return 1 for the first steps, more of them as the run progresses; 0 after them.

    Paper: TCOD, arXiv 2604.24005.
    Formula: w_k = 1[k <= 1 + update // 5].
    Left out: rollouts are not cut at that depth, because GRPO needs their outcome.
    """
    step_K = torch.arange(1, d_BK.shape[1] + 1, device=d_BK.device)
    return (step_K <= 1 + info.update // updates_per_step).to(d_BK.dtype).expand_as(d_BK)


def atod(d_BK: Tensor, info: StepInfo, *, updates: int = 80, last: float = 0.1, outcome: float = 2.0) -> Weights:
    """Return more for steps with disagreement or an uncertain student, and move from the teacher to the outcome.

    Paper: ATOD, arXiv 2606.27814.
    Formula: w_k = kappa (1 - (1 - d~_k)(1 - h~_k)), v = rho, with h_k the mean of -log p_S over the step. In 80 updates kappa
    falls from 1 to 0.1, and rho rises from 1 to 2.
    Left out: nothing known. As described in a survey; the shape of the schedule, a line, is this project's choice.
    """
    exists_BK = info.exists_BK
    uncertain_BK = min_max(step_mean(-info.need("student"), info.ids_BT), exists_BK)
    useful_BK = 1 - (1 - min_max(d_BK, exists_BK)) * (1 - uncertain_BK)
    done = min(1.0, info.update / updates)
    return Weights((1 - (1 - last) * done) * useful_BK, 1 + (outcome - 1) * done)


def gats(d_BK: Tensor, info: StepInfo, *, kept: float = 0.9, updates: int = 5) -> Weights:
    """Return a weight that falls with the student's success, and remains 0 once the student is as good as the teacher.

    Paper: GATS ("Guide, then let go"), 2026.
    Formula: w = max(1 - M_S / M_T, 0), with M_S the share of right attempts and M_T the teacher's mean solve rate on the same
    problems, over all updates so far; an update counts 0.9 times as much as the next one. Once M_S reaches M_T, after 5 updates
    at least, w stays 0. Problems without a known rate do not count. While M_T is 0, w is 0.
    Left out: nothing known. As described in a survey, which does not say over which attempts M_S is measured. The average is
    this project's choice: a single update is small enough to be lucky.
    """
    rate_B, right_B = info.need("teacher_rates"), info.need("right").float()
    known_B = rate_B.isfinite()
    rate_B, right_B = (rate_B[known_B], right_B[known_B]) if known_B.any() else (torch.ones_like(rate_B), right_B)
    new = {"student": float(right_B.sum()), "teacher": float(rate_B.sum())}
    sums = {name: kept * info.state.get(name, 0.0) + value for name, value in new.items()}
    seen = info.state.get("updates", 0.0) + 1
    student, teacher = sums["student"], sums["teacher"]
    withdrawn = bool(info.state.get("withdrawn")) or (seen >= updates and 0 < teacher <= student)
    weight = 0.0 if withdrawn or teacher <= 0 else max(0.0, 1 - student / teacher)
    return Weights(torch.full_like(d_BK, weight), state=sums | {"updates": seen, "withdrawn": float(withdrawn)})


def tide(d_BK: Tensor, info: StepInfo) -> Weights:
    """Return more for steps with disagreement; there, the teacher counts by its certainty, and less as the models agree more.

    Paper: TIDE, 2026-09.
    Formula: w_k = g Q~_k d~_k, v_k = d~_k, with Q_k = exp(-H_k), H_k the teacher's mean entropy over the step, and g = min(1,
    mean d of the update / mean d of the run's first update).
    Left out: as described in a survey: "w_OPD = Q~ D~, w_RL = D~; hand-off by discrepancy". Q and g are this project's choice.
    """
    exists_BK = info.exists_BK
    apart_BK = min_max(d_BK, exists_BK)
    mean = float(d_BK[exists_BK].mean()) if exists_BK.any() else 0.0
    first = info.state.get("first_d", mean)
    gate = min(1.0, mean / first) if first > 0 else 1.0
    return Weights(gate * min_max((-info.entropy_BK).exp(), exists_BK) * apart_BK, apart_BK, {"first_d": first})
