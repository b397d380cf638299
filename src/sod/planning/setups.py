"""The set-ups that `sod plan` tries, as data: sets of options, the reason for each, and what to try if one does not fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Changes = dict[str, Any]
"""Values of options by their dotted names."""

SPARED: Changes = {"learn.checkpointing": True}
AWAY: Changes = {"score.offload_teacher": True}
NARROW: Changes = {"learn.optimizer": "adamw_8bit"}
LORA: Changes = {"learn.lora_rank": 32, "learn.lr": 1e-5}
SERVED_TEACHER: Changes = {"score.teacher_url": "http://127.0.0.1:8001"}
SERVED_SAMPLER: Changes = {
    "engine.name": "vllm_server",
    "engine.url": "http://127.0.0.1:8000",
    "engine.exchange": Path("/dev/shm"),
}
UNCHANGED = "the training is unchanged"
COARSE = "all weights are trained, with 8-bit AdamW moments"
DIFFERENCE = "no set-up that trains all weights fits; LoRA adapters fit, but this is not the paper's experiment"


@dataclass(frozen=True, slots=True)
class Way:
    """A training set-up."""

    name: str
    why: str
    """Its advantages or disadvantages."""
    rungs: tuple[Changes, ...]
    """Alternative sets of options, in order. Each is tried if the one before does not fit, or to find a faster one."""

    @property
    def level(self) -> int:
        """Return how much the set-up changes the training: 0 for nothing, 1 for rounding, 2 for LoRA."""
        return 2 if DIFFERENCE in self.why else 0 if UNCHANGED in self.why else 1


def ways_in_processes(gpus: int, taught: bool, problems: int, served: bool) -> list[Way]:
    """Return the set-ups with several processes: at most one per problem of an update, because problems are not divided.

    `served`: the teacher may be on a server, which is for one teacher.
    """
    count = min(gpus, problems)
    some = f"{count} GPUs sample, score and train, one for each problem of an update (rollout.problems)"
    every = f"{some if count < gpus else 'every GPU samples, scores and trains'}, and {UNCHANGED}"
    ways = [Way(f"{count} processes", every, _sparing({"processes": count}))]
    if taught:
        divided: Changes = {"processes": count, "score.shard_teacher": True}
        why = f"{every}; an unsharded teacher does not fit on each"
        ways.append(Way(f"{count}, teacher sharded", why, _sparing(divided)))
    if served and gpus > 2:
        count = min(gpus - 1, problems)
        who = "all other GPUs" if count == gpus - 1 else f"{count} GPUs, one for each problem of an update,"
        why = f"the teacher has a GPU of its own, {who} sample and train, and {UNCHANGED}"
        ways.append(Way(f"{count} + 1 for teacher", why, _sparing({"processes": count} | SERVED_TEACHER)))
    return ways


def ways_with_servers(taught: bool, served: bool) -> list[Way]:
    servers = [("vLLM", "sampling", _sparing(SERVED_SAMPLER, taught))]
    servers += [("teacher", "the teacher", _sparing(SERVED_TEACHER))] if served else []
    own = [(name, f"{who} has a GPU of its own, and", rungs) for name, who, rungs in servers]
    return [
        *(Way(f"1 + 1 for {name}", f"{why} {UNCHANGED}", rungs) for name, why, rungs in own),
        *(Way(f"1 + 1 {name}, 8-bit", f"{why} {COARSE}", _coarse(rungs)) for name, why, rungs in own),
    ]


def ways_on_one(taught: bool) -> list[Way]:
    rungs = _sparing({}, taught)
    coarse = _coarse(rungs)
    return [
        Way("1 GPU", f"one GPU is enough, and {UNCHANGED}", rungs[:1]),
        Way("1 GPU, checkpointing", f"one GPU is enough, and {UNCHANGED}", rungs[1:]),
        Way("1 GPU, 8-bit AdamW", COARSE, coarse),
        Way("1 GPU, LoRA", DIFFERENCE, tuple(rung | LORA for rung in coarse)),
    ]


def ways_here(taught: bool) -> list[Way]:
    slow = "CPUs are slow: try a small model first"
    narrow: Changes = SPARED | {"network.dtype": "bfloat16"}
    coarse = ((SPARED | {"score.teacher_dtype": "bfloat16"}, narrow)) if taught else (narrow,)
    return [
        Way("CPU", f"{UNCHANGED}, but {slow}", _sparing({})),
        Way("CPU, bfloat16", f"all weights are trained, but {slow}", coarse),
        Way("CPU, LoRA", DIFFERENCE, (narrow | LORA,)),
    ]


def _sparing(changes: Changes, away: bool = False) -> tuple[Changes, ...]:
    """Return options from more memory to less. `away`: the last ones keep the teacher off the GPU."""
    rungs = changes, changes | SPARED
    return (*rungs, changes | SPARED | AWAY) if away else rungs


def _coarse(rungs: tuple[Changes, ...]) -> tuple[Changes, ...]:
    """Return the memory-saving options (all except the first ones) with 8-bit AdamW in addition."""
    return tuple(rung | NARROW for rung in rungs[1:])
