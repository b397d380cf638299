"""All rules about incompatible options. A run raises OptionError for the first broken rule; a dry run prints all.

No model is loaded. torch is only imported for the user's own code: a weighting rule is tried, a tool is imported.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from sod.config import (
    AlgorithmOptions,
    EngineOptions,
    EvalOptions,
    HeldOutOptions,
    LearnOptions,
    OptimiserOptions,
    RewardOptions,
    SamplingOptions,
    SandboxOptions,
    ScoreOptions,
    ServeOptions,
    SftOptions,
    ToolOptions,
    TrainOptions,
)
from sod.config.teachers import routes_of, with_servers
from sod.credit.systems import SYSTEMS, SystemTraits, traits
from sod.engines import CANNOT_TRAIN, ENGINES, INSTALL_VLLM
from sod.engines.choice import wrong_vllm
from sod.environments.choosing import DEFAULT, environment_maker
from sod.errors import OptionError
from sod.model.devices import device_refusal
from sod.report import paper
from sod.rewards.referee import reward_refusals
from sod.runs.alarms import ALARMS
from sod.sandbox import retries
from sod.trackers import base as trackers

CLIP_RANGES = {"gspo": (3e-4, 4e-4), "cispo": (1.0, 4.0)}
"""Lower and upper clip range in the papers of losses whose ratios are on another scale (docs/losses.md)."""
Refusals = Iterator[str]
"""Messages: what is wrong, why, and what to type."""
NOT_INSTALLED = "which is not installed. Type"
"""Part of a refusal that a command on this machine removes."""


def check(refusals: Refusals) -> None:
    """Raise OptionError with the first message, if there is one."""
    for refusal in refusals:
        raise OptionError(refusal)


def of_fine_tuning(options: SftOptions, processes: int) -> Refusals:
    yield from of_device(options.network.device)
    yield from of_learning(options.learn, processes)
    yield from of_held_out(options.validate)
    yield from _of_solving(options, processes)
    yield from trackers.tracker_refusals(options.track)


def of_training(options: TrainOptions, processes: int) -> Refusals:
    yield from of_device(options.network.device)
    yield from of_learning(options.learn, processes)
    yield from _of_system(options)
    yield from _of_teachers(options)
    yield from of_teacher(options.teacher, options.score)
    yield from of_engine(options.engine, options.rollout, trains=True)
    yield from of_servers(options.engine, processes)
    yield from of_sandbox(options.sandbox)
    yield from of_tools(options.tool, options.sandbox)
    yield from of_environment(options.environment)
    yield from of_reward(options.reward)
    yield from trackers.tracker_refusals(options.track)
    if options.rollout.problems < processes:
        yield (
            f"rollout.problems is {options.rollout.problems}, too few for {processes} processes, because each needs at least "
            "one. Raise it, or start fewer processes."
        )
    if options.rollout.top_p < 1:
        yield (
            "rollout.top_p must be 1 for training: nucleus sampling truncates the distribution, so the policy ratio would be "
            "wrong."
        )
    if options.algorithm.divergence == "exact" and options.score.student == "sampler":
        yield (
            "algorithm.divergence = exact requires score.student = recompute, because the sampler only returns the "
            "log-probability of the sampled token."
        )
    yield from _of_problems(options)
    yield from _of_ahead(options)
    yield from _of_guided(options)
    if options.engine.kv_dtype == "fp8" and options.learn.correction == "none":
        yield (
            "engine.kv_dtype = fp8 changes the probabilities that vLLM samples with, which learn.correction = none does not "
            "correct. Set learn.correction to truncated, masked or icepop, or leave engine.kv_dtype out."
        )
    if options.engine.sleep and options.network.device == "cpu":
        yield "engine.sleep frees memory of a GPU, but network.device is cpu. Leave it out."
    yield from _of_loss(options.learn)
    yield from of_held_out(options.validate)
    for name in options.stop_on:
        if name not in ALARMS:
            yield f"stop_on: there is no alarm {name!r}. Choose from {', '.join(ALARMS)}."


def of_held_out(options: HeldOutOptions) -> Refusals:
    if options.stop_after and not options.data:
        yield (
            f"validate.stop_after = {options.stop_after} has no effect without validate.data. Give held-out data as "
            "--validate.data, or leave validate.stop_after out."
        )


def _of_solving(options: SftOptions, processes: int) -> Refusals:
    solve = options.validate.solve
    if solve is not None and not options.validate.data:
        yield (
            f"validate.solve = {solve} has no effect without validate.data. Give held-out demonstrations as --validate.data, or "
            "leave validate.solve out."
        )
    if solve is not None and processes > 1:
        yield f"validate.solve = {solve} needs a single process, but {processes} are running. Leave it out, or start one process."


def of_device(device: str) -> Refusals:
    if refusal := device_refusal(device):
        yield refusal


def of_evaluation(options: EvalOptions) -> Refusals:
    yield from of_device(options.network.device)
    yield from _of_teachers(options)
    yield from of_teacher(options.teacher, options.score)
    yield from of_engine(options.engine, options.rollout, trains=False)
    yield from of_sandbox(options.sandbox)
    yield from of_tools(options.tool, options.sandbox)
    yield from of_environment(options.environment)
    yield from of_reward(options.reward)
    if options.score.probe_problems:
        yield "score.probe_problems has no effect in an evaluation, which measures solve rates itself. Leave it out."
    if options.paper is not None and (refusal := paper.refusal(options.paper)):
        yield refusal
    if (options.teacher is not None or options.teachers) and not ENGINES[options.engine.name].loads_model:
        yield (
            f"--teacher does not work with engine.name = {options.engine.name}: it needs the model's weights on this machine. "
            "Leave one of the two out."
        )


def of_serving(options: ServeOptions) -> Refusals:
    yield from of_device(options.network.device)
    yield from of_engine(options.engine, options.rollout, trains=False)
    yield from of_sandbox(options.sandbox)
    yield from of_reward(options.reward)


def of_learning(options: OptimiserOptions, processes: int) -> Refusals:
    """Check options that save memory in a single process. Several processes shard the weights instead."""
    saving: tuple[tuple[str, bool, str, str], ...] = (
        ("learn.lora_rank", options.lora_rank > 0, "0", "peft"),
        ("learn.optimizer = adamw_8bit", options.optimizer != "adamw", "adamw", "bitsandbytes"),
    )
    for name, is_used, default, package in saving:
        if is_used and processes > 1:
            yield (
                f"{name} is only supported with a single process, but {processes} are running. Set "
                f"{name.split()[0]} to {default}, or start one process."
            )
        if is_used and find_spec(package) is None:
            yield f'{name} needs {package}, {NOT_INSTALLED} pip install ".[lean]" in a checkout of sod.'


def of_teacher(teacher: Path | None, options: ScoreOptions) -> Refusals:
    """Check the options of a teacher on a server."""
    if options.teacher_url is None:
        if options.teacher_server != "auto" and not options.teacher_urls:
            yield "score.teacher_server is the kind of a server, but no server is given. Give --score.teacher_url as well."
        if options.teacher_served_name is not None:
            yield "score.teacher_served_name is a name on a server, but no server is given. Give --score.teacher_url as well."
        return
    yield from _of_address("score.teacher_url", options.teacher_url)
    if teacher is None:
        yield "score.teacher_url needs the teacher's tokenizer. Give its directory or hub name as --teacher."
    for name, is_given in (("offload_teacher", options.offload_teacher), ("shard_teacher", options.shard_teacher)):
        if is_given:
            yield f"score.{name} is for a teacher on this machine, not on a server. Leave it or score.teacher_url out."


def of_one_teacher(options: ScoreOptions) -> Refusals:
    """Check the options of a command that has at most one teacher."""
    if options.teacher_urls:
        yield "score.teacher_urls has the servers of several teachers, but teachers names none. Give --score.teacher_url."


def of_translation(options: TrainOptions | EvalOptions, teacher: Path) -> Refusals:
    """Check the options of a run whose teacher has another tokenizer than the student."""
    other = f"the teacher {teacher} has another tokenizer than the student"
    if options.score.shard_teacher:
        yield f"score.shard_teacher needs a teacher with the student's tokenizer, but {other}. Leave it out, or use a server."
    if isinstance(options, EvalOptions):
        return
    name = options.algorithm.name
    if options.algorithm.divergence == "exact":
        yield (
            f"algorithm.divergence = exact compares candidates of one vocabulary, but {other}. Use sampled, or a teacher with "
            "the student's tokenizer."
        )
    if options.rollout.guided.probability > 0:
        yield f"rollout.guided.probability needs a teacher with the student's tokenizer, but {other}. Leave it out."
    if "teacher" in _reads(traits(name)):
        yield (
            f"algorithm.name = {name} reads the teacher's log-probability of each token, but {other}, so it has those of spans "
            "of text. Choose another rule, or another teacher."
        )


def _of_teachers(options: TrainOptions | EvalOptions) -> Refusals:
    """Check several teachers."""
    if not options.teachers:
        yield from of_one_teacher(options.score)
        return
    if options.teacher is not None:
        yield "teachers and teacher both name a teacher. Give one of the two; *=MODEL is the teacher of all other problems."
    if options.score.teacher_url is not None:
        yield (
            "score.teacher_url is the server of one teacher, but teachers names several. Give each server as "
            "--score.teacher-urls KEY=URL."
        )
    try:
        for route in with_servers(routes_of(options.teachers), options.score.teacher_urls):
            if route.url is not None:
                yield from _of_address("score.teacher_urls", route.url)
    except OptionError as error:
        yield str(error)


def of_engine(options: EngineOptions, rollout: SamplingOptions, *, trains: bool) -> Refusals:
    """Check the engine, its address and its sampling parameters. `trains`: the weights change during sampling."""
    engine = ENGINES[options.name]
    if (options.url is None) == engine.is_remote:
        yield (
            f"engine.name = {options.name} needs the address of its server. Give --engine.url."
            if engine.is_remote
            else f"engine.url is the address of a server, but engine.name = {options.name} uses no server. Leave it out, or give "
            f"--engine.name {' or '.join(name for name, each in ENGINES.items() if each.is_remote)}."
        )
    if options.url is not None:
        yield from _of_address("engine.url", options.url)
    if trains and not engine.trains:
        yield CANNOT_TRAIN.format(name=options.name)
    if engine.package is not None and find_spec(engine.package) is None:
        yield (
            f"engine.name = {options.name} needs {engine.package}, {NOT_INSTALLED} {INSTALL_VLLM}, or "
            "run it as a server from its own environment (--engine.name vllm_server)."
        )
    elif engine.package is not None and (refusal := wrong_vllm()):
        yield refusal
    for name, is_given in (("kv_dtype", options.kv_dtype != "auto"), ("sleep", options.sleep)):
        if is_given and options.name != "vllm":
            yield (
                f"engine.{name} is for vLLM in this process, but engine.name = {options.name}. Leave it out"
                + (
                    ", and start the server with --kv-cache-dtype fp8."
                    if engine.is_remote and name == "kv_dtype"
                    else "."
                )
            )
    if engine.exchanges_weights and rollout.temperature < 0.01:
        yield (
            f"rollout.temperature = {rollout.temperature:g} is too low for vLLM, which would sample at 0.01 instead. Set it to "
            "0.01 or more, or use --engine.name hf."
        )
    if engine.exchanges_weights and rollout.temperature != 1 and rollout.top_p != 1:
        yield (
            f"vLLM returns log-probabilities before temperature or after top_p. With rollout.temperature = "
            f"{rollout.temperature:g} and rollout.top_p = {rollout.top_p:g}, neither are those of the policy. Set one of the two "
            "to 1, or use --engine.name hf."
        )


def of_servers(options: EngineOptions, processes: int) -> Refusals:
    """Check that each of several processes has its own vLLM server. Each sends weights to its server."""
    if options.name == "vllm_server" and options.url and processes > 1 and "{rank}" not in options.url:
        yield (
            f"{processes} processes need a vLLM server each, but engine.url is a single address. Write {{rank}} where the "
            "addresses differ, such as --engine.url http://127.0.0.1:800{rank}."
        )


def of_sandbox(options: SandboxOptions) -> Refusals:
    yield from retries.refusals(options)
    if options.url is not None:
        yield from _of_address("sandbox.url", options.url)


def of_tools(options: ToolOptions, sandbox: SandboxOptions) -> Refusals:
    """Check which tools are selected, and the user's own tools by importing their files."""
    if options.session == "on" and sandbox.backend == "fusion":
        yield retries.NO_SESSIONS
    if options.session == "on" and options.show_last_expr == "reference":
        yield (
            "tool.session = on does not work with tool.show_last_expr = reference, because the paper's interpreter keeps "
            "nothing. Leave one of the two out."
        )
    if options.mcp or options.mcp_only:
        from sod.tools import mcp

        yield from mcp.mcp_refusals(options)
    if "search" in options.use:
        from sod.tools import search

        yield from search.search_refusals(options)
    if options.own:
        from sod.tools.own import own_tools

        try:
            own_tools(options)
        except OptionError as error:
            yield str(error)


