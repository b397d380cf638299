"""Word problems for a pretrained model: short stories with sums that it can only solve with the interpreter.

There are ten stories of one to four sums. Each sum takes one call, because it needs the result of the previous one; the
numbers are too large for mental arithmetic. Each story has three wordings. Training uses the first two.

A *case* is a story with its numbers. No case of the evaluation files is in the training problems or in a demonstration, in
any wording. The evaluation files are held out in two ways:

eval.jsonl      new numbers, in the wordings of training
wording.jsonl   new numbers, in the third wording, which no training file contains
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sod.config import WordProblemOptions
from sod.console.progress import echo
from sod.datasets.rows import Row, write_jsonl
from sod.lab.demonstrations import STUDENT_STYLE, TEACHER_STYLE, Style, solution_of
from sod.lab.make import make_folder, write_problems
from sod.lab.tasks import Call, Task
from sod.tools.python import interpreter_schema

LONGEST = 4
"""Largest number of sums. Shorter stories are more frequent: a story of n sums has the odds 5 - n."""
REQUEST = " Give the answer in \\boxed{}."
NAMES = (
    "Anna",
    "Ben",
    "Chloe",
    "David",
    "Emma",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kofi",
    "Lena",
    "Mia",
    "Noah",
)
LAST = "train.jsonl"
"""The file that is written last."""

StoryNumbers = dict[str, int]


@dataclass
class Working:
    """The sums of a solution, in order."""

    calls: list[Call] = field(default_factory=list)

    def sum(self, subject: str, expression: str) -> int:
        """Add a call that prints the expression, and return its value."""
        value = int(eval(expression, {"__builtins__": {}}))
        self.calls.append(Call(subject, (f"print({expression})",), value))
        return value


@dataclass(frozen=True)
class Story:
    """A kind of problem. {who} and {other} in a wording are names; the other fields are numbers."""

    sums: int
    """Number of calls that a solution takes."""
    wordings: tuple[str, str, str]
    """The third is only used by wording.jsonl."""
    solve: Callable[[random.Random, Working], StoryNumbers]
    """Draw the numbers, and add the sums that lead to the answer."""


@dataclass(frozen=True)
class DrawnProblem:
    """A problem with its solution, and the identity of its case."""

    task: Task
    case: tuple[str, tuple[int, ...]]


def _crates(rng: random.Random, work: Working) -> StoryNumbers:
    n, m = rng.randint(112, 989), rng.randint(23, 97)
    work.sum("the number of bottles", f"{n}*{m}")
    return {"n": n, "m": m}


def _album(rng: random.Random, work: Working) -> StoryNumbers:
    k = rng.randint(13, 48)
    n = k * rng.randint(31, 190) + rng.randint(1, k - 1)
    work.sum("the rest", f"{n}%{k}")
    return {"n": n, "k": k}


def _change(rng: random.Random, work: Working) -> StoryNumbers:
    n, price = rng.randint(12, 49), rng.randint(105, 495)
    paid = n * price + rng.randint(101, 4999)
    cost = work.sum("the cost", f"{n}*{price}")
    work.sum("the change", f"{paid}-{cost}")
    return {"n": n, "price": price, "paid": paid}


def _trip(rng: random.Random, work: Working) -> StoryNumbers:
    hours, speed, more = rng.randint(12, 39), rng.randint(41, 128), rng.randint(113, 987)
    by_train = work.sum("the way by train", f"{hours}*{speed}")
    work.sum("the whole way", f"{by_train}+{more}")
    return {"hours": hours, "speed": speed, "more": more}


def _tank(rng: random.Random, work: Working) -> StoryNumbers:
    flow, minutes = rng.randint(24, 96), rng.randint(35, 240)
    used = rng.randint(103, flow * minutes // 2)
    filled = work.sum("the water that flows in", f"{flow}*{minutes}")
    work.sum("the water that is left", f"{filled}-{used}")
    return {"flow": flow, "minutes": minutes, "used": used}


def _floor(rng: random.Random, work: Working) -> StoryNumbers:
    length, width, price, fee = rng.randint(13, 68), rng.randint(11, 47), rng.randint(14, 89), rng.randint(150, 990)
    area = work.sum("the area", f"{length}*{width}")
    boards = work.sum("the price of the boards", f"{area}*{price}")
    work.sum("the total", f"{boards}+{fee}")
    return {"length": length, "width": width, "price": price, "fee": fee}


def _harvest(rng: random.Random, work: Working) -> StoryNumbers:
    morning, evening, bag = rng.randint(1100, 6900), rng.randint(1100, 6900), rng.randint(12, 46)
    bad = rng.randint(112, 789)
    picked = work.sum("all apples", f"{morning}+{evening}")
    good = work.sum("the good apples", f"{picked}-{bad}")
    work.sum("the full bags", f"{good}//{bag}")
    return {"morning": morning, "evening": evening, "bad": bad, "bag": bag}


def _wages(rng: random.Random, work: Working) -> StoryNumbers:
    days, wage, others_days, others_wage = (rng.randint(*span) for span in ((14, 58), (67, 189), (14, 58), (67, 189)))
    first = work.sum("the pay of the first", f"{days}*{wage}")
    second = work.sum("the pay of the second", f"{others_days}*{others_wage}")
    work.sum("the pay of both", f"{first}+{second}")
    return {"days": days, "wage": wage, "others_days": others_days, "others_wage": others_wage}


def _outing(rng: random.Random, work: Working) -> StoryNumbers:
    buses, seats, teachers, price = rng.randint(11, 29), rng.randint(31, 58), rng.randint(13, 48), rng.randint(12, 38)
    off = rng.randint(105, 890)
    children = work.sum("the number of children", f"{buses}*{seats}")
    people = work.sum("the number of people", f"{children}+{teachers}")
    full = work.sum("the full price", f"{people}*{price}")
    work.sum("the price to pay", f"{full}-{off}")
    return {"buses": buses, "seats": seats, "teachers": teachers, "price": price, "off": off}


def _printing(rng: random.Random, work: Working) -> StoryNumbers:
    books, pages, letters, sheets = rng.randint(21, 96), rng.randint(112, 389), rng.randint(210, 890), rng.randint(2, 9)
    pack = rng.randint(52, 98)
    for_books = work.sum("the sheets for the books", f"{books}*{pages}")
    for_letters = work.sum("the sheets for the letters", f"{letters}*{sheets}")
    total = work.sum("all sheets", f"{for_books}+{for_letters}")
    work.sum("the full packs", f"{total}//{pack}")
    return {"books": books, "pages": pages, "letters": letters, "sheets": sheets, "pack": pack}


STORIES = {
    "crates": Story(
        1,
        (
            "A warehouse has {n} crates with {m} bottles in each. How many bottles are there?",
            "{who} counts {n} crates. Every crate holds {m} bottles. How many bottles does {who} have?",
            "There are {m} bottles in a crate, and a lorry brings {n} crates. How many bottles arrive?",
        ),
        _crates,
    ),
    "album": Story(
        1,
        (
            "{who} puts {n} stamps into an album, {k} on each page. How many stamps are on the last page, which is not full?",
            "An album has room for {k} stamps on a page. {who} has {n} stamps and fills page after page. How many are left for "
            "the last page?",
            "{n} stamps are sorted into rows of {k}. How many stamps do not fill a row?",
        ),
        _album,
    ),
    "change": Story(
        2,
        (
            "{who} buys {n} pens at {price} cents each and pays with {paid} cents. How many cents does {who} get back?",
            "One pen costs {price} cents. {who} takes {n} of them and gives the seller {paid} cents. How many cents are the "
            "change?",
            "With {paid} cents in a purse, {who} pays for {n} pens of {price} cents. How many cents stay in the purse?",
        ),
        _change,
    ),
    "trip": Story(
        2,
        (
            "{who} travels {hours} hours by train at {speed} km an hour, then {more} km by car. How many km is the trip?",
            "A train goes {speed} km every hour. {who} sits in it for {hours} hours and drives another {more} km. How far does "
            "{who} go, in km?",
            "After {more} km in a car, {who} takes a train of {speed} km an hour for {hours} hours. How many km are that?",
        ),
        _trip,
    ),
    "tank": Story(
        2,
        (
            "A pump fills {flow} litres a minute into a tank for {minutes} minutes. Then {used} litres are used. How many litres "
            "are left?",
            "Into an empty tank flow {flow} litres every minute. After {minutes} minutes {who} takes {used} litres out. How many "
            "litres remain?",
            "{who} waters a garden with {used} litres from a tank that a pump filled for {minutes} minutes with {flow} litres "
            "each. How many litres does it still hold?",
        ),
        _tank,
    ),
    "floor": Story(
        3,
        (
            "A hall is {length} m long and {width} m wide. Boards cost {price} dollars per square metre, and the fitter asks for "
            "{fee} dollars. What is the total in dollars?",
            "{who} lays a floor of {length} m by {width} m. A square metre of boards costs {price} dollars and the work {fee} "
            "dollars. How many dollars does {who} pay?",
            "For {fee} dollars a fitter lays boards at {price} dollars per square metre in a room of {width} m by {length} m. "
            "How many dollars is that in all?",
        ),
        _floor,
    ),
    "harvest": Story(
        3,
        (
            "A farmer picks {morning} apples in the morning and {evening} in the evening. {bad} of them are bad. The others go "
            "into bags of {bag}. How many bags are full?",
            "{who} has {morning} apples, picks {evening} more and throws {bad} away. A bag holds {bag} apples. How many full "
            "bags are there?",
            "Bags of {bag} apples are packed from two baskets with {morning} and {evening} apples, without the {bad} bad ones. "
            "How many bags become full?",
        ),
        _harvest,
    ),
    "wages": Story(
        3,
        (
            "{who} works {days} days for {wage} dollars a day, and {other} works {others_days} days for {others_wage} dollars a "
            "day. How many dollars do both earn together?",
            "{who} earns {wage} dollars a day and works {days} days. {other} earns {others_wage} dollars a day and works "
            "{others_days} days. What do they earn in all?",
            "Two people are paid: {wage} dollars for each of {days} days, and {others_wage} dollars for each of {others_days} "
            "days. How many dollars is that?",
        ),
        _wages,
    ),
    "outing": Story(
        4,
        (
            "{buses} buses bring {seats} children each to a zoo, and {teachers} teachers come along. A ticket costs {price} "
            "dollars, and the zoo takes {off} dollars off the price. How many dollars must be paid?",
            "A school fills {buses} buses with {seats} children each. With them go {teachers} teachers. Everybody needs a ticket "
            "of {price} dollars, but the school pays {off} dollars less. How many dollars does it pay?",
            "At {price} dollars a person, minus {off} dollars, how many dollars do {teachers} teachers and {buses} buses of "
            "{seats} children cost?",
        ),
        _outing,
    ),
    "printing": Story(
        4,
        (
            "A shop prints {books} books of {pages} sheets and {letters} letters of {sheets} sheets. A pack has {pack} sheets. "
            "How many full packs does the shop use up?",
            "{who} prints {books} books with {pages} sheets each, and {letters} letters with {sheets} sheets each. Paper comes "
            "in packs of {pack}. How many whole packs are used?",
            "From packs of {pack} sheets, {letters} letters of {sheets} sheets and {books} books of {pages} sheets are made. How "
            "many packs become empty?",
        ),
        _printing,
    ),
}


def draw(rng: random.Random, *, held_out_wording: bool = False) -> DrawnProblem:
    """Draw a problem of any story, in a wording of training or in the held-out one."""
    (name,) = rng.choices(list(STORIES), [LONGEST + 1 - story.sums for story in STORIES.values()])
    story, work = STORIES[name], Working()
    numbers = story.solve(rng, work)
    who, other = rng.sample(NAMES, 2)
    wording = story.wordings[2] if held_out_wording else rng.choice(story.wordings[:2])
    question = wording.format(who=who, other=other, **numbers) + REQUEST
    return DrawnProblem(Task(question, tuple(work.calls), work.calls[-1].result), (name, tuple(numbers.values())))


def _each_new(rng: random.Random, taken: set[object], *, held_out_wording: bool = False) -> Iterator[Task]:
    """Yield problems of cases that are not in `taken`, and add each case."""
    while True:
        drawn = draw(rng, held_out_wording=held_out_wording)
        if drawn.case not in taken:
            taken.add(drawn.case)
            yield drawn.task


def make_word_problems(options: WordProblemOptions) -> Path:
    """Write problems and demonstrations to `options.out`, and return the directory. Files are the same for the same options."""
    folder, taken = options.out, set[object]()
    make_folder(folder)
    (folder / LAST).unlink(missing_ok=True)
    for name, count, new_wording in (
        ("eval", options.eval_problems, False),
        ("wording", options.eval_problems, True),
        ("tune", options.tune_problems, False),
    ):
        tasks = _each_new(random.Random(f"{name}/{options.seed}"), taken, held_out_wording=new_wording)
        write_problems(folder / f"{name}.jsonl", [next(tasks) for _ in range(count)], name)
    for whose, style in (("teacher", TEACHER_STYLE), ("student", STUDENT_STYLE)):
        rng = random.Random(f"{whose}/{options.seed}")
        rows = _demonstrations(style, options.demonstrations, rng, set(taken))
        write_jsonl(folder / f"{whose}-demonstrations.jsonl", rows)
    tasks = _each_new(random.Random(f"train/{options.seed}"), set(taken))
    write_problems(folder / LAST, [next(tasks) for _ in range(options.train_problems)], "train")
    echo(
        f"{folder}: {options.train_problems} word problems to train on, {options.eval_problems} and as many in another wording"
    )
    return folder


def _demonstrations(style: Style, count: int, rng: random.Random, taken: set[object]) -> list[Row]:
    tasks, tools = _each_new(rng, taken), [interpreter_schema()]
    return [{"messages": solution_of(next(tasks), style, rng), "tools": tools} for _ in range(count)]


def are_made(folder: Path) -> bool:
    """Return whether `make_word_problems` has finished in this directory."""
    return (folder / LAST).exists()
