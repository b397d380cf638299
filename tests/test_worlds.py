"""The lab's worlds: the expert always solves, chance does not, wrong actions have consequences that stay."""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sod.datasets.rows import load_demonstrations, load_problems
from sod.environments import Opening, Step, Turn
from sod.environments.choosing import environment_maker
from sod.environments.worlds import LEVELS, WORLDS, Database, Household, Maze, Move, Shop, SmallWorld
from sod.environments.worlds.base import SPARE, turn_of, turns_of_expert
from sod.environments.worlds.database import COLUMNS, TABLES
from sod.environments.worlds.household import DISHES, FOOD, FURNITURE, OTHERS, ROOMS
from sod.environments.worlds.maze import PEOPLE, TIES
from sod.environments.worlds.shop import ARTICLES, COLOURS, SIZES
from sod.errors import DataError
from sod.lab.worlds.demonstrations import WORLD_STUDENT_STYLE, WORLD_TEACHER_STYLE, demonstration_at, episode_of
from sod.lab.worlds.files import write_world_demonstrations, write_world_problems
from sod.types import Message, Problem, ToolCall

KINDS = pytest.mark.parametrize("kind", WORLDS.values(), ids=list(WORLDS))
CLEAN = replace(WORLD_TEACHER_STYLE, slips=0.0)
SLIPPERY = replace(WORLD_TEACHER_STYLE, slips=1.0)


def do(world: SmallWorld, *actions: str) -> list[Step]:
    return [world.play(turn_of(Move("so", action), type(world))) for action in actions]


def told(steps: list[Step]) -> list[tuple[str, str]]:
    return [(observation.text, observation.outcome) for step in steps for observation in step.observations]


def finish(world: SmallWorld) -> bool:
    """Let the expert play to the end."""
    is_over = False
    while not is_over:
        is_over = world.play(turn_of(world.expert(), type(world))).is_over
    return world.decide().is_right


def by_chance(kind: type[SmallWorld], level: int, number: int) -> bool:
    """Play random actions; the answer is the expert's as soon as it could give it."""
    world, rng, is_over = kind.opened(level, number), random.Random(number), False
    while not is_over:
        move = world.expert()
        move = move if move.is_answer else Move("so", rng.choice(world.actions()))
        is_over = world.play(turn_of(move, kind)).is_over
    is_right = world.decide().is_right
    world.end()
    return is_right


# All worlds


@KINDS
def test_the_expert_always_solves_in_4_to_12_turns(kind: type[SmallWorld]) -> None:
    for number in range(250):
        level = LEVELS[number % 3]
        world = kind.opened(level, number)
        assert 4 <= world.left - SPARE <= 12
        assert finish(world), (level, number)
        assert world.left == SPARE
        world.end()


@KINDS
def test_chance_rarely_solves_and_never_as_often_at_the_highest_level(kind: type[SmallWorld]) -> None:
    solved = [sum(by_chance(kind, level, number) for number in range(80)) / 80 for level in (1, 3)]
    assert solved[0] < 0.35
    assert solved[1] < 0.1
    assert solved[1] <= solved[0]


@KINDS
def test_a_higher_level_takes_more_turns(kind: type[SmallWorld]) -> None:
    means = [sum(turns_of_expert(kind, level, number) for number in range(100)) / 100 for level in LEVELS]
    assert all(lower < higher for lower, higher in pairwise(means)), means


async def episode(kind: type[SmallWorld], problem: Problem) -> list[object]:
    """Play random actions through the interface of an environment."""
    world, rng = kind(), random.Random(problem.id)
    heard: list[object] = [await world.open(problem, 7)]
    for _ in range(20):
        step = await world.step(turn_of(Move("so", rng.choice(world.actions())), kind))
        heard.append(step)
        if step.is_over:
            break
    heard.append(await world.verdict(""))
    await world.close()
    return heard


@KINDS
def test_the_same_problem_and_turns_have_the_same_answers(kind: type[SmallWorld]) -> None:
    for number in range(10):
        problem = kind.problem(3, number)
        first, second = (asyncio.run(episode(kind, problem)) for _ in range(2))
        assert first == second
    assert len({kind.problem(2, number).messages[0]["content"] for number in range(50)}) > 45