def of_environment(name: str) -> Refusals:
    """Check that there is such an environment, by importing it."""
    try:
        if name != DEFAULT:
            environment_maker(name)
    except OptionError as error:
        yield str(error)


def of_reward(options: RewardOptions) -> Refusals:
    """Check the judge and the parts of the reward by importing the user's own functions."""
    yield from reward_refusals(options)
    if options.llm.url is not None:
        yield from _of_address("reward.llm.url", options.llm.url)


def _of_loss(options: LearnOptions) -> Refusals:
    """Check that a loss has a clip range of its own scale, and that a correction leaves some weights."""
    given = options.model_fields_set
    cap, floor = options.correction_cap, options.correction_floor
    if options.correction == "icepop" and cap is not None and cap <= floor:
        yield (
            f"learn.correction_cap is {cap:g}, not above learn.correction_floor = {floor:g}, so every weight is 0. Give a cap "
            "above 1 and a floor below 1, such as 5 and 0.5."
        )
    if options.loss in CLIP_RANGES and not {"clip_low", "clip_high"} <= given:
        low, high = CLIP_RANGES[options.loss]
        yield (
            f"learn.loss = {options.loss} needs another clip range than the default of ppo. Give both ends, such as "
            f"--learn.clip-low {low:g} --learn.clip-high {high:g} (its paper's)."
        )


