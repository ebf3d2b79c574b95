"""What a model can and must do, as far as the simulator minds: from the catalogue, else from the name.

A name that the catalogue has not, such as a dated snapshot, behaves as the longest known name it begins with.
One that resembles nothing is allowed everything.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pipeline.catalog import Model, load
from pipeline.vision_tokens import (
    EARLIER_RULE,
    VisionRule,
    gives_default_system,
    numbers_pictures,
    vision_rule,
)

Thinking = Literal["off", "on", "always", "none"]

_MIB = 1024 * 1024
_SEEING = ("-vl", "qvq", "omni", "-ocr")
_WITHOUT_SEARCH = ("qwen-mt", "qwen3-coder", "qwen-long", "qwen-doc", "-vl-", "qvq", "-ocr")


@dataclass(frozen=True, slots=True)
class Traits:
    """One model's traits.

    `multimodal` says which native path it is served on; None: both. `sees`: it takes images.
    `default_system`: it is given the default system prompt where the messages begin without one.
    `numbers_pictures`: each image is announced as "Picture 1: ".
    """

    thinking: Thinking = "off"
    thinks_without_stream: bool = True
    stream_only: bool = False
    json_object: Literal["yes", "thinking_off", "no"] = "yes"
    json_schema: bool = True
    multimodal: bool | None = None
    sees: bool = True
    rule: VisionRule = EARLIER_RULE
    most_data_uri_bytes: int = 20 * _MIB
    most_frames: int = 512
    default_system: bool = False
    numbers_pictures: bool = False
    searches: bool = True
    reads_files: bool = False


@lru_cache(maxsize=1024)
def traits_of(name: str) -> Traits:
    """Look a model's traits up."""
    models = load("simulator").models
    base = max((known for known in models if f"{name}-".startswith(f"{known}-")), key=len, default="")
    sees = any(part in name for part in _SEEING)
    if not base:
        if not sees:
            always = name.endswith("-thinking") or name.startswith("qwq")
            return Traits(thinking="always" if always else "off", stream_only=always)
        return Traits(
            multimodal=True, default_system=gives_default_system(name), most_data_uri_bytes=10 * _MIB
        )
    return _from_catalogue(name, models[base], sees)


def _from_catalogue(name: str, model: Model, sees: bool) -> Traits:
    recent = model.image is not None and model.image.factor == 32
    return Traits(
        thinking=model.thinking or "off",
        thinks_without_stream=model.non_stream_thinking is not False,
        stream_only=model.stream_only,
        json_object=model.json_object or "yes",
        json_schema=model.json_schema is not False,
        multimodal=model.native_multimodal,
        sees=sees or model.image is not None,
        rule=vision_rule(model.image, name),
        most_data_uri_bytes=(20 if recent else 10) * _MIB,
        most_frames=_most_frames(name),
        default_system=gives_default_system(name),
        numbers_pictures=numbers_pictures(name),
        searches=not any(part in name for part in _WITHOUT_SEARCH),
        reads_files=name.startswith(("qwen-long", "qwen-doc")),
    )


def _most_frames(name: str) -> int:
    if name.startswith(("qwen3.5", "qwen3.6", "qwen3.7", "qwen3.8")):
        return 8_000
    if name.startswith(("qwen3-vl-plus", "qwen3-vl-flash", "qwen3-vl-235b")):
        return 2_000
    return 512 if name.startswith(("qwen3-vl", "qwen2.5-vl", "qvq", "qwen-vl-max")) else 80
