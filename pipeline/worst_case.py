"""The most that one attempt can cost: what the budget sets aside before it is sent.

Pure: no sums (`budget.py`), no prices (`pricing.py`). The bound of a request rests on this:

- a token of a byte-level vocabulary is at least one byte, so a text in its NFC form has at most as many tokens as bytes. The
  body's JSON around each text is longer than what a chat template writes around it, and `_TEMPLATE_TOKENS` are for what the
  template brings by itself (a default system message, the instructions around tools, the tail);
- tools and schemas may be written out with a space after each comma and colon: with them the body counts twice;
- a picture is scaled into its model's bounds whatever its size, and so are the frames of a list; a picture's data URL is no text;
- what nobody can bound from here (a web search's finds, documents, videos, audio) counts as the model's whole context besides;
- an answer ends at `max_completion_tokens`, or at `max_tokens` and, where the model may think, `thinking_budget` besides (the
  provider leaves reasoning out of max_tokens); where a job sets none, at the model's own maximum. Each of `n` choices may;
- no tier that a smaller prompt falls into is dearer, or the dearer one counts; thinking and cache marks at their prices.

A provider that bills beyond that is billed for all the same: `Budget.settle` counts what an answer really cost.
"""

import math
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.catalog import Model
from pipeline.errors import JobError
from pipeline.model_rules import thinks
from pipeline.pricing import Price, WholePrice
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Prompt
from pipeline.vision_tokens import FRAMES_PER_STEP, MOST_ASPECT, TOKENS_AROUND, VisionRule, requested_rule

_TEMPLATE_TOKENS = 256
_PICTURE_NAME_TOKENS = 16  # "Picture 12: ", which some models have before each
# max_completion_tokens is kept to within ten tokens (Model Studio, "OpenAI compatible - Chat").
_OVERRUN_TOKENS = 16
# qwen-long's, the largest of all; for a model whose context is not known.
_ANY_CONTEXT_TOKENS = 10_000_000
# Where no cap has to hold: no model in the catalogue is known to write more at once.
_ANY_OUTPUT_TOKENS = 131_072
# Parameters that have the provider put into the prompt what it found or computed.
_BRINGING_MORE = ("enable_search", "enable_code_interpreter", "web_search_options")


class _Output(NamedTuple):
    """What the parameters of a request say of its answer. `hidden`: the prompt grows by what nobody can bound."""

    tokens: int
    thinking: bool
    doubled: bool
    hidden: bool