def _of_problems(options: TrainOptions) -> Refusals:
    """Check which problems are sampled, and in which order."""
    chosen, rollout = options.problems, options.rollout
    if chosen.rates is None:
        for name, is_given in (
            (f"order = {chosen.order}", chosen.order in ("easy_first", "hard_first")),
            ("lowest", chosen.lowest > 0),
            ("highest", chosen.highest < 1),
        ):
            if is_given:
                yield f"problems.{name} needs measured solve rates. Give a run of `sod eval` as --problems.rates."
    if chosen.lowest > chosen.highest:
        yield (
            f"problems.lowest is {chosen.lowest:g}, above problems.highest = {chosen.highest:g}, so no problem is "
            "left. Lower it."
        )
    if rollout.resample > 1 and rollout.group == 1:
        yield "rollout.resample needs several attempts at each problem, but rollout.group is 1. Raise it."
    if rollout.resample > 1 and options.algorithm.name in SYSTEMS and not traits(options.algorithm.name).uses_reward:
        yield (
            f"rollout.resample replaces problems on which the reward has no contrast, but algorithm.name = "
            f"{options.algorithm.name} does not use the reward. Leave one of the two out."
        )


def _of_ahead(options: TrainOptions) -> Refusals:
    """Check that a batch sampled ahead has an engine with earlier weights, and a correction for them."""
    if options.rollout.ahead == 0:
        return
    if not ENGINES[options.engine.name].exchanges_weights:
        yield (
            f"rollout.ahead = 1 samples while the student learns, but engine.name = {options.engine.name} samples with the "
            "weights that are learning. Use --engine.name vllm or vllm_server, or leave --rollout.ahead out."
        )
    if options.engine.sleep:
        yield "rollout.ahead = 1 samples while the student learns, and engine.sleep does not. Leave one of the two out."
    if options.learn.correction == "none":
        yield (
            "rollout.ahead = 1 samples with weights that are one update old, which learn.correction = none does not correct. Set "
            "learn.correction to truncated, masked or icepop, or leave --rollout.ahead out."
        )
    if options.score.student == "sampler":
        yield (
            "rollout.ahead = 1 needs the log-probabilities of the present weights, but score.student = sampler takes those of "
            "the weights that sampled. Use score.student = recompute."
        )


