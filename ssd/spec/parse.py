"""Prototxt -> protobuf message, with the line of every field and errors that say what was meant.

The language is protobuf's text format. Unlike protobuf's own parser this one goes on after an unknown field or a
bad value, so that one look finds them all, and knows the line of every field for the checks that come later.
"""

from difflib import get_close_matches

from google.protobuf import message_factory
from google.protobuf.message import Message

from ssd.errors import InputError, SpecError, raise_all
from ssd.spec.dataset_convert_pb2 import DatasetExportConfig
from ssd.spec.experiment_pb2 import Experiment
from ssd.spec.scalars import converted, wanted
from ssd.spec.source import Findings, Source
from ssd.spec.tokens import Token, shown, tokenize, unquote

# The guide's spelling -> TAO's.
ALIASES = {("NMSConfig", "cluster_iou_threshold"): "clustering_iou_threshold"}
KINDS = {
    Experiment: "an experiment spec (ssd_config, training_config, dataset_config, ...)",
    DatasetExportConfig: "a dataset_convert spec (kitti_config or coco_config)",
}
MAX_PROBLEMS = 25

_CLOSING = {"{": "}", "<": ">", "[": "]"}


def parse_spec(text: str, kind: type[Message], name: str) -> tuple[Message, Findings]:
    """Reads `text` as a message of class `kind`.

    Returns:
        The message, and findings: the line of every field, warnings about what is given twice, and the fields and
        values that could not be read, as `name:line:column` with the nearest known field or the allowed values.

    Raises:
        SpecError, Problems: the file is empty, of the other kind, or its structure is broken.
    """
    reader = _Reader(text, kind, name)
    if reader.token.kind == "end":
        raise SpecError(f"is empty, needed is {KINDS[kind]}", where=name)
    message = kind()
    try:
        reader.fields(message, "", None)
    except _CannotGoOnError as stop:
        raise_all([*reader.problems, stop.problem])
    reader.raise_for_other_kind(message)
    reader.findings.partly_read = bool(reader.problems)
    return message, reader.findings


class _CannotGoOnError(Exception):
    """The structure is broken: what follows cannot be told apart."""

    def __init__(self, problem: InputError):
        self.problem = problem


