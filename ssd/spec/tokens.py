"""The words of a prototxt, each with its line and column."""

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>[\s\ufeff]+|\#[^\n]*)
    | (?P<name>[A-Za-z_][0-9A-Za-z_+-]*)
    | (?P<number>(?:[0-9+-]|\.[0-9])[0-9A-Za-z_.+-]*)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<open_string>["'][^\n]*)
    | (?P<sign>.)
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LETTERS = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "?": "?",
}


@dataclass(frozen=True)
class Token:
    """`kind` is name, number, string, open_string (its end is missing), sign or end."""

    kind: str
    text: str
    line: int
    column: int


def tokenize(text: str) -> list[Token]:
    """All tokens but white space and comments, and a last one of kind "end" and text ""."""
    tokens = []
    line, line_start = 1, 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space":
            tokens.append(Token(match.lastgroup, match.group(), line, match.start() - line_start + 1))
        newlines = match.group().count("\n")
        if newlines:
            line += newlines
            line_start = match.start() + match.group().rindex("\n") + 1
    return [*tokens, Token("end", "", line, len(text) - line_start + 1)]


def unquote(text: str) -> str:
    """The value of a string token. Raises ValueError for an escape that does not exist or bytes that are no UTF-8."""
    try:
        return _ESCAPE.sub(_unescape, text[1:-1]).encode("utf-8", "surrogateescape").decode("utf-8")
    except (UnicodeError, OverflowError) as error:
        raise ValueError("has escapes that make no UTF-8 text") from error


def _unescape(match: re.Match) -> str:
    octal, hexadecimal, short, long, letter = match.groups()
    if letter is not None:
        if letter not in _LETTERS:
            raise ValueError(f"has the unknown escape \\{letter}; write \\\\ for a backslash")
        return _LETTERS[letter]
    if short or long:
        code = int(short or long, 16)
        if code > 0x10FFFF:
            raise ValueError(f"has an escape for a character that does not exist: {match.group()}")
        return chr(code)
    # Octal and hexadecimal escapes are bytes; several may make up one character.
    return bytes([int(octal, 8) & 255 if octal else int(hexadecimal, 16)]).decode("utf-8", "surrogateescape")


def shown(token: Token) -> str:
    """A token in an error message."""
    if token.kind == "end":
        return "the end of the file"
    if token.kind == "open_string":
        return f"a string without its closing quote: {token.text[:40]}"
    return token.text if token.kind == "string" else repr(token.text)
