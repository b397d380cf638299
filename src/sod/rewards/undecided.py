"""The judge of problems that only their environment can judge."""

from sod.types import Verdict

NO_VERDICT = "the environment returned no verdict, and the problem has no answer to judge by"


class NoJudge:
    """Leave every attempt ungraded. It is called if an environment returns no verdict."""

    def check(self, gold: str) -> None:
        """Accept every gold, because none is read."""

    async def __call__(self, text: str, gold: str) -> Verdict:
        del text, gold
        return Verdict(outcome="ungraded", reason=NO_VERDICT)
