"""Numbers and lists written in strings: `"[1.0, 2.0, 1.0/3.0]"`. Arithmetic only; nothing is evaluated by Python.

value  = term {("+" | "-") term}
term   = factor {("*" | "/") factor}
factor = ("+" | "-") factor | number | "(" value ")" | list
list   = "[" [value {"," value}] "]"   or with parentheses, as Python writes tuples; a last comma may stand
"""

import math
import re

Literal = float | tuple["Literal", ...]

MAX_DEPTH = 20  # nesting; steps and ratios need two

_TOKEN = re.compile(r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<sign>[][()+\-*/,]))")
_WORD = re.compile(r"\w+|\S")


class LiteralError(ValueError):
    """Says what is wrong and where: `position` counts characters from 1."""

    def __init__(self, message: str, position: int):
        super().__init__(f"{message} at character {position}")
        self.position = position


def parse_literal(text: str) -> Literal:
    """The value of `text`: a float, or a tuple of floats and tuples. Raises LiteralError."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str):
        self.tokens = _tokens(text)
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> str:
        return self.tokens[self.index][0]

    @property
    def position(self) -> int:
        return self.tokens[self.index][1]

    def whole(self) -> Literal:
        value = self.value()
        if self.token:
            raise LiteralError(f"unexpected {self.token!r}", self.position)
        return value

    def value(self) -> Literal:
        return self.chain("+-", lambda: self.chain("*/", self.factor))

    def chain(self, operators: str, operand) -> Literal:
        left = operand()
        while self.token and self.token in operators:
            operator, position = self.take()
            left = _calculate(left, operator, operand(), position)
        return left

    def factor(self) -> Literal:
        token, position = self.take()
        if token in ("+", "-"):
            with_sign = self.nested(self.factor, position)
            return _calculate(0.0, token, with_sign, position)
        if token == "(":
            return self.nested(lambda: self.items(")", position), position)
        if token == "[":
            return self.nested(lambda: self.items("]", position), position)
        if not token:
            raise LiteralError("a number or a list is missing", position)
        if not (token[0].isdigit() or token[0] == "."):
            raise LiteralError(f"unexpected {token!r}", position)
        return _finite(float(token), position)

    def items(self, closing: str, opened: int) -> Literal:
        items: list[Literal] = []
        comma = False
        while self.token != closing:
            if items and not comma:
                raise LiteralError(f"',' or {closing!r} is missing after the value", self.position)
            items.append(self.value())
            comma = self.token == ","
            if comma:
                self.take()
        self.take()
        if closing == ")" and len(items) == 1 and not comma:
            return items[0]  # (x) is a number in parentheses, (x,) a tuple
        return tuple(items)

    def nested(self, rule, position: int) -> Literal:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LiteralError("nested too deeply", position)
        value = rule()
        self.depth -= 1
        return value

    def take(self) -> tuple[str, int]:
        token = self.tokens[self.index]
        self.index = min(self.index + 1, len(self.tokens) - 1)
        return token


def _tokens(text: str) -> list[tuple[str, int]]:
    """Tokens with their positions, and an empty one for the end."""
    tokens = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at, end)
        if match is None:
            word = _WORD.search(text, at)
            raise LiteralError(f"unexpected {word.group()!r}", word.start() + 1)
        tokens.append((match.group(match.lastgroup), match.start(match.lastgroup) + 1))
        at = match.end()
    return [*tokens, ("", end + 1)]


def _calculate(left: Literal, operator: str, right: Literal, position: int) -> float:
    if isinstance(left, tuple) or isinstance(right, tuple):
        raise LiteralError(f"{operator!r} needs numbers, not lists,", position)
    if operator == "/" and right == 0:
        raise LiteralError("division by zero", position)
    result = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
    }[operator]()
    return _finite(result, position)


def _finite(number: float, position: int) -> float:
    if not math.isfinite(number):
        raise LiteralError("the number is too large", position)
    return number
