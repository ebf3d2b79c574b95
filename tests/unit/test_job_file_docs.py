"""docs/job-file.md and the job file's sections hold the same keys."""

import re
from pathlib import Path

from pydantic import BaseModel

from pipeline.jobspec import JobFile

TEXT = (Path(__file__).parents[2] / "docs" / "job-file.md").read_text(encoding="utf-8")


def keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_every_key_of_every_section_is_in_the_docs() -> None:
    first_cells = " ".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("|"))
    documented = set(re.findall(r"`([a-z_]+)`", first_cells)) | set(re.findall(r"\[([a-z]+)\]", first_cells))
    for name, field in JobFile.model_fields.items():
        assert name in documented, f"{name} is not in docs/job-file.md"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert keys(field.annotation) <= documented, f"[{name}]: {keys(field.annotation) - documented}"


def test_the_docs_name_no_key_that_is_unknown() -> None:
    known = set(JobFile.model_fields)
    for field in JobFile.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known |= keys(field.annotation)
    first_cells = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    named = {key for cell in first_cells for key in re.findall(r"`([a-z_]+)`", cell)}
    assert named <= known, named - known
