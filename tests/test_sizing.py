"""Which way of training fits: the same arithmetic as a dry run's, and commands that can be typed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sod.cli import parse
from sod.cli import run as sod
from sod.config import PlanOptions, TrainOptions
from sod.errors import ModelError, OptionError
from sod.planning.budgets import memory_of_training
from sod.planning.dry_run import plan
from sod.planning.fitting import Case, train_options
from sod.planning.inventory import BANDWIDTH, MEMORY, PEAK, Device, find_device, imagined_gpus
from sod.planning.memory import forward_operations
from sod.planning.plan import advice
from sod.planning.timing import compared, seconds_of_update

STUDENT, TEACHER = "Qwen/Qwen3-1.7B", "youngzhong/SOD-GRPO_teacher-4B"
WIDE = 1000
"""Columns that no line needs."""


def asked(gpus: str, student: str = STUDENT, teacher: str | None = TEACHER, max_tokens: int = 20_480) -> PlanOptions:
    return PlanOptions(
        student=Path(student), teacher=Path(teacher) if teacher else None, gpus=gpus, max_tokens=max_tokens
    )


def rows(text: str) -> dict[str, list[str]]:
    """The table's lines by the way's name: GiB of student, learner, teacher, sampler, peak, total; and the mark."""
    found = re.findall(r"^(?:set-ups)? +\d+ +(\S.*?)  +((?:[\d.,-]+ *){6}(?:\*|no)?)$", text, re.MULTILINE)
    return {name: cells.split() for name, cells in found}


def commands(text: str) -> list[list[str]]:
    """What is to be typed, in words."""
    return [shlex.split(line) for line in re.findall(r"^(?:run)? +\$ (.*)$", text, re.MULTILINE)]


def options_of(command: list[str]) -> TrainOptions:
    """What `sod train` makes of a command as it is typed."""
    flags = command[command.index("train") + 1 :]
    options = parse("train", "TrainOptions", flags)
    assert isinstance(options, TrainOptions)
    return options


# GPUs


@pytest.mark.parametrize(
    ("text", "count", "name", "mib"),
    [
        ("8xH100", 8, "H100", 81_559),
        ("8 x h100", 8, "H100", 81_559),
        ("4090", 1, "4090", 24_564),
        ("2x4090", 2, "4090", 24_564),
        ("A100-40GB", 1, "A100-40GB", 40_960),
        ("2x24GB", 2, "GPU", 24 << 10),
        ("80gb", 1, "GPU", 80 << 10),
    ],
)
def test_gpus_are_a_number_and_a_kind(text: str, count: int, name: str, mib: int) -> None:
    assert imagined_gpus(text) == (count, Device(name, mib << 20, is_gpu=True))


def test_no_gpu_is_this_computer() -> None:
    assert imagined_gpus("0") == (0, find_device("cpu"))


@pytest.mark.parametrize(
    "text", ["", "8", "8x", "x", "H1000x", "0xH100", "0x24GB", "2x0GB", "-1xH100", "8xMI300X", "two"]
)
def test_what_is_no_gpu_is_an_error_that_names_the_kinds(text: str) -> None:
    with pytest.raises(OptionError, match=r"--gpus '.*' is not a number of GPUs and a kind") as raised:
        imagined_gpus(text)
    assert "did you mean" in str(raised.value) or all(kind in str(raised.value) for kind in MEMORY)


def test_a_misspelt_gpu_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean H100"):
        imagined_gpus("8xH10O")


def test_every_gpu_whose_speed_is_known_has_a_known_memory() -> None:
    assert PEAK.keys() <= MEMORY.keys()


# Models


def test_a_model_that_is_not_known_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="memory of the teacher somebody/something cannot be computed") as raised:
        advice(asked("8xH100", teacher="somebody/something"))
    assert "hf download NAME config.json --local-dir DIR" in str(raised.value)
    assert TEACHER in str(raised.value)


def test_a_directory_with_a_configuration_is_enough(teacher: Path, tmp_path: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40_960}))
    text = advice(asked("1x24GB", student=str(tmp_path), teacher=None))
    assert "student " in text
    assert rows(text)["1 GPU"][-1] == "*"


def test_what_is_longer_than_the_models_positions_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"the student has 40,960 positions\. Lower --max-tokens"):
        advice(asked("8xH100", max_tokens=41_000))


def test_default_lengths_are_capped_at_the_positions_as_a_run_caps_them(teacher: Path) -> None:
    capped = advice(PlanOptions(student=teacher, gpus="1x24GB"), WIDE)
    line = "1,024 tokens at most: a prompt of 512 and a response of 512; the defaults exceed the positions of the model"
    assert line in capped
    options = options_of(commands(capped)[-1])
    assert (options.rollout.max_tokens, options.rollout.max_prompt_tokens) == (512, 512)
    with pytest.raises(OptionError, match="Lower --max-tokens"):
        advice(asked("1x24GB", student=str(teacher), teacher=None))


# Ways


def test_the_papers_case_on_eight_large_gpus() -> None:
    text = advice(asked("8xH100"), WIDE)
    table = rows(text)
    assert list(table) == [
        "8 processes",
        "8, teacher sharded",
        "7 + 1 for teacher",
        "1 + 1 for vLLM",
        "1 + 1 for teacher",
        "1 + 1 vLLM, 8-bit",
        "1 + 1 teacher, 8-bit",
        "1 GPU",
        "1 GPU, checkpointing",
        "1 GPU, 8-bit AdamW",
        "1 GPU, LoRA",
    ]
    # Hand-worked, in GiB: 2 x 1.72e9 / 2^30; 16 x 1.72e9 / 8 / 2^30; 2 x 4.02e9 / 2^30; 0.4 x 81,559 MiB.
    assert table["8 processes"][:4] == ["3.2", "3.2", "7.5", "32"]
    assert table["8 processes"][-1] == "*"
    assert table["8, teacher sharded"][2] == "0.94"
    assert table["1 + 1 for teacher"][2] == "-"
    assert table["1 GPU"][-1] == "no"
    assert "not computed; with verl: docs/verl.md" in text


@pytest.mark.parametrize(
    ("gpus", "student", "teacher", "best"),
    [
        ("8xH100", STUDENT, TEACHER, "8 processes"),
        ("8xH100", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "1 GPU, LoRA"),
        ("1x80GB", STUDENT, TEACHER, "1 GPU, checkpointing"),
        ("4090", "Qwen/Qwen3-0.6B", TEACHER, "1 GPU, 8-bit AdamW"),
        ("2x24GB", STUDENT, TEACHER, "1 GPU, LoRA"),
        ("2xH100", "Qwen/Qwen3-4B", "Qwen/Qwen3-14B", "1 + 1 teacher, 8-bit"),
        ("4090", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", None),
    ],
)
def test_the_fastest_way_that_fits_and_changes_least_is_the_best(
    gpus: str, student: str, teacher: str, best: str | None
) -> None:
    marks = {name: cells[6:] for name, cells in rows(advice(asked(gpus, student, teacher), WIDE)).items()}
    assert [name for name, mark in marks.items() if mark == ["*"]] == ([best] if best else [])


@pytest.mark.parametrize("gpus", ["8xH100", "2x24GB", "1x80GB", "1x16GB", "0"])
@pytest.mark.parametrize("teacher", [TEACHER, None])
def test_what_a_way_holds_is_that_of_the_options_as_they_are_typed(gpus: str, teacher: str | None) -> None:
    case = Case.of(asked(gpus, teacher=teacher))
    lines = advice(case.asked, WIDE).splitlines()
    [base] = [line.removeprefix("common   sod train ") for line in lines if line.startswith("common")]
    start = next(number for number, line in enumerate(lines) if line.startswith("options"))
    for line, each in zip(lines[start:], case.sized(), strict=False):
        own = re.sub(r".*?\d  +(torchrun .* \.\.\. )?(nothing)?", "", line)
        options = options_of(["train", *shlex.split(base), *shlex.split(own)])
        memory = device.memory if (device := case.device).is_gpu else None
        held = memory_of_training(options, case.student, case.teachers, memory, processes=options.processes or 1)
        assert held == each.memory, each.way.name


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver tells of one H100."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "NVIDIA H100 80GB HBM3, 81559"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")


@pytest.mark.usefixtures("gpu")
def test_the_command_that_is_shown_runs_dry_with_the_same_numbers(problem_file: Path) -> None:
    text = advice(asked("8xH100"), WIDE)
    [command] = commands(text)
    assert command[:6] == ["torchrun", "--nproc-per-node", "8", "-m", "sod", "train"]
    options = options_of(command).model_copy(update={"data": problem_file})
    dry = plan(options, WIDE)
    parts = text[text.index("\nmemory") :].partition("\ntraffic")[0].splitlines()
    sizes = [line.strip() for line in parts if "GiB  " in line or "MiB  " in line]
    for size in sizes:
        assert size.removeprefix("memory").strip() in dry
    assert "fits into 80 GiB" in dry
    assert text[text.index("\ntraffic") :].strip().splitlines()[0] in dry


def test_a_way_with_a_server_says_how_to_start_it_and_who_has_which_gpu() -> None:
    text = advice(asked("2xH100", "Qwen/Qwen3-4B", "Qwen/Qwen3-14B"), WIDE)
    server, train = commands(text)
    assert server[:4] == ["CUDA_VISIBLE_DEVICES=1", "vllm", "serve", "Qwen/Qwen3-14B"]
    assert server[server.index("--max-model-len") + 1] == "23041"  # and the token that vLLM insists on writing
    assert train[0] == "CUDA_VISIBLE_DEVICES=0"
    options = options_of(train)
    assert (options.processes, options.score.teacher_url) == (None, "http://127.0.0.1:8001")


def test_no_more_processes_than_problems_of_an_update() -> None:
    text = advice(asked("128xH100"), WIDE)
    assert list(rows(text))[:3] == ["64 processes", "64, teacher sharded", "64 + 1 for teacher"]
    assert "64 GPUs sample, score and train, one for each problem of an update (rollout.problems)" in text
    [command] = commands(text)
    options = options_of(command)
    assert options.processes == options.rollout.problems == 64
    assert list(rows(advice(asked("65xH100"), WIDE)))[:3] == list(rows(text))[:3]
    assert "63 + 1 for teacher" in rows(advice(asked("64xH100"), WIDE))


def test_gpus_are_taken_to_be_in_one_machine_and_it_is_said() -> None:
    few, many, alone = (advice(asked(gpus), WIDE) for gpus in ("8xH100", "9xH100", "1xH100"))
    assert "8 x H100 of 80 GiB in one machine" in few
    assert "few have more than 8 GPUs. For several nodes: docs/verl.md." in many
    assert "few have more than 8" not in few
    assert "in one machine" not in alone


def test_what_is_said_of_lora_is_true_of_what_was_computed() -> None:
    text = advice(asked("2x24GB"), WIDE)
    *above, (lora, cells) = rows(text).items()
    assert (lora, cells[-1]) == ("1 GPU, LoRA", "*")
    assert {marks[-1] for _, marks in above} == {"no"}
    assert "no set-up that trains all weights fits" in text


def test_vllm_is_given_what_is_left_and_never_less_than_a_trajectory() -> None:
    for gpus in ("1x24GB", "1x32GB", "1x48GB", "1x80GB"):
        case = Case.of(asked(gpus))
        for each in case.sized():
            [(name, size)] = each.memory["sampler"].items()
            room = re.search(r"keys and values of ([\d.]+) x 23,040 tokens", name)
            assert room
            assert float(room[1]) >= 1
            assert size == round(each.changes.get("engine.memory_share", 0.4) * case.device.memory)


def test_where_nothing_fits_shorter_responses_are_proposed_and_they_do() -> None:
    text = advice(asked("1x20GB"), WIDE)
    assert not [name for name, cells in rows(text).items() if cells[-1] == "*"]
    [command] = re.findall(r"\$ sod plan (.*)$", text, re.MULTILINE)
    again = parse("plan", "PlanOptions", shlex.split(command))
    assert again.max_tokens < 20_480
    assert [name for name, cells in rows(advice(again, WIDE)).items() if cells[-1] == "*"]


def test_on_this_computer_there_are_no_gpus_to_speak_of() -> None:
    text = advice(asked("0", "Qwen/Qwen3-0.6B", None), WIDE)
    assert list(rows(text)) == ["CPU", "CPU, bfloat16", "CPU, LoRA"]
    assert "the fullest GPU" not in text
    assert "verl" not in text
    assert "--network.device cpu" in text


# The command


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("gpus", ["8xH100", "2x24GB", "0"])
def test_it_is_readable_in_a_terminal(gpus: str, width: int) -> None:
    text = advice(asked(gpus), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.replace("\\\n", "\n").split() == advice(asked(gpus), WIDE).split()
    assert rows(text) == rows(advice(asked(gpus), WIDE))


def test_the_command_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert sod(["plan", STUDENT, TEACHER, "--gpus", "8xH100", "--max-tokens", "20480"]) == 0
    out, err = capsys.readouterr()
    assert "choice   1, 8 processes: every GPU samples, scores and trains" in out
    assert not err
    assert sod(["plan", STUDENT, "--gpus", "8xH1000"]) == 2
    assert "did you mean H100?" in capsys.readouterr().err


def test_planning_needs_no_torch() -> None:
    code = f"""
