"""Options `--score`: the log-probabilities of student and teacher, and the teacher's server."""

from typing import Literal

from sod.config.base import Count, OptionalNames, Options, Positive, PositiveReal, Rare, ReadsFiles, ResumeMayChange


class PlannedScoreOptions(Options):
    """Where the teachers of a plan are."""

    teacher_urls: OptionalNames = ()
    """Several teachers only: the servers of those that are not loaded here, each as KEY=URL, as in `sod train`. Their memory is
    not counted. Default: load all of them here."""


class ScoreOptions(Options):
    """How student and teacher score the sampled tokens."""

    student: Rare[Literal["recompute", "sampler"]] = "recompute"
    """How to obtain the student's old log-probabilities, which the policy ratio and the divergence are computed against.
    recompute: with a forward pass over every trajectory, as in the paper; results repeat bit for bit. sampler: from the
    engine; saves that pass and differs by rounding (checked on the longest trajectory of each group)."""
    teacher_dtype: Rare[Literal["same", "float32", "bfloat16"]] = "same"
    """Data type of the teacher's weights. same: network.dtype. bfloat16 halves the memory of a float32 teacher."""
    offload_teacher: Rare[ResumeMayChange[bool]] = False
    """Keep the weights of the teacher, and the initial weights for learn.kl, in CPU memory and copy them to the GPU only while
    they score."""
    shard_teacher: Rare[ResumeMayChange[bool]] = False
    """With several processes: shard the teacher's weights among them, if one GPU cannot hold the teacher. It then scores after
    all trajectories are sampled, instead of at the same time."""
    teacher_template: Rare[ReadsFiles[str | None]] = None
    """For a teacher with another tokenizer: chat template in place of the teacher's own. hermes: a template with tools, for a
    teacher without one. FILE.jinja: your own. Default: the teacher's own template."""
    span_signal: Rare[Literal["equal", "surprise"]] = "equal"
    """For a teacher with another tokenizer: how the signal of a span is shared among the student's tokens in it
    (docs/teachers.md). equal: the same share for each. surprise: in proportion to -log pi of the student."""
    probe_problems: Rare[ResumeMayChange[Count]] = 0
    """`sod train`: number of the problems that teacher and student solve once before training, to compare them. 0 skips this; 64
    takes about as long as the sampling of 64 attempts with each model."""
    teacher_url: Rare[ResumeMayChange[str | None]] = None
    """Address of a server with the teacher (docs/teachers.md), such as http://127.0.0.1:8001. --teacher then names the
    teacher's tokenizer. If --teacher also has the weights, the server is verified against a forward pass. Default: load the
    teacher here."""
    teacher_urls: Rare[ResumeMayChange[OptionalNames]] = ()
    """Several teachers only: the servers of those that are not loaded here, each as KEY=URL with a KEY of --teachers, or as
    KEY=URL#NAME with the teacher's name on the server. Default: load all of them here."""
    teacher_served_name: Rare[ResumeMayChange[str | None]] = None
    """The teacher's name on its server. Default: the server's only model."""
    teacher_server: Rare[ResumeMayChange[Literal["auto", "vllm", "sglang", "llamacpp", "openai"]]] = "auto"
    """Kind of the teacher's server. openai: completions with echo and logprobs. auto: found by a request at the start."""
    teacher_top: Rare[Positive] = 100
    """A teacher on llama.cpp's server only: number of most likely tokens that it returns. A token outside them has only an upper
    bound (docs/teachers.md)."""
    teacher_patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """Longest wait for a teacher's server that does not respond, in seconds. After it, the run stops with exit status 75."""
