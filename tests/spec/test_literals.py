"""Lists and arithmetic in strings."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.spec.literals import LiteralError, parse_literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1.0, 2.0, 1.0/3.0]", (1.0, 2.0, 1 / 3)),
        ("[[1,2],[3,(4)],(5,),(6,7)]", ((1.0, 2.0), (3.0, 4.0), (5.0,), (6.0, 7.0))),
        (" [ 1.,.5 , 2e-3,] ", (1.0, 0.5, 0.002)),
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("2 - 3 - 4", -5.0),
        ("8 / 4 / 2", 1.0),
        ("-(1 + 2) * -2", 6.0),
        ("(1.0)", 1.0),
        ("()", ()),
        ("[]", ()),
        ("+.5", 0.5),
    ],
)
def test_values(text, value):
    assert parse_literal(text) == value


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 1, "missing"),
        ("[", 2, "missing"),
        ("[1 2]", 4, "','"),
        ("[1, 2", 6, "']'"),
        ("[1, 2)", 6, "']'"),
        ("[1,,2]", 4, "unexpected ','"),
        ("[1, 2]]", 7, "unexpected ']'"),
        ("[1.0; 2]", 5, "unexpected ';'"),
        ("[1.0, x]", 7, "unexpected 'x'"),
        ("[1, 2] * 2", 8, "numbers, not lists"),
        ("1 / 0", 3, "division by zero"),
        ("1/(2-2)", 2, "division by zero"),
        ("1e999", 1, "too large"),
        ("1e300 * 1e300", 7, "too large"),
        ("2 ** 3", 4, "unexpected '*'"),
        ("1_000", 2, "unexpected '_000'"),
        ("1e", 2, "unexpected 'e'"),
        ("[" * 1000, 21, "too deeply"),
        ("-" * 1000 + "1", 21, "too deeply"),
        ("__import__('os').system('true')", 1, "unexpected '__import__'"),
        ("[x for x in (1,)]", 2, "unexpected 'x'"),
        ("nan", 1, "unexpected 'nan'"),
    ],
)
def test_errors_say_where(text, position, words):
    with pytest.raises(LiteralError, match="at character") as caught:
        parse_literal(text)
    assert caught.value.position == position
    assert words in str(caught.value)


NUMBERS = st.builds(
    lambda whole, digits: (f"{whole}.{digits}", Fraction(f"{whole}.{digits}")),
    st.integers(0, 99),
    st.integers(0, 999).map("{:03d}".format),
)


def combine(children):
    def binary(operator, left, right):
        (a_text, a), (b_text, b) = left, right
        if operator == "/" and b == 0:
            operator = "+"
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[operator]
        return f"({a_text} {operator}{b_text})", value

    return st.builds(binary, st.sampled_from("+-*/"), children, children) | children.map(
        lambda item: (f"-{item[0]}", -item[1])
    )


@given(st.recursive(NUMBERS, combine, max_leaves=8))
def test_arithmetic_equals_exact_fractions(expression):
    text, exact = expression
    try:
        value = parse_literal(text)
    except LiteralError as error:  # what is zero in floats, or too deep, need not be for fractions
        assert "division by zero" in str(error) or "too deeply" in str(error)
        return
    # Differences of near numbers lose digits; the sums here stay below a few thousand.
    assert value == pytest.approx(float(exact), rel=1e-6, abs=1e-6) or abs(exact) > 1e9


@given(st.recursive(st.floats(0, 1e6), lambda items: st.lists(items, max_size=4).map(tuple), max_leaves=20))
def test_nested_lists_are_read_back(value):
    def as_list(item):
        return [as_list(child) for child in item] if isinstance(item, tuple) else item

    assert parse_literal(repr(as_list(value))) == value
    if not (isinstance(value, tuple) and len(value) == 0):
        assert parse_literal(repr(value)) == value


@given(st.text(alphabet="[]()+-*/., 0123456789ex", max_size=30))
def test_no_text_does_more_than_raise_the_one_error(text):
    try:
        parse_literal(text)
    except LiteralError as error:
        assert 1 <= error.position <= len(text) + 1
