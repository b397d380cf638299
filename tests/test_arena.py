"""The arena: halving, shards, corrected p-values, power; and a whole arena of tiny models."""

import asyncio
import json
import math
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confining import CONFINABLE
from warm import Warm

from sod.compare.arena.command import checked, run_arena
from sod.compare.arena.plan import (
    ALWAYS,
    CANDIDATES,
    CONTROLS,
    FINAL,
    SCREENING_SEED,
    Shard,
    cells,
    rounds,
    seconds_of_cell,
    survivors,
    tied,
    units,
)
from sod.compare.arena.results import pairs, standing_of
from sod.compare.jobs import Commands
from sod.config import CompareOptions
from sod.config.recipes import to_toml
from sod.credit.systems import SYSTEMS
from sod.errors import OptionError, RunError, TrainingError, UnfinishedError
from sod.evaluation.intervals import Interval, Solved
from sod.evaluation.significance import Noise, holm, noise_of, p_value, smallest_difference
from sod.lab.arena import settings_of_world
from sod.runs.files import write_whole

# The plan


def test_every_system_with_a_teacher_of_its_own_is_a_candidate_or_always_there() -> None:
    given = {*CANDIDATES, *ALWAYS, *CONTROLS}
    assert len(given) == len(CANDIDATES) + len(ALWAYS) + len(CONTROLS)
    assert {name for name in SYSTEMS if name not in given} == {
        *("sod_uniform", "opsd_gt", "opsd_hint", "opsd_unrelated")
    }


def test_each_round_drops_half_and_has_twice_the_updates_and_a_seed_more() -> None:
    planned = rounds(44, 10, 1, 10)
    assert [(each.candidates, each.kept, len(each.seeds), each.updates) for each in planned] == [
        (44, 22, 1, 10),
        (22, 10, 2, 20),
    ]
    assert rounds(10, 10, 1, 10) == []
    assert [each.kept for each in rounds(5, 1, 2, 3)] == [3, 2, 1]


def test_no_seed_is_used_twice() -> None:
    seeds = [seed for each in rounds(44, 3, 4, 10) for seed in each.seeds]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) > SCREENING_SEED


def test_the_best_survive_and_ties_at_the_border_are_named() -> None:
    rates = {"a": 0.1, "b": 0.3, "c": 0.2, "d": 0.2}
    assert survivors(rates, 2) == ["b", "c"]
    assert tied(rates, 2) == ["c", "d"]
    assert tied(rates, 1) == tied(rates, 3) == tied(rates, 4) == []


@pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("stage", ["round-1", FINAL])
def test_shards_are_disjoint_complete_and_the_same_every_time(stage: str, count: int) -> None:
    planned = cells(("usual", "short"), ("sod", "opd", "grpo", "prefix"), (0, 1, 2), 10)
    shares = [Shard(number, count).share(units(stage, planned)) for number in range(1, count + 1)]
    assert shares == [Shard.parse(f"{number}/{count}").share(units(stage, planned)) for number in range(1, count + 1)]
    found = [cell for share in shares for unit in share for cell in unit]
    assert sorted(found, key=repr) == sorted(planned, key=repr)
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= (1 if stage != FINAL else 3)


def test_seeds_of_a_finalist_stay_in_one_shard_because_they_share_its_learning_rate() -> None:
    planned = cells(("usual", "short"), ("sod", "opd"), (0, 1), 10)
    for unit in units(FINAL, planned):
        assert len({(cell.system, cell.start) for cell in unit}) == 1
        assert [cell.seed for cell in unit] == [0, 1]


def test_a_shard_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionError, match=r"--shard is 3/2\. The first number must be at most the second"):
        Shard.parse("3/2")


def test_the_time_of_a_cell_is_measured_or_proportional_to_its_updates() -> None:
    assert seconds_of_cell([], 10) is None
    assert seconds_of_cell([(10, 30.0), (10, 50.0), (20, 1000.0)], 10) == 40.0
    assert seconds_of_cell([(10, 30.0), (10, 50.0)], 40) == 160.0


def test_each_pair_is_tested_once() -> None:
    assert pairs(["opd", "sod", "grpo"], "opd") == [("sod", "opd"), ("grpo", "opd"), ("grpo", "sod")]
    assert pairs(["sod", "grpo"], "sod") == [("grpo", "sod")]