@KINDS
def test_a_world_without_a_number_is_drawn_from_the_seed(kind: type[SmallWorld]) -> None:
    def opened(seed: int) -> Opening:
        problem = Problem(id="p", messages=(), answer="", setting={"level": 2})
        return asyncio.run(kind().open(problem, seed))

    assert opened(5) == opened(5)
    assert opened(5) != opened(6)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ({"level": 4}, "setting.level: Input should be 1, 2 or 3"),
        ({"nummer": 1}, "nummer"),
        ({"number": "7"}, "number"),
    ],
)
@KINDS
def test_a_setting_that_does_not_exist_is_refused(kind: type[SmallWorld], setting: dict[str, Any], fault: str) -> None:
    problem = Problem(id="p", messages=(), answer="", setting=setting)
    with pytest.raises(DataError, match=f"problem 'p': .*{fault}.* The keys are level, number"):
        asyncio.run(kind().open(problem, 0))


@KINDS
def test_the_budget_ends_an_attempt_and_invalid_actions_are_errors(kind: type[SmallWorld]) -> None:
    world = kind.opened(1, 0)
    steps = []
    while not (steps and steps[-1].is_over):
        steps += do(world, "jump out")
    assert len(steps) == turns_of_expert(kind, 1, 0) + SPARE
    assert {outcome for _, outcome in told(steps)} == {"error"}
    assert not world.decide().is_right
    assert world.decide().reason.startswith("no turns left")


@KINDS
def test_a_shipped_world_is_found_by_its_name(kind: type[SmallWorld]) -> None:
    assert environment_maker(kind.NAME) is kind


def test_worlds_with_text_and_with_calls_are_both_there() -> None:
    assert {world.NAME for world in WORLDS.values() if world.TOOL is None} == {"household"}


def test_two_calls_in_a_turn_get_two_answers() -> None:
    world = Shop.opened(1, 0)
    kind = world.wishes[0].kind
    calls = tuple(ToolCall(name="shop", arguments={"do": action}) for action in (f"search {kind}", "open 1"))
    before = world.left
    step = world.play(Turn("", calls))
    assert len(step.observations) == 2
    assert world.left == before - 2


def test_calls_of_one_turn_beyond_the_budget_have_no_effect() -> None:
    world = Shop.opened(1, 0)
    actions: list[str] = []
    twin = Shop.opened(1, 0)
    while not twin.is_settled:
        move = twin.expert()
        actions.append(move.action)
        twin.play(turn_of(move, Shop))
    world.left = len(actions) - 1
    step = world.play(Turn("", tuple(ToolCall(name="shop", arguments={"do": action}) for action in actions)))
    assert step.is_over
    assert step.observations[-1].outcome == "error"
    assert not world.decide().is_right


def after_mistakes(kind: type[SmallWorld], number: int, mistakes: int) -> bool:
    """Return whether the expert still solves after so many wrong actions, at random turns."""
    world, rng = kind.opened(3, number), random.Random(number)
    wrong_at = set(rng.sample(range(1, turns_of_expert(kind, 3, number)), mistakes))
    is_over, turn = False, 0
    while not is_over:
        move = world.expert()
        wrong = [action for action in world.actions() if action != move.action]
        if turn in wrong_at and wrong and not move.is_answer:
            move = Move(move.thought, rng.choice(wrong))
        is_over = world.play(turn_of(move, kind)).is_over
        turn += 1
    is_right = world.decide().is_right
    world.end()
    return is_right


@KINDS
def test_the_consequences_of_wrong_actions_stay_so_errors_cascade(kind: type[SmallWorld]) -> None:
    shares = [sum(after_mistakes(kind, number, mistakes) for number in range(60)) / 60 for mistakes in (0, 1, 4)]
    assert shares[0] == 1
    assert shares[1] > 0.7
    assert shares[2] < 0.3


# Household


def fetched(level: int, number: int) -> Household:
    """Return a household in which the expert has just taken the thing."""
    world = Household.opened(level, number)
    while world.held is None:
        do(world, world.expert().action)
    return world


def test_a_thing_in_full_hands_breaks_and_the_spare_must_be_found() -> None:
    recovered = lost = 0
    for number in range(60):
        world = fetched(3, number)
        ((text, outcome),) = told(do(world, f"take {world.wanted}"))
        assert (text, outcome) == (f"hands full. {world.wanted} falls and breaks.", "error")
        if finish(world):
            recovered += 1
        else:
            lost += 1
            assert "broken or ruined" in world.decide().reason or "no turns left" in world.decide().reason
    assert recovered > 0
    assert lost > 0


