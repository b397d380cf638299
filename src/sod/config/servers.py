"""Kinds of servers that a teacher can be on: what each returns, and the command that starts it. Standard library alone.

`sod.teachers.dialects` has the requests and responses of each.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTraits:
    """A kind of server. Dry runs read it; the dialect of the kind has the same `exact` and `caches`."""

    title: str
    exact: bool = True
    """Whether every log-probability is exact. Otherwise some are upper bounds."""
    caches: bool = False
    """Whether a prompt that was scored before is read from the cache."""
    by_token: bool = False
    """Whether each of the student's tokens costs a request."""
    prompt_returned: bool = True
    """Whether the response has log-probabilities of the prompt."""
    reuse: str
    """How often the prompt of a group is read."""
    command: str = ""
    """Command that starts it. Empty: several programs are of this kind."""
    name: str = "--served-model-name"
    """The command's option for the model's name."""


PARALLEL = 4
"""Trajectories that the printed command of llama.cpp's server scores at once. They share its context."""

SERVERS: dict[str, ServerTraits] = {
    "vllm": ServerTraits(
        title="vLLM",
        reuse="read again for every trajectory",
        command="vllm serve {model} {name} --dtype {dtype} --max-model-len {context} --host {host} --port {port}",
    ),
    "sglang": ServerTraits(
        title="SGLang",
        caches=True,
        prompt_returned=False,
        reuse="read once, if the server's cache keeps it",
        command="python -m sglang.launch_server --model-path {model} {name} --dtype {dtype} --context-length {context} "
        "--host {host} --port {port}",
    ),
    "llamacpp": ServerTraits(
        title="llama.cpp",
        exact=False,
        caches=True,
        by_token=True,
        prompt_returned=False,
        reuse="read once per slot",
        command="llama-server --model {file} {name} --ctx-size {shared_context} --parallel {slots} --host {host} --port {port}",
        name="--alias",
    ),
    "openai": ServerTraits(
        title="completions with echo", reuse="read once or for every trajectory: the server decides"
    ),
}
"""By the values of `score.teacher_server`, except auto."""
USUAL = "vllm"
"""The kind that dry runs assume for auto."""