# Statistics


def test_holms_correction_of_worked_numbers() -> None:
    # Holm (1979): 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04; each at least as large as the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    corrected = holm([0.01, math.nan])
    assert corrected[0] == 0.02  # what could not be tested still counts
    assert math.isnan(corrected[1])


def drawn(rng: np.random.Generator, runs: int, problems: int, samples: int, shift: float, noise: Noise) -> Solved:
    """Draw counts of a system whose solve rate varies between runs and problems, around one half plus `shift`."""
    rates = 0.5 + shift + rng.normal(0, noise.seeds, (runs, 1)) + rng.normal(0, noise.problems, (1, problems))
    tried = np.full((runs, problems), samples)
    return Solved(rng.binomial(samples, np.clip(rates, 0, 1)), tried)


def still(rng: np.random.Generator, runs: int, problems: int, samples: int) -> Solved:
    """Draw counts of a system whose solve rate is one half everywhere."""
    return drawn(rng, runs, problems, samples, 0.0, Noise(0.0, 0.0))


def test_equal_systems_seldom_have_a_small_p_value() -> None:
    rng = np.random.default_rng(1)
    noise = Noise(0.03, 0.05)
    found = [p_value(drawn(rng, 6, 40, 4, 0.0, noise), still(rng, 6, 40, 4)) for _ in range(150)]
    assert sum(p < 0.05 for p in found) <= 150 * 0.05 + 5
    assert min(found) > 0


def test_a_large_difference_has_a_small_p_value_and_the_same_system_has_one() -> None:
    rng = np.random.default_rng(2)
    one, other = drawn(rng, 10, 100, 4, 0.2, Noise(0.01, 0.05)), still(rng, 10, 100, 4)
    assert p_value(one, other) == p_value(other, one) < 0.001
    assert p_value(one, one) == 1.0


def test_the_power_is_that_of_a_simulation() -> None:
    runs, problems, samples, comparisons, noise = 10, 60, 4, 5, Noise(0.03, 0.1)
    shift = smallest_difference(problems, samples, runs, comparisons, noise)
    rng = np.random.default_rng(3)
    found = [
        p_value(drawn(rng, runs, problems, samples, shift, noise), still(rng, runs, problems, samples))
        for _ in range(100)
    ]
    assert 70 <= sum(p < 0.05 / comparisons for p in found) <= 92


def test_more_of_anything_but_comparisons_shows_smaller_differences() -> None:
    noise = Noise(0.02, 0.1)
    known = smallest_difference(200, 4, 10, 35, noise)
    assert smallest_difference(400, 4, 10, 35, noise) < known
    assert smallest_difference(200, 8, 10, 35, noise) < known
    assert smallest_difference(200, 4, 20, 35, noise) < known
    assert smallest_difference(200, 4, 10, 70, noise) > known


def test_the_noise_is_found_again_without_the_chance_in_the_samples() -> None:
    rng = np.random.default_rng(4)
    found = [noise_of(drawn(rng, 20, 200, 4, 0.0, Noise(0.05, 0.1)), still(rng, 20, 200, 4)) for _ in range(10)]
    assert np.mean([each.seeds for each in found]) == pytest.approx(0.05, rel=0.2)
    assert np.mean([each.problems for each in found]) == pytest.approx(0.1, rel=0.2)
    quiet = noise_of(still(rng, 20, 200, 4), still(rng, 20, 200, 4))
    assert quiet.seeds < 0.02


def test_a_verdict_needs_a_corrected_p_value_below_one_in_twenty() -> None:
    up, down = Interval(0.1, 0.05, 0.15), Interval(-0.1, -0.15, -0.05)
    assert (standing_of(up, 0.04), standing_of(down, 0.04)) == ("better", "worse")
    assert standing_of(up, 0.06) == standing_of(up, math.nan) == "not told apart"


# A whole arena


class WarmCommands(Commands):
    """Commands in processes that start warm."""

    async def run(self, command: str, recipe: Path, content: dict[str, Any], *, name: str = "") -> None:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        write_whole(recipe, to_toml(content))
        process = Warm(["-m", "sod", command, str(recipe)])
        try:
            while process.poll() is None:
                await asyncio.sleep(0.02)
        finally:
            process.send(signal.SIGTERM)
            ended = process.wait()
        if ended.returncode:
            raise TrainingError(f"{name}: {ended.stderr}")


