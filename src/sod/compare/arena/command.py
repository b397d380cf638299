"""The command `sod compare --preset arena`: its options, its plan file, and the worlds one after the other."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from sod.compare.arena.plan import CANDIDATES, Shard
from sod.compare.arena.running import OutOfTime, TimeLimit, WorldRun
from sod.compare.arena.world import ArenaWorld
from sod.compare.jobs import Commands
from sod.config import CompareOptions
from sod.config.lab import World
from sod.console.progress import echo
from sod.errors import OptionError, RunError, TrainingError, UnfinishedError
from sod.lab.arena import is_prepared, prepare_world, settings_of_world
from sod.lab.make import make_folder
from sod.planning.text import Text, columns
from sod.runs.directory import Run
from sod.runs.files import to_json, write_json
from sod.runs.locks import LOCK_FILE
from sod.sandbox.retries import open_sandbox

SEEDS = (0, 1, 2, 3, 4)
"""Training seeds of the finals, unless others are given."""
WORLDS_OF_ARENA = get_args(World)
PLAN_FILE = "plan.json"


def run_arena(options: CompareOptions, commands: Callable[[], Commands] | None = None) -> None:
    """Do what is left of this shard of the arena, world by world.

    `commands` creates the pool of processes of a stage. Default: --jobs processes with one thread each.

    Raise UnfinishedError if the time is over, or if cells of other shards are missing. Raise TrainingError if a cell failed.
    """
    options = checked(options)
    shard = Shard.parse(options.shard)
    open_sandbox(options.sandbox)
    _check_place(options)
    if options.dry_run:
        worlds = [ArenaWorld(options, world, settings_of_world(options, world)) for world in options.arena.worlds]
        echo(_dry_run(options, worlds))
        return
    clock = TimeLimit(options.hours)
    make_folder(options.out)
    names = options.arena.worlds
    if not ((options.out / PLAN_FILE).exists() and all(is_prepared(options, name) for name in names)):
        with Run(options.out).held():
            _keep_plan(options)
            for name in names:
                prepare_world(options, name)
    worlds = [ArenaWorld(options, name, settings_of_world(options, name)) for name in names]
    _keep_plan(options, [world.plan for world in worlds])
    if options.arena.prepare:
        echo(f"The worlds are in {options.out}. Run the command again without --arena.prepare to compare in them.")
        return
    for world in worlds:
        echo(world.plan_text)
        echo(world.power())
        for name, why in world.refused.items():
            echo(f"{world.name}: {name} is left out: {why}")
    pool = commands or (lambda: Commands(options.jobs, threads=1))
    with Run(options.out / "shards" / shard.name if shard.count > 1 else options.out).held():
        _run([WorldRun(world, shard, clock, pool) for world in worlds])


def _run(worlds: list[WorldRun]) -> None:
    """Run the worlds one after the other, also if one of them waits or has failed cells. Raise what is left at the end."""
    failed: list[str] = []
    left: list[str] = []
    for world in worlds:
        try:
            world.run()
        except OutOfTime as error:
            left.append(str(error))
            break
        except UnfinishedError as error:
            left.append(str(error))
        except TrainingError as error:
            failed.append(str(error))
    if failed:
        raise TrainingError("\n".join(failed + left))
    if left:
        raise UnfinishedError("\n".join(left))


def checked(options: CompareOptions) -> CompareOptions:
    """Return the options with the arena's defaults. Raise OptionError for those that an arena does not have."""
    if options.tune is not None:
        raise OptionError(
            "--tune has no effect with --preset arena: each world has its own tuning problems. Leave it out."
        )
    changes: dict[str, object] = {} if "seeds" in options.model_fields_set else {"seeds": SEEDS}
    if not options.methods:
        changes["methods"] = CANDIDATES
    if options.baseline is None:
        changes["baseline"] = "opd"
    return options.model_copy(update=changes)


def _frozen(options: CompareOptions) -> dict[str, Any]:
    """Return the options that all calls in one directory must share."""
    arena = options.arena.model_dump(exclude={"worlds", "prepare", "seed_spread", "problem_spread"}, mode="json")
    return {f"arena.{key}": value for key, value in arena.items()} | {"lab_seed": options.lab_seed}


def _keep_plan(options: CompareOptions, worlds: Sequence[dict[str, Any]] = ()) -> None:
    """Write plan.json. Raise RunError if the directory has a plan with other options."""
    path, frozen = options.out / PLAN_FILE, _frozen(options)
    before = _plan_before(path) if path.exists() else {"options": frozen}
    if changed := [key for key, value in frozen.items() if value != before["options"].get(key)]:
        raise RunError(
            f"{options.out} holds an arena with other options: {', '.join(changed)} differ, see {path}. Only worlds, methods and "
            "seeds can be added. Choose another --out."
        )
    plan = json.loads(to_json({"options": frozen, "worlds": worlds}))
    if not path.exists() or (worlds and plan != before):
        write_json(path, plan)


def _plan_before(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_bytes())
        if isinstance(plan["options"], dict):
            return plan
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise RunError(
        f"{path} is damaged, so the options of the existing runs cannot be checked. If they are the same, move this file away "
        "and repeat the command, which then writes it again. Otherwise choose another --out."
    )


def _check_place(options: CompareOptions) -> None:
    files = options.out.iterdir() if options.out.is_dir() else ()
    own = (LOCK_FILE, PLAN_FILE, "shards", *WORLDS_OF_ARENA)
    if any(path.name not in own for path in files) and not (options.out / PLAN_FILE).exists():
        raise RunError(f"{options.out} is not empty and contains no arena. Choose another --out.")


def _dry_run(options: CompareOptions, worlds: list[ArenaWorld]) -> str:
    text = Text("sod compare --preset arena, a dry run: nothing is loaded, downloaded or written.")
    for world in worlds:
        text.add("plan", world.plan_text)
        text.add("power", world.power())
        text.add("left out", *(f"{world.name}: {name}: {why}" for name, why in world.refused.items()))
    text.add("writes", str(options.out))
    return text.written(columns())