import sys
from pathlib import Path
from sod.config import PlanOptions
from sod.planning.plan import advice
advice(PlanOptions(student=Path({STUDENT!r}), gpus="8xH100"))
print([name for name in ("torch", "transformers", "numpy") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


def test_the_documentation_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert f"{advice(asked('8xH100'), 100)}\n```" in page


# Time


def test_an_update_is_estimated_from_the_tabled_rates() -> None:
    case = Case.of(asked("1xH100"))
    [each] = [each for each in case.sized() if each.way.name == "1 GPU, checkpointing"]
    seconds = each.seconds
    assert seconds is not None
    # Hand-worked: 1,024 trajectories of 5,760 tokens; four forward passes for learning at 30 % of 989 TFLOP/s.
    forward = forward_operations(case.student, 1024 * 5760, 5760)
    assert seconds["learn"] == pytest.approx(4 * forward / (0.3 * 989e12))
    assert seconds["score"] > forward / (0.4 * 989e12)
    assert seconds["exchange"] == pytest.approx(2 * 2 * case.student.parameters / 1e9)
    assert sum(seconds.values()) == each.estimate


def test_a_batch_sampled_ahead_on_another_gpu_costs_what_learning_does_not_hide() -> None:
    case = Case.of(asked("2xH100"))
    [each] = [each for each in case.sized() if each.way.name == "1 + 1 for vLLM"]
    usual = train_options(case.base | each.changes)
    ahead = train_options(case.base | each.changes | {"rollout.ahead": 1})
    now, then = (
        seconds_of_update(options, case.student, case.teachers[0], case.device, 1) for options in (usual, ahead)
    )
    assert now is not None
    assert then is not None
    assert then["sample"] == pytest.approx(max(0, now["sample"] - now["score"] - now["learn"]))
    assert then["sample"] < now["sample"]
    assert then["learn"] == now["learn"]
    here = train_options(case.base | {"rollout.ahead": 1})  # one GPU does both
    assert seconds_of_update(here, case.student, case.teachers[0], case.device, 1) == seconds_of_update(
        train_options(case.base), case.student, case.teachers[0], case.device, 1
    )


def test_more_room_for_keys_and_a_faster_memory_sample_faster() -> None:
    by_gpu = {gpu: {each.way.name: each for each in Case.of(asked(gpu)).sized()} for gpu in ("1xH100", "1xH200")}
    slow, fast = (by_gpu[gpu]["1 GPU, LoRA"].seconds for gpu in by_gpu)
    assert slow is not None
    assert fast is not None
    assert fast["sample"] < slow["sample"]
    assert fast["learn"] == slow["learn"]


def test_the_sampler_keeps_its_room_where_checkpointing_makes_it_possible() -> None:
    text = advice(asked("1xH100", "Qwen/Qwen3-0.6B"), WIDE)
    [command] = commands(text)
    options = options_of(command)
    assert options.learn.checkpointing
    assert options.engine.memory_share >= 0.4


def test_a_price_gives_the_cost_of_the_gpus_in_use() -> None:
    options = asked("2xH100").model_copy(update={"price": 3.0})
    text = advice(options, WIDE)
    best = next(each for each in Case.of(options).sized() if each.way.name == "2 processes")
    assert f"cost {3 * 2 * best.estimate * 150 / 3600:,.0f}" in text
    assert "cost" not in advice(asked("2xH100"), WIDE)


def test_an_unknown_gpu_has_no_estimate_and_it_is_said() -> None:
    assert "not estimated: the speed of this device is not tabled" in advice(asked("1x80GB"), WIDE)


def test_every_gpu_with_a_speed_has_a_bandwidth() -> None:
    assert PEAK.keys() <= BANDWIDTH.keys() <= MEMORY.keys()


def test_a_run_compares_the_estimate_with_what_it_measured() -> None:
    estimated = {"sample": 60.0, "score": 10.0, "learn": 30.0, "exchange": 2.0}
    measured = {"seconds/sample": 150.0, "seconds/score": 30.0, "seconds/learn": 60.0, "seconds/sync": 4.0}
    line = compared(estimated, measured, 10)
    assert "sample 60 seconds -> 2.0 minutes" in line
    assert "36 minutes for the 10 updates that are left" in line
    without = compared(None, measured, 10)  # on a CPU
    assert "sample 2.0 minutes, score 30 seconds, learn 60 seconds, exchange 4.0 seconds; in all 3.6 minutes" in without
    assert without.endswith("36 minutes for the 10 updates that are left")
    assert "estimated" not in without


# Several teachers

SEVERAL = ("math=Qwen/Qwen3-4B", "code=Qwen/Qwen3-8B", "*=Qwen/Qwen3-4B")


def several(gpus: str) -> PlanOptions:
    return PlanOptions(student=Path(STUDENT), teachers=SEVERAL, gpus=gpus, max_tokens=2048)


def test_several_teachers_take_the_sum_of_their_weights_each_model_once() -> None:
    text = advice(several("1x80GB"), WIDE)
    each = [advice(asked("1x80GB", teacher=name, max_tokens=2048), WIDE) for name in ("Qwen/Qwen3-4B", "Qwen/Qwen3-8B")]
    sums = [float(rows(one)["1 GPU"][2]) for one in each]
    assert float(rows(text)["1 GPU"][2]) == pytest.approx(sum(sums), abs=1)
    assert text.count("weights\n") == 3, "the student and two models"
    command = options_of(commands(text)[-1])
    assert command.teachers == SEVERAL
    assert command.teacher is None


def test_several_teachers_are_on_the_gpu_in_turn_where_memory_is_short_and_never_on_one_server() -> None:
    text = advice(several("1x48GB"), WIDE)
    best = options_of(commands(text)[-1])
    assert best.score.offload_teacher
    assert rows(text)["1 GPU"][-1] == "no"
    assert (
        "23 GiB  of the computer's memory in addition, in each process: the teacher's weights, each on the GPU in"
        in text
    )
    assert "teacher-url" not in advice(several("4x80GB"), WIDE)


def test_teachers_on_servers_are_not_counted_and_how_to_start_each_is_shown() -> None:
    urls = ("math=http://10.0.0.1:8001", "code=http://10.0.0.2:8002#coder")
    teachers = ("math=Qwen/Qwen3-8B", "code=Qwen/Qwen3-8B", "*=Qwen/Qwen3-4B")
    asked = PlanOptions.model_validate(
        {
            "student": STUDENT,
            "teachers": teachers,
            "gpus": "1x80GB",
            "max_tokens": 2048,
            "score": {"teacher_urls": urls},
        }
    )
    case = Case.of(asked)
    one = Case.of(PlanOptions(student=Path(STUDENT), teacher=Path("Qwen/Qwen3-4B"), gpus="1x80GB", max_tokens=2048))
    for each, expected in zip(case.sized(), one.sized(), strict=True):
        assert each.whole == expected.whole
    text = advice(asked, WIDE)
    for url in ("http://10.0.0.1:8001", "http://10.0.0.2:8002"):
        assert f"8.19 billion weights, on the server {url}; its memory is not counted" in text
    assert "$ vllm serve Qwen/Qwen3-8B --served-model-name coder --dtype bfloat16 --max-model-len 4609" in text
    assert "estimated per update, if a server scores every trajectory: " in text
    assert options_of(commands(text)[-1]).score.teacher_urls == urls


@pytest.mark.parametrize(
    ("url", "words"),
    [("math=ftp://a", "is not the address"), ("code=http://a", "no key"), ("math=http://b", "two servers")],
)
def test_servers_of_teachers_that_cannot_be_planned_with_are_refused(url: str, words: str) -> None:
    score = {"teacher_urls": ("math=http://a", url) if words == "two servers" else (url,)}
    with pytest.raises(OptionError, match=words):
        advice(PlanOptions.model_validate({"student": STUDENT, "teachers": ("math=Qwen/Qwen3-8B",), "score": score}))


def test_one_teacher_and_several_are_refused_together() -> None:
    with pytest.raises(OptionError, match="both name a teacher"):
        advice(several("1x80GB").model_copy(update={"teacher": Path(TEACHER)}))