ARENA: dict[str, Any] = {
    "worlds": ["sums"], "starts": ["usual"], "finalists": 1, "screen_updates": 1, "demonstrations": 8, "train_problems": 4,
    "eval_problems": 12,
}  # fmt: skip


def tiny(folder: Path, **fields: Any) -> CompareOptions:
    """Two candidates, one update of four trajectories. The paths are relative, as on several machines."""
    (folder / "train.toml").write_text(to_toml({"rollout": {"problems": 2, "group": 2, "max_turns": 2}}))
    (folder / "measure.toml").write_text(to_toml({"samples": 1, "rollout": {"max_turns": 2}}))
    arena = ARENA | fields.pop("arena", {})
    return CompareOptions.model_validate(
        {
            "preset": "arena", "out": "arena", "train": "train.toml", "measure": "measure.toml", "control": False,
            "methods": ["prefix", "per_prompt"], "seeds": [0, 1], "updates": 1, "lrs": [1e-3], "jobs": 2, "arena": arena,
            "sandbox": {"workers": 1} if CONFINABLE else {"backend": "unsafe_subprocess", "workers": 1},
        }
        | fields
    )  # fmt: skip


def run_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.chdir(folder)
    run_arena(tiny(folder, **fields), lambda: WarmCommands(2))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        run_in(folder, patch, arena={"prepare": True})
    return folder


def without_time(content: Any) -> Any:
    match content:
        case dict():
            return {key: without_time(value) for key, value in content.items() if key != "seconds"}
        case list():
            return [without_time(value) for value in content]
        case _:
            return content


@pytest.mark.slow
def test_two_shards_that_are_merged_give_what_one_call_gives(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, one, other = (shutil.copytree(prepared, tmp_path / name) for name in ("whole", "one", "other"))
    with pytest.raises(UnfinishedError, match=r"The time of --hours is over\. sums, round-1 has 0 of 2 cells"):
        run_in(whole, monkeypatch, hours=1e-9)
    run_in(whole, monkeypatch)
    said = capsys.readouterr().out
    assert said.index("with a power of 80 %") < said.index("measured:")
    for stage in ("round-1", "final"):
        for folder, number in ((one, 1), (other, 2)):
            with pytest.raises(UnfinishedError, match=f"{stage}: the part of shard {number}/2 is done. [0-9]+ cells"):
                run_in(folder, monkeypatch, shard=f"{number}/2")
        trained = [sorted(path.relative_to(f) for path in f.glob(f"*/*/{stage}/*/cells/*/*")) for f in (one, other)]
        assert all(trained)
        assert not set(trained[0]) & set(trained[1])
        for source, target in ((one, other), (other, one)):
            shutil.copytree(source / "arena", target / "arena", dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in one.glob("arena/sums/final/*/cells/*/*/eval/results.json")}
    run_in(one, monkeypatch)
    assert before == {path: path.stat().st_mtime_ns for path in before}  # the last call only computes
    results = [json.loads((folder / "arena" / "sums" / "results.json").read_text()) for folder in (whole, one)]
    assert without_time(results[0]) == without_time(results[1])
    weights = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.glob("arena/*/*/*/cells/*/*/train/checkpoints/*/*.safetensors")
        }
        for folder in (whole, one)
    ]
    assert len(weights[0]) == 10
    assert weights[0] == weights[1]
    check(results[0], whole / "arena" / "sums")


def check(results: dict[str, Any], folder: Path) -> None:
    kept = results["plan"]["rounds"][0]["kept"]
    assert sorted(row["system"] for row in results["rows"]) == sorted(["sod", "opd", "grpo", *kept])
    assert results["comparisons"] == 5
    assert all(len(row["runs"]) == 2 for row in results["rows"])
    against = {row["system"]: set(row["against"]) for row in results["rows"]}
    assert against == {"opd": set(), "sod": {"opd"}, "grpo": {"opd", "sod"}, kept[0]: {"opd", "sod"}}
    assert results["starts"]["usual"]["teacher"]["mean"] >= results["starts"]["usual"]["start"]["mean"]
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "Holm's method for 5 comparisons" in (folder / "table.md").read_text()
    rates = {folder.name: folder for folder in folder.glob("round-1/usual/cells/*")}
    assert set(rates) == {"prefix", "per_prompt"}