class WorstCase:
    """The most that the requests of one job can cost, in billionths of the currency unit; 0 where there is no price.

    `strict`: a cap must hold, so an answer without a bound is refused.
    """

    def __init__(self, price: Price | None, model: Model | None, rule: VisionRule, *, strict: bool) -> None:
        self.price = None if price is None else WholePrice(price)
        self._model = model
        self._rule = rule
        self._strict = strict
        self._context = (model and model.context_tokens) or _ANY_CONTEXT_TOKENS
        self._last: tuple[Mapping[str, Any], _Output] | None = None

    def of(self, prompt: Prompt, body: bytes) -> int:
        """The most that an attempt of this body can be billed. Raises EncodeError where nothing bounds its answer."""
        if self.price is None:
            return 0
        params = prompt.params
        # All rows of most jobs share one object.
        if self._last is None or self._last[0] is not params:
            self._last = (params, self._output(params, strict=self._strict))
        output = self._last[1]
        tokens, marks = self._prompt_tokens(prompt, body, output)
        return self.price.nano_most(tokens, output.tokens, thinking=output.thinking, marks=marks)

    def answer_tokens(self, params: Mapping[str, Any]) -> int | None:
        """The most tokens that these parameters let all the answers to one request have; None where nothing bounds them."""
        try:
            return self._output(params, strict=True).tokens
        except EncodeError:
            return None

    def check(self, params: Mapping[str, Any]) -> None:
        """Raise JobError where a job's own parameters leave its answers without a bound, or with a price apart."""
        try:
            self._output(params, strict=self._strict)
        except EncodeError as error:
            raise JobError(
                f"[budget] a cap needs a bound on each answer: {error}. Nothing was sent"
            ) from None

    def _output(self, params: Mapping[str, Any], *, strict: bool) -> _Output:
        options = params.get("search_options")
        strategy = options.get("search_strategy") if isinstance(options, dict) else None
        if strict and isinstance(strategy, str) and strategy.startswith("agent"):
            raise EncodeError(
                f'search_strategy "{strategy}" is billed by the search besides the tokens, which no price here covers: '
                "take another strategy, or the cap out"
            )
        model = self._model
        effort = params.get("reasoning_effort")
        asked = params.get("enable_thinking") is True or effort not in (None, "none")
        thinking = asked or model is None or (effort is None and thinks(model, params))
        form = params.get("response_format")
        return _Output(
            tokens=self._answer_tokens(params, thinking=thinking, strict=strict) * (_count(params, "n") or 1),
            thinking=thinking or model is None or model.thinking is None,
            doubled="tools" in params or (isinstance(form, dict) and form.get("type") == "json_schema"),
            hidden=any(params.get(name) for name in _BRINGING_MORE),
        )

    def _answer_tokens(self, params: Mapping[str, Any], *, thinking: bool, strict: bool) -> int:
        model = self._model
        whole = _count(params, "max_completion_tokens")
        if whole is not None:
            return whole + _OVERRUN_TOKENS
        context = model.context_tokens if model is not None else None
        said = _count(params, "max_tokens")
        text = said + _OVERRUN_TOKENS if said is not None else (model and model.max_output_tokens) or context
        if text is None:
            text = _unbounded(
                "set [params] max_tokens, as the most that this model writes is not known", strict=strict
            )
        if not thinking:
            return text
        budget = _count(params, "thinking_budget")
        thought = (
            budget + _OVERRUN_TOKENS
            if budget is not None
            else (model and model.max_thinking_tokens) or context
        )
        if thought is None:
            thought = _unbounded(
                "set [params] thinking_budget (or max_completion_tokens, where the model takes it), as the most that this model "
                "thinks is not known",
                strict=strict,
            )
        return text + thought

    def _prompt_tokens(self, prompt: Prompt, body: bytes, output: _Output) -> tuple[int, bool]:
        """The most tokens of a prompt, and whether it carries cache marks."""
        text_bytes = len(body)
        if not body.isascii() and not unicodedata.is_normalized("NFC", text := body.decode()):
            # Some characters have no composed form, and become three times as long.
            text_bytes = max(text_bytes, len(unicodedata.normalize("NFC", text).encode()))
        tokens = self._context if output.hidden else _TEMPLATE_TOKENS
        marks = False
        for message in prompt.messages:
            content = message.get("content")
            if type(content) is list:
                for part in content:
                    more, address_bytes = self._part(part, prompt.params)
                    tokens += more
                    text_bytes -= address_bytes
                    marks = marks or (isinstance(part, dict) and "cache_control" in part)
            elif type(content) is str and content.startswith("fileid://"):
                tokens += self._context
        return tokens + text_bytes * (2 if output.doubled else 1), marks

    def _part(self, part: Any, params: Mapping[str, Any]) -> tuple[int, int]:
        """The most tokens of a content part that is no text, and the bytes of its addresses, which no tokens are made of."""
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" or isinstance(part, str):
            return 0, 0
        high = params.get("vl_high_resolution_images") is True
        if kind == "image_url":
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            return self._picture(requested_rule(self._rule, part, high_resolution=high)), _address_bytes(url)
        if kind == "video" and isinstance(part.get("video"), list):
            rule = requested_rule(self._rule, part)
            return _frames(len(part["video"]), rule), sum(map(_address_bytes, part["video"]))
        return self._context, 0

    @staticmethod
    def _picture(rule: VisionRule) -> int:
        return _squares(rule.min_pixels, rule.max_pixels, rule.factor) + TOKENS_AROUND + _PICTURE_NAME_TOKENS


def _unbounded(advice: str, *, strict: bool) -> int:
    if strict:
        raise EncodeError(advice)
    return _ANY_OUTPUT_TOKENS


def _frames(frames: int, rule: VisionRule) -> int:
    if frames == 0:
        return 0
    shared = rule.total_pixels * FRAMES_PER_STEP // frames
    most = max(min(rule.frame_max_pixels, shared), int(rule.frame_min_pixels * 1.05))
    pairs = -(-frames // FRAMES_PER_STEP)
    return pairs * _squares(rule.frame_min_pixels, most, rule.factor) + TOKENS_AROUND + _PICTURE_NAME_TOKENS


def _squares(min_pixels: int, max_pixels: int, factor: int) -> int:
    """The most squares that any picture has once `vision_tokens.smart_resize` has scaled it, up to the extreme aspect."""
    scaled_down = max(max_pixels / factor**2, math.sqrt(MOST_ASPECT * max_pixels) / factor)
    width, height = (
        math.sqrt(MOST_ASPECT * min_pixels) / factor + 1,
        math.sqrt(min_pixels / MOST_ASPECT) / factor + 1,
    )
    widest_up = max(width * height, (math.sqrt(min_pixels) / factor + 1) ** 2)
    return math.ceil(max(scaled_down, widest_up))


def _address_bytes(url: Any) -> int:
    # As JSON it is at least as long as it is by itself.
    return len(url.encode("utf-8", "replace")) if isinstance(url, str) else 0


def _count(params: Mapping[str, Any], name: str) -> int | None:
    value = params.get(name)
    return value if type(value) is int and value > 0 else None