def test_heating_a_dish_ruins_it() -> None:
    world = next(
        world for world in map(fetched, [3] * 200, range(200)) if world.state == "clean" and has_kitchen(world)
    )
    if world.here.name != "kitchen":
        do(world, "go kitchen")
    assert told(do(world, f"heat {world.wanted}")) == [(f"the {world.wanted} is ruined.", "error")]
    assert world.held is None


def has_kitchen(world: Household) -> bool:
    return any(room.name == "kitchen" for room in world.rooms)


def test_a_thing_in_the_wrong_room_stays_there() -> None:
    world = next(world for world in (fetched(1, number) for number in range(50)) if world.here.name != world.target)
    place = world.here.name
    do(world, f"put {world.wanted}", f"go {world.target}")
    assert told(do(world, f"go {place}"))[0][0].endswith(f"{world.wanted}.")
    assert not finish(world)
    assert world.decide().reason.startswith("no turns left")


# Shop


def bought_wrongly(level: int, number: int) -> Shop:
    """Return a shop in which an article was bought in its first size, which is another one than the wanted."""
    world = Shop.opened(level, number)
    wish = world.wishes[0]
    do(world, f"search {wish.kind}")
    at = next(i for i, article in enumerate(world.shelves[wish.kind], 1) if article.sizes[0] != wish.size)
    do(world, f"open {at}", "buy")
    return world


def test_money_for_a_wrong_article_is_spent() -> None:
    worlds = [bought_wrongly(3, number) for number in range(40)]
    for world in worlds:
        assert len(world.wrong) == 1
        assert world.money < sum(wish.price for wish in world.wishes) + 3
    solved = [not world.is_settled and finish(world) for world in worlds]
    assert any(solved)
    assert not all(solved)
    reason = next(world.decide().reason for world, done in zip(worlds, solved, strict=True) if not done)
    assert "missing:" in reason
    assert "bought by mistake:" in reason


def test_a_size_that_is_sold_out_cannot_be_chosen() -> None:
    world = Shop.opened(1, 3)
    wish = world.wishes[0]
    do(world, f"search {wish.kind}", "open 1")
    missing = next(size for size in ("small", "medium", "large") if size not in world.shelves[wish.kind][0].sizes)
    assert told(do(world, f"choose {missing}")) == [("this size is sold out.", "error")]


# Maze


def test_a_wrong_page_must_be_left_again() -> None:
    world = Maze.opened(1, 1)
    first, right = world.path[0], world.relations[0]
    assert told(do(world, "back")) == [("there is no page before.", "error")]
    assert told(do(world, f"follow {right}")) == [(f"begin with about {first}.", "error")]
    (page,) = told(do(world, f"about {first}"))
    absent = next(each for each in TIES if each not in world.pages[first])
    assert told(do(world, f"follow {absent}")) == [("this page has no such relation.", "error")]
    wrong = next(each for each in world.pages[first] if each != right)
    do(world, f"follow {wrong}")
    assert world.expert().action == "back"
    assert told(do(world, "back")) == [page]
    assert world.left == turns_of_expert(Maze, 1, 1) + SPARE - 6
    assert not finish(world)


def test_the_rewards_of_a_maze_cannot_be_collected_twice() -> None:
    world = Maze.opened(1, 5)
    on = f"follow {world.relations[0]}"
    rewards = [step.reward or 0.0 for step in do(world, f"about {world.origin}", on, "back", on)]
    assert rewards == [0.25, 0.25, -0.25, 0.25]


def test_only_the_right_name_is_right() -> None:
    for given, is_right in (("answer {}", True), ("It is {}.", True), ("answer nobody", False), ("", False)):
        world = Maze.opened(1, 2)
        assert world.play(Turn(given.format(world.gold))).is_over
        assert world.decide().is_right == is_right


def test_a_thought_repeats_two_words_of_the_task() -> None:
    for number in range(20):
        world = Maze.opened(2, number)
        do(world, world.expert().action)
        for _ in world.relations:
            words = world.expert().thought.removeprefix("after ")
            assert f" {words} " in world.task
            do(world, world.expert().action)
        assert world.expert() == Move(f"after {world.relations[-1]} who", f"answer {world.gold}", is_answer=True)


