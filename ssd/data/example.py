"""`tf.train.Example` as a protobuf class, without TensorFlow.

The same fields and numbers, so the same bytes. In a pool of its own, since TensorFlow registers the original.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = ".ssd.data."


def _message(file, name: str, *fields) -> descriptor_pb2.DescriptorProto:
    """Adds a message; `fields` are (name, number, type, type name, repeated)."""
    message = file.message_type.add(name=name)
    for field, number, kind, type_name, repeated in fields:
        message.field.add(
            name=field,
            number=number,
            type=kind,
            type_name=type_name and _PACKAGE + type_name,
            label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
        )
    return message


def _example_class():
    file = descriptor_pb2.FileDescriptorProto(name="ssd/data/example.proto", package="ssd.data", syntax="proto3")
    _message(file, "BytesList", ("value", 1, _FIELD.TYPE_BYTES, None, True))
    _message(file, "FloatList", ("value", 1, _FIELD.TYPE_FLOAT, None, True))
    _message(file, "Int64List", ("value", 1, _FIELD.TYPE_INT64, None, True))
    feature = _message(
        file,
        "Feature",
        ("bytes_list", 1, _FIELD.TYPE_MESSAGE, "BytesList", False),
        ("float_list", 2, _FIELD.TYPE_MESSAGE, "FloatList", False),
        ("int64_list", 3, _FIELD.TYPE_MESSAGE, "Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = _message(file, "Features", ("feature", 1, _FIELD.TYPE_MESSAGE, "Features.FeatureEntry", True))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=_FIELD.TYPE_MESSAGE,
        type_name=_PACKAGE + "Feature",
        label=_FIELD.LABEL_OPTIONAL,
    )
    _message(file, "Example", ("features", 1, _FIELD.TYPE_MESSAGE, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ssd.data.Example"))


Example = _example_class()
