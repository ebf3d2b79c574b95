"""Templates cannot run away: what makes much of little is refused before it is done, and all else is as Jinja has it."""

import tracemalloc
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.sandbox import MOST_CHARS, BoundedSandbox, TooLarge, bounded_concat

MIB = 1024 * 1024
SANDBOX = BoundedSandbox(undefined=jinja2.StrictUndefined)
PLAIN = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
BIG, HUGE = 10**9, 10**18
TEXT, LINES, TABS = "x" * 100_000, "a\n" * 100_000, "\t" * 100_000

BOMBS = [
    "{{ text * n }}",
    "{{ n * text }}",
    "{{ [text] * n }}",
    "{{ ([text] * 1000) | join }}",
    "{{ [[text], {'a': text}] * 1000 }}",
    "{{ 9 ** n }}",
    "{{ (9 ** 100000) ** 100000 }}",
    "{{ (9 ** 1000000) * (9 ** 1000000) * (9 ** 1000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (n, 1) }}",
    "{{ '%.*f' % (n, 1.5) }}",
    "{{ '%(a)1000000000s' % {'a': 1} }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '%*d' | format(n, 1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:>{}}'.format(1, n) }}",
    "{{ '{0:>{1[w]}}'.format(1, {'w': n}) }}",
    "{{ '{a:>{w}}'.format_map({'a': 1, 'w': n}) }}",
    "{{ text | center(n) }}",
    "{{ text.ljust(n) }}",
    "{{ text.zfill(n) }}",
    "{{ (5).to_bytes(n, 'big') }}",
    "{{ 5 | round(-n) }}",
    "{{ 5.5 | round(n, 'ceil') }}",
    "{{ [1] | batch(n, 'x') | list }}",
    "{{ [1] | slice(n) | list }}",
    "{{ lines | indent(n) }}",
    "{{ lines | indent(100000) }}",
    "{{ lines | indent(text) }}",
    "{{ tabs.expandtabs(100000) }}",
    "{{ text | replace('', text) }}",
    "{{ text | replace('x', text) }}",
    "{{ text | replace(old='x', new=text) }}",
    "{{ text.replace('x', text) }}",
    "{{ range(10000) | join(text) }}",
    "{{ text.join(range(10000) | map('string') | list) }}",
    "{{ text.join(range(10000) | map('string')) }}",
    "{{ ([text] * 100) | map('replace', 'x', text) | join }}",
    "{{ text | wordwrap(1, true, text) }}",
    "{{ {'a': range(1000) | list} | tojson(indent=100000000) }}",
    "{% for i in range(100000) %}{{ text }}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% if j < 0 %}x{% endif %}.{% endfor %}{% endfor %}",
    "{% set t %}{% for i in range(100000) %}{{ text }}{% endfor %}{% endset %}{{ t | length }}",
    "{% macro m() %}{% for i in range(100000) %}{{ text }}{% endfor %}{% endmacro %}{{ m() | length }}",
    "{% filter upper %}{% for i in range(100000) %}{{ text }}{% endfor %}{% endfilter %}",
]  # fmt: skip


