"""Open the parts of a training run: its directory, the teacher, the scorer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sod.config import EngineOptions, TrainOptions
from sod.config.teachers import routes_of
from sod.credit.algorithms import inputs_of
from sod.credit.systems import traits
from sod.errors import OptionError
from sod.model.forward import head
from sod.model.policy import Policy
from sod.planning.checks import check, of_translation
from sod.processes.concurrency import Runner
from sod.processes.distributed import Ranks
from sod.rollout.harness import Harness
from sod.runs.directory import Run
from sod.scoring import Scorer
from sod.teachers import Teacher, TeacherSetup
from sod.teachers.opening import has_same_tokens, open_teacher, open_teachers, teacher_folder
from sod.teachers.privileged import PrivilegedTeacher
from sod.teachers.reference import Reference


def begin(
    options: TrainOptions, run: Run, files: dict[str, str], contents: dict[str, str], done: int
) -> list[dict[str, float]]:
    """Create or resume the run directory. -> the metrics of the completed updates"""
    Run.open(options, options.out, data=files, files=contents, resume=options.resume, updates=options.updates)
    if options.resume:
        run.rewind(done)
        run.write_options(options)
    return run.metrics()


def scorer_of(options: TrainOptions, policy: Policy, teacher: Teacher | None, reference: Reference | None) -> Scorer:
    is_exact = options.algorithm.divergence == "exact"
    return Scorer(
        policy.model,
        teacher,
        reference=reference,
        temperature=options.rollout.temperature,
        microbatch_tokens=options.learn.microbatch_tokens,
        student_from=options.score.student,
        candidates=min(options.algorithm.candidates, len(head(policy.model))) if is_exact else 0,
        student_entropy="student_entropy" in inputs_of(options.algorithm.name),
    )


@contextmanager
def opened_teacher(
    options: TrainOptions, student: Path, harness: Harness, loop: Runner, ranks: Ranks
) -> Iterator[Teacher | None]:
    """Open the teacher that the algorithm requires, or yield None."""
    context = traits(options.algorithm.name).context
    routes = routes_of(options.teachers)
    if context is not None:
        folder = student
    elif options.teacher is not None:
        folder = teacher_folder(options.teacher, options.score)
    elif routes:
        folder = student  # each route has its own
    else:
        yield None
        return
    setup = TeacherSetup.of(folder, options, harness.chat, harness.tools.schemas)
    if context is None:
        folders = [folder] if not routes else [teacher_folder(route.model, options.score) for route in routes]
        for each in folders:
            if not has_same_tokens(each, setup.tokenizer):
                check(of_translation(options, each))
        opening = open_teachers(loop, setup, routes, ranks) if routes else open_teacher(loop, setup, ranks)
        with opening as teacher:
            if not teacher.scores_tokens and "teacher" in inputs_of(options.algorithm.name):
                raise OptionError(
                    f"algorithm.name = {options.algorithm.name} reads the teacher's log-probability of each token, but "
                    "llama.cpp's server only returns those of the most likely ones. Choose another rule, or another server."
                )
            yield teacher
        return
    opsd = options.opsd
    yield PrivilegedTeacher(
        setup,
        harness.chat,
        harness.tools.schemas,
        context=context,
        template=opsd.template,
        decay=opsd.decay,
        tell_answer=opsd.tell_answer,
        is_default=harness.environments.is_default,
    )


def own_engine(options: EngineOptions, ranks: Ranks) -> EngineOptions:
    """Return the engine's options with `{rank}` in the URL replaced by this process's number. Each process has a server."""
    if options.name != "vllm_server" or options.url is None or ranks.alone:
        return options
    return options.model_copy(update={"url": options.url.replace("{rank}", str(ranks.rank))})