def _of_guided(options: TrainOptions) -> Refusals:
    """Check that there is one teacher that can write turns: whole, awake while the student samples."""
    if options.rollout.guided.probability == 0:
        return
    name, score = options.algorithm.name, options.score
    asks = f"rollout.guided.probability = {options.rollout.guided.probability:g} lets the teacher write turns"
    leave = "Leave one of the two out."
    if options.teacher is None:
        lacks = "the teachers are several" if options.teachers else "no teacher is given as --teacher"
        yield f"{asks}, but {lacks}. Give one teacher as --teacher, or leave rollout.guided out."
    if score.shard_teacher:
        yield f"{asks}, but score.shard_teacher divides it among the processes. {leave}"
    if score.offload_teacher:
        yield f"{asks}, but score.offload_teacher frees its memory while the student samples. {leave}"
    if options.rollout.ahead:
        yield f"{asks} in this process, but rollout.ahead = 1 samples while this process learns. {leave}"
    if name in SYSTEMS and "teacher_rates" in traits(name).reads and "right" in traits(name).reads:
        yield (
            f"{asks}, so the student's solve rate, which algorithm.name = {name} compares with the teacher's, is no longer its "
            "own. Choose another rule, or leave rollout.guided out."
        )


def _of_system(options: TrainOptions) -> Refusals:
    """Check the algorithm and its teacher."""
    name = options.algorithm.name
    try:
        system = traits(name)
        reads = _reads(system)
    except OptionError as error:
        yield str(error)
        return
    yield from _of_outcome(options.algorithm, system)
    if system.needs_teacher and options.teacher is None and not options.teachers:
        yield f"algorithm.name = {name} needs a teacher. Give --teacher."
    if system.context is not None and (options.teacher is not None or options.teachers):
        yield f"algorithm.name = {name} uses the student itself as its teacher. Leave --teacher out."
    if options.score.probe_problems and not system.needs_teacher:
        yield (
            f"score.probe_problems has no effect with algorithm.name = {name}, which has no teacher beside the student. Leave it "
            "out."
        )
    if options.opsd.tell_answer and system.context != "feedback":
        yield f"opsd.tell_answer has no effect with algorithm.name = {name}. Leave it out, or use opsd_feedback."
    if options.score.teacher_url is not None or options.score.teacher_urls:
        yield from _of_served_teacher(options, system, by_entropy="teacher_entropy" in reads)
        if options.score.teacher_server == "llamacpp" and "teacher" in reads:
            yield (
                f"algorithm.name = {name} reads the teacher's log-probability of every token, but llama.cpp's server only "
                "returns those of the most likely ones. Choose another rule, or another server."
            )
    yield from _of_inputs(options, system, reads)
    if system.context is not None and options.opsd.template is not None:
        for part in ("{question}", "{context}"):
            if part not in options.opsd.template:
                yield (
                    f"opsd.template has no {part}. Write {{question}} for the student's message, and {{context}} for the "
                    "answer or hint."
                )