# Database


def test_the_expert_copies_no_value_and_no_table_that_must_be_looked_up() -> None:
    for number in range(30):
        world = Database.opened(3, number)
        tables = {str(row[0]): table for table, rows in world.before.items() for row in rows}
        answer, is_over = "", False
        while not is_over:
            move = world.expert()
            if move.thought.startswith("'"):
                name, table = re.fullmatch(r"'(\w+)' in (\w+)\. .*", move.thought).groups()  # pyright: ignore[reportOptionalMemberAccess]
                assert tables[name] == table
                assert f" {table} " in f"{move.action} "
            if move.action.startswith("UPDATE"):
                assert f" SET {world.column}={answer} " in move.action
            step = world.play(turn_of(move, Database))
            is_over = step.is_over
            answer = step.observations[0].text.splitlines()[-1] if step.observations else ""
        assert world.decide().is_right


def test_a_wrong_update_changes_the_table_and_can_be_undone() -> None:
    world = Database.opened(1, 4)
    do(world, f"SELECT * FROM {world.table}")
    wrong = next(str(row[0]) for row in world.before[world.table] if row[0] != world.person)
    do(world, f"UPDATE {world.table} SET {world.column}=0 WHERE name='{wrong}'")
    answered = Database.opened(1, 4)
    do(answered, f"UPDATE {world.table} SET {world.column}=0 WHERE name='{wrong}'")
    answered.play(Turn(f"answer {answered.gold}"))
    assert answered.decide().reason == f"the table {world.table} has other rows than the task demands"
    assert finish(world)


def test_a_change_of_all_rows_is_too_much_to_undo() -> None:
    solved = 0
    for world in [Database.opened(2, number) for number in range(30)]:
        do(world, f"UPDATE {world.table} SET {world.columns[world.table][1]}=0, {world.columns[world.table][2]}=0")
        solved += finish(world)
    assert solved < 10


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE {}",
        "ATTACH '/tmp/x.db' AS x",
        "PRAGMA writable_schema=1",
        "CREATE TABLE x (y)",
        "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM x) SELECT count(*) FROM x",
        "SELECT load_extension('x')",
        "SELEC * FROM {}",
        "SELECT 1; SELECT 2",
        "SELECT nothing FROM {}",
        "\ud800",
        "",
    ],
)
def test_hostile_and_wrong_queries_are_errors_and_change_nothing(query: str) -> None:
    world = Database.opened(1, 0)
    ((text, outcome),) = told(do(world, query.format(world.table)))
    assert outcome == "error"
    assert text
    assert world.content == world.before
    assert finish(world)


def test_a_long_result_is_cut() -> None:
    world = Database.opened(1, 0)
    ((text, _),) = told(
        do(
            world,
            "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM x LIMIT 90) SELECT n, printf('%999d', n) FROM x",
        )
    )
    assert len(text) < 1500


# Demonstrations and files


@KINDS
def test_the_teachers_demonstrations_solve_and_take_no_loss_on_slips(kind: type[SmallWorld]) -> None:
    rng = random.Random(0)
    silent = 0
    for _ in range(30):
        messages = demonstration_at(kind, 1.0, SLIPPERY, rng)
        silent += sum(message.get("weight", 1) == 0 for message in messages)
        assert sum(message.get("weight", 1) == 0 for message in messages) <= 1
        assert messages[-1]["role"] == "assistant"
    assert silent > 15


@KINDS
def test_the_students_demonstrations_have_loss_everywhere(kind: type[SmallWorld]) -> None:
    rng = random.Random(0)
    style = replace(WORLD_STUDENT_STYLE, slips=1.0)
    made = [episode_of(kind, 2, number, style, rng) for number in range(20)]
    assert sum(each.slips for each in made) > 10
    assert not [message for each in made for message in each.messages if "weight" in message]


