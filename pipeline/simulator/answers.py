"""What the simulator says: a label, a JSON value or a plausible text, the same for the same request and seed.

No HTTP and no envelope here: texts in, answer text out. A JSON Schema in the request decides first. Else
the labels that the prompt offers are looked for, and the first rule that finds two wins:

1. a line `Labels: a, b, c` (also classes, categories, options, choices, 标签, 类别, 选项)
2. `one of a, b`, `one word: a, b`, 以下之一：a、b; or a list with "or" after either, answer, reply, respond,
   after `label ... as` (classify, mark, tag, rate) or `whether ... is`: single words or quoted names
3. quoted names with nothing but separators, "or" or "and" between them

Messages are looked through in order: what a system message offers goes before what a row's text may hold.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any

import orjson

from pipeline.simulator.instances import instance

_SEARCHED_CHARS = 8_000  # offers stand in instructions, not in the depths of a document
_LONGEST_LABEL = 40
_OPENING, _CLOSING = "\"'“‘`「", "\"'”’`」"
_COMMA = r"\s*[,/|;、，；]\s*"
_OR = r"(?:\bor\b|或|还是)"
_NAME = rf"(?:[{_OPENING}][^{_OPENING}{_CLOSING}\n]{{1,40}}[{_CLOSING}]|[\w+-]{{1,40}})"
_NAMED = re.compile(
    r"(?:labels?|class(?:es)?|categor(?:y|ies)|options?|choices?|标签|类别|选项)"
    r"[^\n:：]{0,40}[:：][ \t]*(?P<list>[^\n]{1,400})",
    re.I,
)
_PHRASED = re.compile(
    r"(?:(?P<sure>one of|one word|之一)|either|(?:answer|reply|respond)(?: only)?(?: with)?"
    r"|(?:label|classify|mark|tag|rate)\b[^\n.]{0,60}?\bas|whether\b[^\n.]{0,60}?\b(?:is|are)|the label)"
    rf"(?: the following)?[:：,，]?\s*(?P<list>{_NAME}(?:(?:{_COMMA}(?:{_OR}\s*)?|\s*{_OR}\s*){_NAME})+)",
    re.I,
)
_QUOTED = re.compile(
    rf"[{_OPENING}](?P<name>[^{_OPENING}{_CLOSING}\n]{{1,40}})[{_CLOSING}]"
    rf"(?P<between>(?=(?:{_COMMA}|\s*(?:{_OR}|\band\b|和|及)\s*)+[{_OPENING}]))?",
    re.I,
)
_SEPARATOR = re.compile(rf"{_COMMA}(?:{_OR}\s*|\band\s+)?|\s*{_OR}\s*", re.I)
_LIST_END = re.compile(r"[.。](?:\s|$)")
# Without one of these, rules 1 and 2 find nothing: most rows' texts are spared two slow searches.
_TRIGGERS = (
    *("label", "class", "categor", "option", "choice", "标签", "类别", "选项"),
    *("one of", "one word", "之一", "either", "answer", "reply", "respond", "mark", "tag", "rate", "whether"),
)
_STRIPPED = " \t\r\n[](){}.。" + _OPENING + _CLOSING

_ENGLISH = (
    "The question has a short answer and a longer one.",
    "It depends on what is measured and over how long.",
    "In most cases the simpler way is also the more reliable one.",
    "A small example shows the difference.",
    "Two points matter here: the order of the steps, and who checks them.",
    "The evidence is mixed, though it leans to one side.",
    "Nothing in the text says so directly.",
    "This follows from the first sentence.",
    "There are exceptions, and they are worth naming.",
    "The price was fair and the delivery took three days.",
    "Taken together, the answer is yes, with some care.",
    "A table would make the comparison easier to read.",
)
_CHINESE = (
    "这个问题可以从两个方面来看。",
    "首先，需要明确目标和条件。",
    "其次，要看数据是否完整、来源是否可靠。",
    "举一个简单的例子就能说明区别。",
    "大多数情况下，简单的方法更稳妥。",
    "文中没有直接给出结论。",
    "价格合理，物流用了三天。",
    "总的来说，答案是肯定的，但需要留意细节。",
    "如果条件发生变化，结果也会不同。",
    "建议先小范围试用，再逐步推广。",
)
_CJK = re.compile(r"[\u3400-\u9fff]")
_TOKENS_PER_SENTENCE = 11  # of the sentences above, on average
_MOST_SENTENCES = 400


def answer(texts: Sequence[str], response_format: Any, prompt_tokens: int, random: Random) -> str:
    """Say something that fits the request: its schema, its labels, else a text that grows with the prompt.

    `texts` are those of the messages, in order.
    """
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_schema":
        described = response_format.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        return orjson.dumps(instance(schema, random)).decode()
    if kind == "json_object":
        for text in texts:
            if (schema := _schema_in(text)) is not None:
                return orjson.dumps(instance(schema, random)).decode()
    labels = offered_labels(texts)
    if kind == "json_object":
        key, value = ("label", random.choice(labels)) if labels else ("answer", random.choice(_ENGLISH))
        return orjson.dumps({key: value}).decode()
    return random.choice(labels) if labels else _text(texts, prompt_tokens, random)


def thought(texts: Sequence[str], prompt_tokens: int, random: Random) -> str:
    """Say what a model thinks before it answers: about twice as much as it then says."""
    chinese = _is_chinese(texts)
    opening = (
        "好的，用户提出了一个问题，我来想一想。"
        if chinese
        else "Okay, let me think about what is asked here. "
    )
    return opening + _text(texts, 2 * prompt_tokens, random)


def offered_labels(texts: Sequence[str]) -> tuple[str, ...]:
    """Find the labels that the texts offer, by the rules above; empty where they offer none."""
    return next((labels for text in texts if (labels := _labels_in(text[:_SEARCHED_CHARS]))), ())


@lru_cache(maxsize=512)
def _labels_in(text: str) -> tuple[str, ...]:
    lowered = text.lower()
    if not any(trigger in lowered for trigger in _TRIGGERS):
        return _quoted(text)
    for found in _NAMED.finditer(text):
        if len(labels := _split(_LIST_END.split(found["list"])[0])) > 1:
            return labels
    for found in _PHRASED.finditer(text):
        if found["sure"] or re.search(rf"{_OR}|[/|]", found["list"], re.I):
            return _split(found["list"])
    return _quoted(text)


def _split(listed: str) -> tuple[str, ...]:
    names = (name.strip(_STRIPPED) for name in _SEPARATOR.split(listed))
    labels = tuple(dict.fromkeys(name for name in names if name))
    return labels if all(len(name) <= _LONGEST_LABEL for name in labels) else ()


def _quoted(text: str) -> tuple[str, ...]:
    listed: list[str] = []
    for found in _QUOTED.finditer(text):
        listed.append(found["name"].strip())
        if found["between"] is None:
            if len(listed) > 1:
                return tuple(dict.fromkeys(listed))
            listed = []
    return ()


@lru_cache(maxsize=64)
def _schema_in(text: str) -> Any:
    """Read the JSON Schema of an object out of a text, where instructions for JSON output hold one."""
    if '"properties"' not in text:
        return None
    start = text.find("{")
    end = text.rfind("}")
    try:
        schema = orjson.loads(text[start : end + 1])
    except orjson.JSONDecodeError:
        return None
    return schema if isinstance(schema, dict) and isinstance(schema.get("properties"), dict) else None


def _is_chinese(texts: Sequence[str]) -> bool:
    last = texts[-1][:400] if texts else ""
    return len(_CJK.findall(last)) > 0.3 * len(last)


def _text(texts: Sequence[str], prompt_tokens: int, random: Random) -> str:
    chinese = _is_chinese(texts)
    tokens = random.lognormvariate(math.log(16 + prompt_tokens / 8), 0.6)
    count = min(1 + round(tokens / _TOKENS_PER_SENTENCE), _MOST_SENTENCES)
    sentences = _CHINESE if chinese else _ENGLISH
    order = random.sample(sentences, len(sentences))
    return ("" if chinese else " ").join(order[i % len(order)] for i in range(count))
