"""The job: what its TOML file may hold, how it is read, and where its requests go."""

from pipeline.jobspec.load import JobSpec, expand, load_job, shared_state
from pipeline.jobspec.sections import InputSection, JobFile, PromptSection, ResponseSection, seconds
from pipeline.jobspec.target import Target, key_variable, resolve_target

__all__ = [
    "InputSection",
    "JobFile",
    "JobSpec",
    "PromptSection",
    "ResponseSection",
    "Target",
    "expand",
    "key_variable",
    "load_job",
    "resolve_target",
    "seconds",
    "shared_state",
]