@pytest.mark.parametrize("n", [BIG, HUGE])
@pytest.mark.parametrize("template", BOMBS)
def test_what_would_fill_the_memory_is_refused_before_it_does(template: str, n: int) -> None:
    compiled = SANDBOX.from_string(template)
    values = {"text": TEXT, "lines": LINES, "tabs": TABS, "n": n}
    tracemalloc.start()
    try:
        with pytest.raises((TooLarge, OverflowError)):
            compiled.render(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * MIB


USUAL = [
    "{{ text * 3 }}{{ '-' * 40 }}{{ [1, 2] * 2 }}{{ 3 * 4 }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 7 % 4 }}{{ 1.5 * 2 }}",
    "{{ '%s has %d of 100%%' % (text, n) }}{{ '%s' % text }}{{ '%05.2f' | format(1.5) }}{{ '%d' | format(n) }}",
    "{{ '{:,} {!r:>12} {a}'.format(n, text, a=n) }}{{ '{a:>5}'.format_map({'a': 1}) }}",
    "{{ text | center(20) }}{{ text.ljust(9) }}|{{ text.zfill(9) }}{{ text.split('e', 1) }}{{ text.find('x') }}",
    "{{ n | round(2) }}{{ 2.345 | round(2) }}{{ n | round(-3) }}{{ '%.3f' % n }}",
    "{{ range(10) | batch(3, 'x') | list }}{{ range(10) | slice(3) | list }}",
    "{{ lines | indent }}{{ lines | indent(2, true) }}{{ lines | indent('> ') }}",
    "{{ text | replace('x', 'yy') }}{{ text | replace('', '.') }}{{ text.replace('t', 'TT', 1) }}",
    "{{ tags | join(', ') }}{{ tags | join(attribute=0) }}{{ [] | join }}{{ ', '.join(tags) }}{{ tags | join(n) }}",
    "{{ things | map(attribute='a') | join('/') }}{{ things | tojson }}{{ things | tojson(indent=2) }}",
    "{{ lines | wordwrap(10) }}{{ lines | wordwrap(10, true, ' / ') }}",
    "{% macro m(a) %}{{ a + 1 }}{% endmacro %}{{ m(n) }}{{ {'x': 1}.get(n, n) }}{{ [n].index(n) }}",
    "{% for t in tags %}{{ loop.index }}: {{ t }}\n{% endfor %}{% set x %}a{{ text }}{% endset %}{{ x }}",
    "{% for i in range(5000) %}{{ i }},{% endfor %}",
    "{{ tags | sum(start=[]) | length if false else tags | first }}{{ text | truncate(3) }}{{ text[:3] }}",
]


@pytest.mark.parametrize("template", USUAL)
def test_what_people_write_comes_out_as_jinja_has_it(template: str) -> None:
    values = {
        "text": "text to say",
        "lines": "one\ntwo three\n\tfour",
        "n": 1_700_000_000,
        "tags": ["new", "老"],
        "things": [{"a": 1}, {"a": None}],
    }
    assert SANDBOX.from_string(template).render(values) == PLAIN.from_string(template).render(values)


@given(pieces=st.lists(st.text(max_size=3), max_size=3000))
def test_pieces_are_joined_in_order(pieces: list[str]) -> None:
    assert bounded_concat(iter(pieces)) == "".join(pieces)


@pytest.mark.parametrize("pieces", [1, 2, 128, 4096])
def test_a_text_may_be_as_long_as_the_bound_and_no_longer(pieces: int) -> None:
    piece = "x" * (MOST_CHARS // pieces)
    assert len(bounded_concat(piece for _ in range(pieces))) == MOST_CHARS
    with pytest.raises(TooLarge):
        bounded_concat(piece for _ in range(pieces + 1))


_VALUES = (
    st.none()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=20)
    | st.lists(st.text(max_size=3), max_size=5)
)


@pytest.mark.parametrize(
    "template",
    [
        "{{ a * b }}", "{{ a % b }}", "{{ a | center(b) }}", "{{ a | indent(b) }}", "{{ a | round(b) }}", "{{ a | join(b) }}",
        "{{ a | replace(b, a) }}", "{{ a | batch(b) | list }}", "{{ a.ljust(b) }}",
        "{{ '{:{}}'.format(a, b) }}", "{{ a | format(b) }}",
    ],
)  # fmt: skip
@given(a=_VALUES, b=_VALUES)
def test_a_value_of_any_type_ends_as_text_or_as_one_of_the_errors_of_templates(
    template: str, a: Any, b: Any
) -> None:
    expected = (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    )
    try:
        SANDBOX.from_string(template).render(a=a, b=b)
    except expected:
        return
