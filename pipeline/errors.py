"""The errors this program raises on purpose, and the exit code each carries.

    PromptmillError                 1
    ├── JobError                    2   job file or usage: nothing was sent
    │   ├── DatasetError            2   the prompt dataset: missing, unreadable, duplicate ids, changed while read
    │   └── SetupError              2   the machine: a missing package, variable or permission
    ├── RunFolderError              2   the run folder is not usable for this job
    ├── StorageError (run_folder)   1   the run folder took no more writes
    ├── RunFolderGone (run_folder)  1   it was deleted or moved under the run
    ├── LedgerError (monthly)       1   the ledger of months took no more writes
    ├── RunFolderBusy               75  another run holds it
    └── ServerStartError            4   a server we start as a child (local model, simulator) did not come up
    Interrupted (no Exception)      130, 143   a signal that came before there was anything to drain

A row's own trouble is never an exception: it is a `records.Failure`. Each message says what was expected, what was found
and what to do next; the command line prints it without a traceback.
"""


class PromptmillError(Exception):
    """Base of every error a user may see; `exit_code` is what the process ends with."""

    exit_code = 1


class JobError(PromptmillError):
    """The job file or the command line asks for something that cannot be done."""

    exit_code = 2


class DatasetError(JobError):
    """The prompt dataset cannot be used as it is."""


class SetupError(JobError):
    """Something outside the job is missing: a package, an environment variable, a permission."""


class RunFolderError(PromptmillError):
    """The run folder cannot be used for this job."""

    exit_code = 2


class RunFolderBusy(PromptmillError):
    """Another run holds this run folder."""

    exit_code = 75


class ServerStartError(PromptmillError):
    """A server that the run starts for itself did not become ready."""

    exit_code = 4


class Interrupted(BaseException):
    """A signal ends a run that has not begun to ask. As KeyboardInterrupt, it passes by all who handle errors."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
