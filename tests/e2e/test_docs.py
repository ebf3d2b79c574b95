"""The README keeps its word: its command lines parse, its job files are valid, its links lead somewhere, no option is missing."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel, ValidationError

from pipeline.cli import cli
from pipeline.jobspec.sections import JobFile
from pipeline.parts import RESULT_COLUMNS

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    {*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("data/samples/*.md")}
)
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_ENDS_A_COMMAND = {"|", "||", "&&", ";", "&", ">", ">>", "2>", "<", "(", ")"}


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks in one of these languages."""
    return [body for language, body in _FENCE.findall(text) if language in languages]


def spans(text: str) -> list[str]:
    """The code spans in running text."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))


def commands(shell: str) -> Iterator[list[str]]:
    """The simple commands of a shell text, each as its words; prompts, comments, redirections and VAR=value gone."""
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if word in _ENDS_A_COMMAND:
                if word == ">" and command and command[-1].isdigit():
                    command.pop()  # the number of a redirected stream
                if command:
                    yield command
                # What follows a redirection is a file: it makes a command of a name that is none of ours.
                command = []
            elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                command.append(word)


def ours(shell: str, name: str) -> list[list[str]]:
    """The arguments of each call of the program `name`, by whatever path it is called."""
    return [words[1:] for words in commands(shell) if words[0].rpartition("/")[2] == name]


def known_options(command: click.Command) -> set[str]:
    return {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }


def wrong_calls(text: str) -> list[str]:
    """What the command line would refuse of a document's calls; in running text arguments may be left out."""
    wrong = []
    for arguments in (
        call
        for block in blocks(text, "sh", "bash", "console", "shell", "")
        for call in ours(block, "promptmill")
    ):
        command = cli.commands.get(arguments[0], cli) if arguments else cli
        words = arguments if command is cli else arguments[1:]
        try:
            command.make_context(command.name, list(words))
            if words and command is cli:
                wrong.append(f"promptmill {shlex.join(arguments)}: no such command")
        except click.exceptions.Exit:  # --help and --version
            continue
        except click.UsageError as error:
            wrong.append(f"promptmill {shlex.join(arguments)}: {error.format_message()}")
    for span in spans(text):
        if not span.startswith("promptmill "):
            continue
        words = span.split()[1:]
        name = next((word for word in words if not word.startswith("-")), None)
        if name is None:
            continue
        if name not in cli.commands:
            wrong.append(f"{span}: no such command")
            continue
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        wrong += [
            f"{span}: no such option {option}"
            for option in options - known_options(cli.commands[name]) - {"--help", "-h"}
        ]
    return wrong


def wrong_targets(text: str) -> list[str]:
    """The `make` targets a document names that the Makefile has not."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    shell = "\n".join(
        [
            *blocks(text, "sh", "bash", "console", "shell", ""),
            *(s for s in spans(text) if s.startswith("make ")),
        ]
    )
    named = {word for call in ours(shell, "make") for word in call if re.fullmatch(r"[a-z][a-z-]*", word)}
    return sorted(named - targets)


def broken_links(text: str, folder: Path) -> list[str]:
    """Links to files that are not there."""
    links = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", text))
    files = [
        link.partition("#")[0]
        for link in links
        if "://" not in link and not link.startswith(("#", "mailto:"))
    ]
    return [file for file in files if not (folder / file).exists()]


def missing_tests(text: str) -> list[str]:
    """Test files that a document has one run, and that are not there."""
    named = (word for span in spans(text) if span.startswith("pytest ") for word in span.split())
    return sorted({word for word in named if word.startswith("tests/") and not (REPOSITORY / word).exists()})


def missing_options(text: str) -> list[str]:
    """The options that a document does not mention."""
    return [
        f"{name} {option}"
        for name, command in cli.commands.items()
        for option in sorted(known_options(command))
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
    ]


def wrong_jobs(text: str) -> list[str]:
    """What is wrong with the job files (or parts of one) in a document; a part may lack what a whole one needs."""
    wrong = []
    for block in blocks(text, "toml"):
        try:
            JobFile.model_validate(tomllib.loads(block))
        except tomllib.TOMLDecodeError as error:
            wrong.append(str(error))
        except ValidationError as error:
            wrong += [
                f"{problem['loc']}: {problem['msg']}"
                for problem in error.errors()
                if problem["type"] != "missing"
            ]
    return wrong


def test_every_command_line_in_the_readme_parses() -> None:
    assert ours("\n".join(blocks(README, "sh", "bash", "console", "shell", "")), "promptmill")
    assert not wrong_calls(README)


def test_every_make_target_in_the_readme_exists_and_the_two_commands_stand_there() -> None:
    assert not wrong_targets(README)
    assert "make run" in README
    assert "make test" in README


def test_every_command_and_option_stands_in_the_readme() -> None:
    assert not [name for name in cli.commands if not re.search(rf"\b{name}\b", README)]
    assert not missing_options(README)


def test_every_job_file_in_the_readme_is_valid() -> None:
    assert blocks(README, "toml")
    assert not wrong_jobs(README)


def test_every_result_column_stands_in_the_readme() -> None:
    assert not [name for name in sorted(RESULT_COLUMNS) if f"`{name}`" not in README]


def test_every_key_of_a_job_file_stands_in_its_description() -> None:
    described = (REPOSITORY / "docs" / "job-file.md").read_text(encoding="utf-8")
    missing = []
    for section, field in JobFile.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys = [inner.alias or name for name, inner in field.annotation.model_fields.items()]
            missing += [f"{section}.{key}" for key in keys if not re.search(rf"\b{key}\b", described)]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    assert not broken_links(document.read_text(encoding="utf-8"), document.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_test_that_a_document_has_one_run_is_there(document: Path) -> None:
    assert not missing_tests(document.read_text(encoding="utf-8"))


def test_what_these_tests_look_for_is_found() -> None:
    text = """
Try `pytest -m slow tests/soak/nowhere.py -k x` and `pytest tests/e2e/test_docs.py`.
Type `promptmill runn job.toml` or `promptmill run JOB --limt 3`, then `make rum`; see [this](nowhere.md#top) and [that](#here).

```sh
$ DASHSCOPE_API_KEY=sk .venv/bin/promptmill run jobs/x.toml \\
    --set model.name=qwen-plus > summary.json   # fine
promptmill run jobs/x.toml --qiet 2> log && promptmill status; make test
```
```toml
[model]
nam = "x"
```
"""
    assert [wrong.split(".")[0] for wrong in wrong_calls(text)] == [
        "promptmill run jobs/x",
        "promptmill status: Missing argument 'RUN'",
        "promptmill runn job",
        "promptmill run JOB --limt 3: no such option --limt",
    ]
    assert wrong_targets(text) == ["rum"]
    assert missing_tests(text) == ["tests/soak/nowhere.py"]
    assert broken_links(text, REPOSITORY) == ["nowhere.md"]
    assert "run --deadline" in missing_options(text)
    assert "('model', 'nam'): Extra inputs are not permitted" in wrong_jobs(text)
