"""Every error that sod raises on purpose.

SodError
├── UsageError                 the user can fix it; the message states the problem, the place and the fix
│   ├── OptionError            an option is unknown or has an invalid value
│   ├── DataError              a file of problems or demonstrations is missing, empty or malformed
│   ├── TemplateError          a chat template cannot be rendered token-exactly
│   ├── ModelError             a model cannot be loaded, or student and teacher are incompatible
│   └── RunError               a run directory cannot be written, resumed or read
├── InfrastructureError        infrastructure failed; the attempt is retried, then dropped, never trained on
│   ├── SandboxError           the sandbox could not run a program (the program itself did not fail)
│   ├── RankError              another process of the run has failed, died or stopped responding
│   └── OutageError            infrastructure failed for so long that the run stops; resume it later
├── TrainingError              the update itself is broken (non-finite numbers, no token to train on)
│   └── AlarmError             an alarm in `stop_on` stopped the run, after it saved a checkpoint
├── UnfinishedError            work is left that this call does not do; the same command continues
├── CapacityError              the GPU's memory is full; the message names options that need less
└── DoctorError                `sod doctor` found something that does not work or is not safe

Mistakes of the *student* are not errors here; the student reads them as text (`sod.tools`).
"""


class SodError(Exception):
    """Base class of every error raised on purpose."""


class UsageError(SodError):
    """The user asked for something that cannot work, and can fix it."""


class OptionError(UsageError):
    """An option is unknown, or its value is invalid."""


class DataError(UsageError):
    """A file of problems or demonstrations is missing, empty or malformed."""


class TemplateError(UsageError):
    """A chat template cannot be rendered token-exactly."""


class ModelError(UsageError):
    """A model cannot be loaded, or student and teacher are incompatible."""


class RunError(UsageError):
    """A run directory cannot be written, resumed or read."""


class InfrastructureError(SodError):
    """Infrastructure failed. The student did not cause it, and must not be trained on the attempt."""


class SandboxError(InfrastructureError):
    """The sandbox could not run a program."""


class RankError(InfrastructureError):
    """Another process of this run has failed, died or stopped responding; the run cannot continue without it."""

    def __init__(self, message: str, *, unsaid: bool = False):
        super().__init__(message)
        self.unsaid = unsaid
        """True if the process that died is the first one, which prints for all processes."""


class OutageError(InfrastructureError):
    """Infrastructure stayed down. Retries do not help; the run should stop and be resumed later."""


class TrainingError(SodError):
    """The update is broken: non-finite numbers, or no token to train on."""


class AlarmError(TrainingError):
    """An alarm in `stop_on` stopped the run."""

    def __init__(self, message: str, alarm: str):
        super().__init__(message)
        self.alarm = alarm


class UnfinishedError(SodError):
    """Work is left that this call does not do: its time is over, or other processes do it. The same command continues."""


class CapacityError(SodError):
    """The GPU's memory is full."""


class DoctorError(SodError):
    """A check of this machine failed: a part does not work, or a hostile program was not stopped."""


EXIT_FAILED, EXIT_USAGE, EXIT_TRY_AGAIN, EXIT_INTERRUPTED = 1, 2, 75, 130
"""Exit statuses of the command line. 75: the same command may work later. 130: Ctrl-C."""
