"""Cold start: fine-tune a model on demonstrations, rendered by the same functions as rollouts."""

import math
import random
from collections.abc import Sequence

from sod.batching import collate_demonstrations
from sod.chat import ChatFormat
from sod.config import SftOptions
from sod.data import Demonstration, fingerprint, load_demonstrations
from sod.errors import DataError, TemplateError
from sod.models import load_model, load_tokenizer
from sod.policy import Policy
from sod.progress import Display, say
from sod.runs import Run
from sod.types import Piece


def sft(options: SftOptions) -> Run:
    """Fine-tune, and leave the model in the run's newest checkpoint."""
    demonstrations = load_demonstrations(options.data)
    batches_per_epoch = math.ceil(len(demonstrations) / options.batch)
    steps = max(1, round(options.epochs * batches_per_epoch))
    tokenizer = load_tokenizer(options.model)
    chat = ChatFormat.of(tokenizer, options.chat)
    model = load_model(options.model, options.network)
    run = Run.open(options, options.out, data={"data": fingerprint(options.data)}, resume=options.resume)
    start, folder = (run.newest_checkpoint() or (0, None)) if options.resume else (0, None)
    policy = Policy(
        load_model(folder, options.network) if folder else model,
        tokenizer,
        options.learn,
        total_steps=steps if options.schedule == "cosine" else None,
    )
    if folder:
        policy.restore(folder)
        run.rewind(start)
    truncated = 0
    with Display("fine-tuning", total=steps, done=start) as display:
        for step in range(start, steps):
            rows = pick(step, len(demonstrations), options)
            conversations = [render(chat, demonstrations, row) for row in rows]
            truncated += sum(sum(len(p.tokens) for p in pieces) > options.max_tokens for pieces in conversations)
            metrics = policy.imitate(*collate_demonstrations(conversations, options.max_tokens))
            run.record(step + 1, {f"learn/{name}": value for name, value in metrics.items()})
            last = step + 1 == steps
            report = last or (step + 1) % max(1, steps // 10) == 0
            display.done(
                f"step {step + 1}/{steps}  loss {metrics['loss']:.3f}  lr {metrics['lr']:.1e}" if report else ""
            )
            if last or (step + 1) % options.save_every == 0:
                run.save(step + 1, policy.save, keep=1)
    if truncated:
        say(f"{truncated} conversations were longer than max_tokens = {options.max_tokens} and were cut at the right.")
    return run


def pick(step: int, count: int, options: SftOptions) -> list[int]:
    """Which conversations a step learns from: a function of the seed and the step alone."""
    per_epoch = math.ceil(count / options.batch)
    epoch, place = divmod(step, per_epoch)
    order = list(range(count))
    if options.shuffle:
        random.Random(f"{options.seed}/{epoch}").shuffle(order)
    return order[place * options.batch : (place + 1) * options.batch]


def render(chat: ChatFormat, demonstrations: Sequence[Demonstration], row: int) -> list[Piece]:
    demonstration = demonstrations[row]
    try:
        return chat.render(demonstration.messages, demonstration.tools)
    except TemplateError as error:
        raise DataError(f"Demonstration {row + 1} cannot be rendered: {error}") from error