class _Reader:
    def __init__(self, text: str, kind: type[Message], name: str):
        self.kind = kind
        self.tokens = tokenize(text)
        self.index = 0
        self.findings = Findings(Source(name))
        self.problems = self.findings.problems
        self.unknown_at_top: list[str] = []
        self.listed: set[str] = set()  # blocks whose fields an error has listed

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def take(self) -> Token:
        token = self.token
        self.index = min(self.index + 1, len(self.tokens) - 1)
        return token

    def taken(self, text: str) -> bool:
        """Takes the token if it is `text`."""
        if self.token.kind == "sign" and self.token.text == text:
            self.take()
            return True
        return False

    def error(self, message: str, token: Token, hint: str | None = None) -> InputError:
        return SpecError(message, where=f"{self.findings.source.name}:{token.line}:{token.column}", hint=hint)

    def wrong(self, message: str, token: Token, hint: str | None = None) -> None:
        self.problems.append(self.error(message, token, hint))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _CannotGoOnError(self.error("too many errors, the rest is not read", token))

    def fields(self, message: Message, path: str, opened: Token | None) -> None:
        """Reads fields up to the end of the block that `opened` began, or of the file."""
        closing = _CLOSING[opened.text] if opened else ""
        while True:
            token = self.take()
            if token.kind == "end":
                if opened:
                    text = f"{closing!r} is missing: the block {path} begins at line {opened.line} and does not end"
                    raise _CannotGoOnError(self.error(text, token))
                return
            if opened and token.kind == "sign" and token.text == closing:
                return
            if token.kind != "name":
                text = f"a field name is needed{f' or {closing!r}' if closing else ''}, not {shown(token)}"
                raise _CannotGoOnError(self.error(text, token))
            self.field(message, path, token)
            while self.token.kind == "sign" and self.token.text in ",;":
                self.take()

    def field(self, message: Message, path: str, token: Token) -> None:
        block = message.DESCRIPTOR
        name = ALIASES.get((block.name, token.text), token.text)
        field = block.fields_by_name.get(name)
        if field is None:
            self.unknown(block, path, token)
            return
        path = f"{path}.{name}" if path else name
        colon = self.taken(":")
        if not colon and not (field.message_type and self.token.text in ("{", "<", "[")):
            wanted = "{" if field.message_type else ":"
            text = f"{wanted!r} is needed after {token.text}, not {shown(self.token)}"
            raise _CannotGoOnError(self.error(text, self.token))
        self.one_of(message, field, path, token)
        if not field.is_repeated:
            self.once(path, token)
        if field.is_repeated and self.taken("["):
            while not self.taken("]"):
                self.value(message, field, path, token)
                if not self.taken(",") and self.token.text != "]":
                    text = f"',' or ']' is needed in the list of {path}, not {shown(self.token)}"
                    raise _CannotGoOnError(self.error(text, self.token))
            return
        self.value(message, field, path, token)

    def unknown(self, block, path: str, token: Token) -> None:
        if not path:
            self.unknown_at_top.append(token.text)
        known = [field.name for field in block.fields]
        near = get_close_matches(token.text.lower(), known, n=1, cutoff=0.6)
        homes = _homes(self.kind.DESCRIPTOR, token.text)
        hint = None
        if near:
            hint = f"did you mean {near[0]}?"
        elif homes:
            hint = (
                f"it belongs in {homes[0]}" if homes[0] else "it belongs at the top level: is a '}' missing above it?"
            )
        elif block.name not in self.listed:
            self.listed.add(block.name)
            hint = f"known here: {', '.join(known)}"
        self.wrong(f"{token.text} is no field of {path or 'the spec'}", token, hint)
        if not self.taken(":") and self.token.text not in ("{", "<"):
            raise _CannotGoOnError(self.error(f"':' is needed after {token.text}, not {shown(self.token)}", self.token))
        self.skip_value()

    def one_of(self, message: Message, field, path: str, token: Token) -> None:
        group = field.containing_oneof
        if group is None or len(group.fields) == 1:  # an `optional` scalar is a group of its own
            return
        other = message.WhichOneof(group.name)
        if other and other != field.name:
            parent = path[: -len(field.name)]
            text = f"{path} and {parent}{other} (line {self.findings.source.lines[parent + other]}) exclude each other"
            self.wrong(text, token, "keep one of them")

    def once(self, path: str, token: Token) -> None:
        lines = self.findings.source.lines
        if path in lines:
            self.findings.warnings.append(
                f"{self.findings.source.name}:{token.line}: {path} is given again (first in line {lines[path]}): "
                "the value that comes last counts"
            )
        lines[path] = token.line

    def value(self, message: Message, field, path: str, token: Token) -> None:
        if field.message_type is not None:
            self.block(message, field, path, token)
            return
        first = self.token
        if first.kind in ("sign", "end"):
            if first.text in ("{", "<", "["):
                what = f"is a single value ({wanted(field)})"
                self.wrong(f"{path} {what}, not {'a list' if first.text == '[' else 'a block'}", first)
                self.skip_value()
                return
            if first.text not in _CLOSING:
                raise _CannotGoOnError(self.error(f"the value of {path} is missing", first))
        try:
            value = self.scalar(field)
        except ValueError as error:
            self.wrong(f"{path} {error}", first)
            return
        if field.is_repeated:
            items = getattr(message, field.name)
            self.findings.source.lines[path] = token.line
            self.findings.source.lines[f"{path}[{len(items)}]"] = first.line
            items.append(value)
        else:
            setattr(message, field.name, value)

    def block(self, message: Message, field, path: str, token: Token) -> None:
        opened = self.take()
        if opened.kind != "sign" or opened.text not in ("{", "<"):
            raise _CannotGoOnError(self.error(f"{path} is a block: '{{' is needed, not {shown(opened)}", opened))
        lines = self.findings.source.lines
        if field.message_type.GetOptions().map_entry:
            entry = message_factory.GetMessageClass(field.message_type)()
            self.fields(entry, f"{path}[]", opened)
            lines.setdefault(path, token.line)
            for part in ("", ".key", ".value"):
                line = lines.pop(f"{path}[]{part}", None)
                lines[f'{path}["{entry.key}"]{part}'] = line or token.line
            entries = getattr(message, field.name)
            if entry.key in entries and entries[entry.key] != entry.value:
                self.wrong(f'{path} has the key "{entry.key}" twice: {entries[entry.key]!r} and {entry.value!r}', token)
            entries[entry.key] = entry.value
        elif field.is_repeated:
            items = getattr(message, field.name)
            item_path = f"{path}[{len(items)}]"
            lines.setdefault(path, token.line)
            lines[item_path] = token.line
            self.fields(items.add(), item_path, opened)
        else:
            child = getattr(message, field.name)
            child.SetInParent()  # an empty block is present all the same
            self.fields(child, path, opened)

    def scalar(self, field):
        """The value at the token, of the field's type. Raises ValueError, with the text that follows the path."""
        token = self.take()
        if field.type == field.TYPE_STRING:
            if token.kind != "string":
                raise ValueError(f"needs {wanted(field)}, not {shown(token)}")
            text = unquote(token.text)
            while self.token.kind == "string":  # neighbours are one string, as in C
                text += unquote(self.take().text)
            return text
        if token.kind not in ("name", "number"):
            raise ValueError(f"needs {wanted(field)}, not {shown(token)}")
        try:
            return converted(token.text, field)
        except ValueError:
            raise ValueError(f"needs {wanted(field)}, not {shown(token)}") from None

    def skip_value(self) -> None:
        """Leaves out the value of a field that cannot be read."""
        opened = self.token
        if opened.kind == "sign" and opened.text in _CLOSING:
            depth = 0
            while self.token.kind != "end":
                token = self.take()
                if token.kind == "sign":
                    depth += (token.text in _CLOSING) - (token.text in _CLOSING.values())
                if not depth:
                    return
            raise _CannotGoOnError(self.error(f"this {opened.text!r} has no {_CLOSING[opened.text]!r}", opened))
        while self.token.kind == "string" and self.tokens[self.index + 1].kind == "string":
            self.take()
        if self.token.kind != "sign":
            self.take()

    def raise_for_other_kind(self, message: Message) -> None:
        """One line instead of many when the file is the other kind of spec."""
        if message.ListFields() or not self.unknown_at_top:
            return
        for other, description in KINDS.items():
            if other is not self.kind and self.unknown_at_top[0] in other.DESCRIPTOR.fields_by_name:
                text = f"is {description}; needed is {KINDS[self.kind]}"
                raise SpecError(text, where=self.findings.source.name)


def _homes(block, name: str, path: str = "") -> list[str]:
    """The blocks below `block` that know a field `name`."""
    found = [path] if name in block.fields_by_name else []
    for field in block.fields:
        if field.message_type and not field.message_type.GetOptions().map_entry:
            found += _homes(field.message_type, name, f"{path}.{field.name}" if path else field.name)
    return found