def _of_inputs(options: TrainOptions, system: SystemTraits, reads: frozenset[str]) -> Refusals:
    """Check that the run provides the inputs of the rule."""
    algorithm = options.algorithm
    if "student_entropy" in reads and (options.score.student == "sampler" or algorithm.divergence == "exact"):
        given = "score.student = sampler" if options.score.student == "sampler" else "algorithm.divergence = exact"
        yield (
            f"algorithm.name = {algorithm.name} reads the student's entropy, which is not computed with {given}. Use "
            "score.student = recompute and algorithm.divergence = sampled, or choose another rule."
        )
    if "teacher_rates" in reads and algorithm.teacher_rates is None:
        yield (
            f"algorithm.name = {algorithm.name} reads the teacher's solve rates, and none are given. Give a run of `sod eval` of "
            "the teacher on --data as --algorithm.teacher-rates."
        )
    if algorithm.teacher_rates is not None and "teacher_rates" not in reads:
        yield (
            f"algorithm.teacher_rates has no effect with algorithm.name = {algorithm.name}, which does not read them. Leave it "
            "out."
        )
    if system.rule == "gats" and options.rollout.resample > 1:
        yield (
            "algorithm.name = gats compares the student's solve rate with the teacher's, but rollout.resample = "
            f"{options.rollout.resample:g} leaves only problems that the student solves in part. Leave rollout.resample out, or "
            "choose another rule."
        )
    if system.whole and algorithm.divergence == "exact":
        yield (
            f"algorithm.divergence = exact needs a weight of the teacher's signal for every candidate, but algorithm.name = "
            f"{algorithm.name} computes the whole credit. Use sampled."
        )
    if algorithm.divergence == "exact" and _is_by_signal(system):
        yield (
            f"algorithm.divergence = exact weighs every candidate, but the weight of algorithm.name = {algorithm.name} depends "
            "on the signal of the sampled token, so it does not fit the others. Use sampled."
        )


