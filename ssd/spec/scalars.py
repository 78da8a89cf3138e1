"""Words of a prototxt -> numbers, truth values and enum members, by the field's type."""

import math
import struct

from google.protobuf import text_format

_BOOL, _INT32, _UINT32, _STRING, _FLOAT = 8, 5, 13, 9, 2  # FieldDescriptor.TYPE_*


def converted(text: str, field) -> int | float | bool:
    """The value of the word `text` for a field descriptor that is no string. Raises ValueError."""
    if field.enum_type is not None:
        members = field.enum_type.values_by_name
        if text in members:
            return members[text].number
        number = text_format.ParseInteger(text)  # protobuf takes the number as well
        if number not in field.enum_type.values_by_number:
            raise ValueError(text)
        return number
    if field.type == _BOOL:
        return text_format.ParseBool(text)
    if field.type in (_INT32, _UINT32):
        return text_format.ParseInteger(text, is_signed=field.type == _INT32)
    value = text_format.ParseFloat(text)
    if field.type == _FLOAT:
        try:
            value = struct.unpack("f", struct.pack("f", value))[0]
        except OverflowError as error:
            raise ValueError(text) from error
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def wanted(field) -> str:
    """What a field takes, for an error message."""
    if field.enum_type is not None:
        return "one of " + ", ".join(value.name for value in field.enum_type.values)
    if field.type == _UINT32:
        return f"a whole number from 0 to {2**32 - 1}"
    return {_BOOL: "true or false", _INT32: "a whole number", _STRING: "a string in quotes"}.get(
        field.type, "a finite number"
    )