@KINDS
def test_a_demonstration_holds_what_the_world_really_answers(kind: type[SmallWorld]) -> None:
    messages = episode_of(kind, 3, 11, SLIPPERY, random.Random(1)).messages
    world = kind.opened(3, 11)
    answers: list[Message] = [message for message in messages[1:] if message["role"] != "assistant"]
    heard: list[str] = []
    for message in messages[1:]:
        if message["role"] != "assistant":
            continue
        calls = [call["function"] for call in message.get("tool_calls", ())]
        turn = Turn(
            message["content"], tuple(ToolCall(name=each["name"], arguments=each["arguments"]) for each in calls)
        )
        heard += [observation.text for observation in world.play(turn).observations]
    assert heard[: len(answers)] == [message["content"] for message in answers]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Household, (*ROOMS, *FURNITURE, *DISHES, *FOOD, *OTHERS)),
        (Shop, (*ARTICLES, *COLOURS, *SIZES)),
        (Maze, (*PEOPLE, *TIES)),
        (Database, TABLES),
    ],
)
def test_a_name_to_copy_follows_a_space_wherever_it_stands_so_that_it_is_one_token(
    kind: type[SmallWorld], names: Sequence[str]
) -> None:
    rng = random.Random(0)
    messages = [message for _ in range(60) for message in demonstration_at(kind, 1.0, SLIPPERY, rng)]
    calls = [call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ())]
    texts = [message["content"] for message in messages] + [text for each in calls for text in each.values()]
    assert not [text for text in texts if re.search(rf"(?<! )\b({'|'.join(names)})\b", text)]


def test_a_column_in_a_query_follows_a_space() -> None:
    rng = random.Random(0)
    messages = [message for _ in range(60) for message in demonstration_at(Database, 1.0, SLIPPERY, rng)]
    queries = [call["function"]["arguments"]["query"] for each in messages for call in each.get("tool_calls", ())]
    assert any("sum(" in query for query in queries)
    assert not [query for query in queries if re.search(rf"(?<! )\b({'|'.join(COLUMNS)})\b", query)]


def test_the_curriculum_rises_and_slips_come_later() -> None:
    rng = random.Random(3)
    early = [demonstration_at(Shop, 0.1, SLIPPERY, rng) for _ in range(30)]
    late = [demonstration_at(Shop, 0.9, SLIPPERY, rng) for _ in range(30)]
    assert {len(messages) for messages in early} == {8}
    assert max(len(messages) for messages in late) > 16
    assert "weight" not in json.dumps(early)


@KINDS
def test_files_of_problems_have_nothing_in_common_and_load(kind: type[SmallWorld], tmp_path: Path) -> None:
    loaded: list[list[Problem]] = []
    for part in ((1, 0), (1, 1), (1, 2), (2, 0)):
        path = tmp_path / f"{part}.jsonl"
        write_world_problems(path, kind, 12, part)
        loaded.append(list(load_problems(path)))
    problems = [problem for each in loaded for problem in each]
    assert len({json.dumps(dict(problem.setting)) for problem in problems}) == 48
    for problem in problems:
        assert problem.environment == kind.NAME
        assert kind().begin(**problem.setting).conversation == problem.messages
    write_world_demonstrations(tmp_path / "d.jsonl", kind, WORLD_TEACHER_STYLE, 8, "x")
    demonstrations = load_demonstrations(tmp_path / "d.jsonl")
    assert [each.about for each in demonstrations] == [{"environment": kind.NAME}] * 8


@pytest.mark.slow
def test_a_world_is_made_of_ordinary_files_and_played_by_the_ordinary_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sod.config import EvalOptions, LabOptions
    from sod.evaluation.evaluate import evaluate
    from sod.lab import settings
    from sod.lab.make import is_made, make
    from sod.runs.directory import Run

    monkeypatch.setitem(settings.WORLD_STEPS, "shop", {"teacher": 2, "cold-start": 2})
    options = LabOptions(out=tmp_path / "lab", world="shop", demonstrations=16, train_problems=6, eval_problems=6)
    lab = make(options)
    assert is_made(lab)
    models = {name: Run(lab / name).finished() for name in ("teacher", "cold-start")}
    assert all(models.values())
    before = {path: path.stat().st_mtime_ns for path in lab.rglob("*.safetensors")}
    make(options)
    assert {path: path.stat().st_mtime_ns for path in lab.rglob("*.safetensors")} == before, "trained only once"
    files = {"model": models["cold-start"], "data": lab / "eval.jsonl", "out": tmp_path / "eval"}
    results = evaluate(EvalOptions.model_validate(settings.WORLD_EVAL | files))
    assert 0 <= results.mean["avg"] < 0.5
