"""Every error that sod raises on purpose.

SodError
├── UsageError                 the user can mend it; the message says what, where and what to do
│   ├── OptionError            an option is unknown or has a value that cannot work
│   ├── DataError              a file of problems or demonstrations is missing, empty or malformed
│   ├── TemplateError          a chat template cannot be rendered token-exactly
│   ├── ModelError             a model cannot be loaded, or student and teacher do not fit together
│   └── RunError               a run directory cannot be written, resumed or read
├── InfrastructureError        our machinery failed: retried, then the attempt is dropped, never trained on
│   ├── SandboxError           a program could not be run (it did not fail: it never had its chance)
│   ├── RankError              another process of the run has failed, died or fallen silent
│   └── OutageError            it failed for so long that the run stops, to be taken up again later
├── TrainingError              the update itself is broken (non-finite numbers, nothing to learn from)
└── DoctorError                `sod doctor` found something that does not work or is not safe

What the *student* does wrong is not here: it is text for the student to read (`sod.tools`).
"""


class SodError(Exception):
    """Base of every error raised on purpose."""


class UsageError(SodError):
    """The user asked for something that cannot work, and can mend it."""


class OptionError(UsageError):
    """An option is unknown, or its value cannot work."""


class DataError(UsageError):
    """A file of problems or demonstrations is missing, empty or malformed."""


class TemplateError(UsageError):
    """A chat template cannot be rendered token-exactly."""


class ModelError(UsageError):
    """A model cannot be loaded, or student and teacher do not fit together."""


class RunError(UsageError):
    """A run directory cannot be written, resumed or read."""


class InfrastructureError(SodError):
    """Our own machinery failed; the student is not to blame and must not be trained on it."""


class SandboxError(InfrastructureError):
    """The sandbox could not run a program at all."""


class RankError(InfrastructureError):
    """Another process of this run has failed, died or fallen silent; without it the run cannot go on."""

    def __init__(self, message: str, *, unsaid: bool = False):
        super().__init__(message)
        self.unsaid = unsaid
        """Whether the first process, which speaks for all, is the one that has died."""


class OutageError(InfrastructureError):
    """Our own machinery stayed down; no retry helps, and the run should stop and be resumed later."""


class TrainingError(SodError):
    """The update is broken: non-finite numbers, or no token to learn from."""


class DoctorError(SodError):
    """This machine is not fit: a part does not work, or a hostile program got through."""
