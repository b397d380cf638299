"""Options `--opsd`: the teacher that is the student itself with more context."""

from sod.config.base import Decay, Options, Rare


class OpsdOptions(Options):
    """On-policy self-distillation (opsd_gt, opsd_hint, opsd_feedback): the teacher is the student with more information in its
    prompt."""

    template: Rare[str | None] = None
    """Text that replaces the student's last message in the teacher's prompt. {question} is that message; {context} is the
    answer, the hint or the feedback. Default: a short built-in text with both."""
    decay: Rare[Decay | None] = None
    """The teacher is an exponential moving average of the student; at each update it keeps this share of its own weights.
    Default: the teacher keeps the student's initial weights."""
    tell_answer: Rare[bool] = False
    """opsd_feedback only: the teacher also reads the gold answer (of code, the solution), and every reason of the judge. Default:
    it never reads the answer."""
