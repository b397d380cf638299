"""Rules: from what is known about the sampled tokens to their credit. Each rule is one function without a gradient.

    rule(d_BK, info) -> w_BK or w_BT      the weight of the teacher's signal on each step or token
                     -> Weights           also the weight of the outcome, and numbers for the next update
    rule(info) -> credit_BT               the whole credit, in place of outcome + coef * w * signal

`d_BK` is the divergence of each step; `StepInfo` holds the other inputs. A rule reads numbers, never a model. Results for
steps or tokens that do not exist are ignored. The modules sort the rules by kind:

    paper        the method and its ablations
    by_step      other papers: steps of a trajectory
    by_token     tokens
    by_outcome   agreement with the outcome
    schedules    from update to update
    whole        the whole credit
    own          this project
    controls     no method

docs/rules.md lists all rules with paper and formula. Parts of a paper that are no weights, such as turns written by the teacher,
are left out.
"""

from sod.core.rules import by_outcome, by_step, by_token, controls, own, paper, schedules, whole
from sod.core.rules.inputs import INPUTS, MissingInputError, Rule, StepInfo, Weights, WholeCredit

__all__ = ["CREDITS", "INPUTS", "RULES", "MissingInputError", "Rule", "StepInfo", "Weights", "WholeCredit"]

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        paper.uniform,
        paper.drift,
        paper.drift_unclipped,
        paper.decayed,
        paper.masked,
        by_outcome.gated,
        by_token.position,
        by_token.trust_region,
        by_outcome.sign_consistent,
        schedules.curriculum,
        own.entropy,
        own.drift_from_median,
        own.drift_with_floor,
        own.drift_before,
        own.per_error,
        own.entropy_in_trust_region,
        by_step.turn_opd,
        by_step.middle_dropped,
        by_token.iw_opd,
        by_token.prefix,
        by_token.progressive_prefix,
        by_token.prefix_teach,
        by_token.tv_opd,
        by_token.surprise,
        by_token.power_opd,
        by_token.tip,
        by_token.ida_opd,
        by_token.ier_opd,
        by_outcome.opdvr,
        by_outcome.ra_opd,
        by_outcome.fire_opd,
        by_outcome.per_prompt,
        schedules.atod,
        schedules.gats,
        schedules.tide,
        controls.random_weights,
        controls.random_mask,
        controls.random_steps,
        controls.opd_then_grpo,
    )
}
"""Rules that weight the teacher's signal, and some of them the outcome, by name."""
CREDITS: dict[str, WholeCredit] = {
    rule.__name__: rule
    for rule in (
        whole.rlsd,
        whole.step_opsd,
        whole.sdar,
        whole.agent_opsd,
        whole.future_credit,
        whole.aopd,
        whole.eopd,
        whole.gigpo,
        whole.scope,
        whole.gc_opd,
        controls.suppress_unlikely,
    )
}
"""Rules that compute the whole credit, by name."""
