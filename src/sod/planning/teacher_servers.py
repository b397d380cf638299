"""The server of a teacher: the command that starts it, and the tokens that it receives and returns."""

import shlex
from pathlib import PurePath
from urllib.parse import urlsplit

from sod.config import EvalOptions, TrainOptions
from sod.config.servers import PARALLEL, SERVERS, USUAL, ServerTraits
from sod.config.teachers import routes_of, with_servers
from sod.planning.budgets import longest
from sod.planning.inventory import as_count
from sod.planning.memory import type_of
from sod.planning.timing import LIKELY_SHARE


def server_traits(options: TrainOptions | EvalOptions) -> ServerTraits:
    """Return the kind of the teacher's server. auto counts as vLLM."""
    kind = options.score.teacher_server
    return SERVERS[USUAL if kind == "auto" else kind]


def serving(teacher: str, options: TrainOptions | EvalOptions) -> str:
    """Return the command that starts the server at score.teacher_url, or what it must offer if there is no one command.

    Servers may sample one more token: the context has one more than the longest trajectory.
    """
    traits, address, context = (
        server_traits(options),
        urlsplit(options.score.teacher_url or ""),
        longest(options.rollout) + 1,
    )
    if not traits.command:
        return f"completions with echo and logprobs, for prompts of token ids, with a context of {context:,} tokens"
    name = options.score.teacher_served_name
    words = {
        "model": teacher,
        "file": f"{PurePath(teacher).name}.gguf",
        "dtype": type_of(options.network.for_teacher(options.score)),
        "context": str(context),
        "shared_context": str(PARALLEL * context),
        "slots": str(PARALLEL),
        "host": address.hostname or "",
        "port": str(address.port or 80),
    }
    command = [word.format(**words) for word in traits.command.replace(" {name}", " NAME").split()]
    named = [traits.name, name] if name else []
    at = command.index("NAME")
    return shlex.join([*command[:at], *named, *command[at + 1 :]])


def exchanged_tokens(options: TrainOptions) -> list[str]:
    """Return lines about the tokens that an update sends to the teacher's server, and what comes back."""
    traits, rollout = server_traits(options), options.rollout
    routes = with_servers(routes_of(options.teachers), options.score.teacher_urls)
    supposed = ", if a server scores every trajectory" if any(each.url is None for each in routes) else ""
    count = rollout.problems * rollout.group
    prompt, response = LIKELY_SHARE * rollout.max_prompt_tokens, LIKELY_SHARE * rollout.max_tokens
    whole = count * (prompt + response)
    if traits.by_token:
        sent, returned = count * response * (prompt + response / 2), count * response * options.score.teacher_top
        requests = f" in {as_count(count * response)} requests, one for each sampled token"
    else:
        sent, returned, requests = whole, whole if traits.prompt_returned else count * response, ""
    once = rollout.problems * prompt + count * response
    read = f"at least {as_count(once)} tokens read" if traits.caches else f"up to {as_count(whole)} tokens read"
    return [
        f"estimated per update{supposed}: {as_count(sent)} tokens sent{requests}, {as_count(returned)} log-probabilities "
        f"returned (assumed: {traits.title}; prompt and response of each trajectory, {LIKELY_SHARE:.0%} of the longest)",
        f"the prompt of a group's {rollout.group} trajectories is {traits.reuse}: {read}",
    ]