@pytest.mark.slow
def test_sigterm_saves_the_update_and_the_same_command_continues(prepared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared, tmp_path / "killed")
    recipe = json.loads(tiny(folder, updates=200).model_dump_json(exclude_unset=True))
    recipe["arena"]["screen_updates"], recipe["jobs"] = 200, 1
    (folder / "arena.toml").write_text(to_toml(recipe))
    (folder / "arena" / "plan.json").unlink()  # the updates of the screening are other ones
    process = Warm(["-m", "sod", "compare", "arena.toml"], cwd=folder)
    try:
        metrics = folder.glob("arena/sums/round-1/usual/cells/*/*/train/metrics.jsonl")
        while process.poll() is None and not any(path.stat().st_size for path in metrics):
            time.sleep(0.1)
            metrics = folder.glob("arena/sums/round-1/usual/cells/*/*/train/metrics.jsonl")
    finally:
        process.send(signal.SIGTERM)
        ended = process.wait()
    assert ended.returncode == 75, ended.stderr
    assert "to continue: sod compare arena.toml" in ended.stderr
    (run,) = folder.glob("arena/sums/round-1/usual/cells/*/*/train")
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert (run / "checkpoints" / f"update-{done:04}").is_dir()
    assert json.loads((run.parent / "seconds.json").read_text())["seconds"] > 0


@pytest.mark.slow
def test_other_options_in_the_same_directory_are_refused(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(prepared, tmp_path / "other")
    with pytest.raises(RunError, match=r"other options: arena.finalists differ"):
        run_in(folder, monkeypatch, arena={"finalists": 2})


@pytest.mark.slow
def test_problems_made_elsewhere_in_another_number_are_refused(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Path("arena", "sums", "lab")
    shutil.copytree(prepared / lab, tmp_path / lab)
    with pytest.raises(
        OptionError, match=r"eval.jsonl has 12 problems instead of 20. Type --arena.eval-problems 12, or"
    ):
        run_in(tmp_path, monkeypatch, arena={"eval_problems": 20})


def test_screening_has_no_evaluation_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sod.compare.arena.world import ArenaWorld

    monkeypatch.chdir(tmp_path)
    options = checked(tiny(tmp_path))
    world = ArenaWorld(options, "sums", settings_of_world(options, "sums"))
    stage, final = world.screening(world.rounds[0], world.candidates), world.final(world.always)
    assert [each.measure["data"].name for each in stage.comparisons.values()] == ["tune.jsonl"]
    assert [each.measure["data"].name for each in final.comparisons.values()] == ["eval.jsonl"]
    rates = {
        m.name: stage.comparisons["usual"].recipe(m, 0, tmp_path)["algorithm"].get("teacher_rates")
        for m in stage.comparisons["usual"].methods
    }
    assert rates == {"prefix": None, "per_prompt": Path("arena/sums/lab/teacher-rates")}


def test_a_dry_run_prints_the_plan_and_the_power_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = tiny(
        tmp_path, dry_run=True, methods=(), control=True, arena={"finalists": 10, "starts": ["usual", "short"]}
    )
    run_arena(options)
    said = capsys.readouterr().out
    assert "46 systems x 2 starts x 1 seeds x 1 updates, 23 kept" in said
    assert "finals of 19 systems x 2 starts x 2 seeds x 1 updates" in said
    assert "12 problems x 1 samples, 4 runs, 35 comparisons" in said
    assert not (tmp_path / "arena").exists()


def test_five_seeds_are_the_default_of_an_arena(tmp_path: Path) -> None:
    assert checked(CompareOptions(preset="arena", out=tmp_path)).seeds == (0, 1, 2, 3, 4)
    assert checked(CompareOptions(preset="arena", out=tmp_path, seeds=(7,))).seeds == (7,)


def test_hours_and_shards_belong_to_an_arena(tmp_path: Path) -> None:
    from sod.compare.command import compare

    with pytest.raises(OptionError, match="belong to --preset arena"):
        compare(CompareOptions(out=tmp_path / "out", preset="demo", hours=1.0))
    with pytest.raises(OptionError, match="its own tuning problems"):
        compare(CompareOptions(out=tmp_path / "out", preset="arena", tune=tmp_path))