def _of_outcome(options: AlgorithmOptions, system: SystemTraits) -> Refusals:
    """Check that the options of the reward's advantage belong to a system with one."""
    given = (("advantage", options.advantage != "grpo", "grpo"), ("kl_in_reward", options.kl_in_reward > 0, "0"))
    for option, is_given, default in given:
        if is_given and system.outcome is None:
            yield (
                f"algorithm.{option} has no effect with algorithm.name = {options.name}, which does not learn from the reward. "
                f"Set it to {default}, or choose another system."
            )


def _of_served_teacher(options: TrainOptions, system: SystemTraits, *, by_entropy: bool) -> Refusals:
    """Check that a server is enough as teacher. It only returns log-probabilities of the sampled tokens."""
    name, given = options.algorithm.name, "score.teacher_urls" if options.score.teacher_urls else "score.teacher_url"
    if system.context is not None:
        yield (
            f"algorithm.name = {name} uses the student itself as its teacher, not a model on a server. Leave "
            f"{given} out."
        )
    if options.algorithm.divergence == "exact":
        yield (
            "algorithm.divergence = exact needs the teacher's log-probability of every candidate, but a server only returns "
            f"those of the sampled tokens. Use sampled, or leave {given} out."
        )
    if by_entropy:
        yield (
            f"algorithm.name = {name} weights by the teacher's entropy, which a server does not return. Choose another "
            f"rule, or leave {given} out."
        )


def _reads(system: SystemTraits) -> frozenset[str]:
    """Return the inputs of the system's rule that are not always at hand (`sod.core.INPUTS`).

    The user's own rule is tried (`sod.credit.algorithms.inputs_of`). Raise OptionError if it cannot be loaded.
    """
    if not system.is_own:
        return system.reads
    from sod.credit.algorithms import inputs_of

    assert system.rule is not None
    return inputs_of(system.rule)


def _is_by_signal(system: SystemTraits) -> bool:
    """Return whether a token's weight is a function of its own signal. The user's own rule is tried."""
    if not system.is_own:
        return system.by_signal
    from sod.config.plugins import load
    from sod.credit.algorithms import own_system, weighs_by_signal

    assert system.rule is not None
    return weighs_by_signal(own_system(load(system.rule, option="algorithm.name")))


def _of_address(option: str, url: str) -> Refusals:
    if not is_address(url):
        yield f"{option}: {url!r} is not the address of a server. Write it like http://127.0.0.1:8001."


def is_address(url: str) -> bool:
    """Return whether this is the address of a server. It may contain {rank}, the number of a process."""
    try:
        address = urlsplit(url.replace("{rank}", "0"))
        return address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:  # an invalid port, an unclosed bracket
        return False
