# ruff: noqa: E501 - tables of cases, one a line
"""Prototxt to messages: the same as protobuf's own reader, with lines, and errors that say what was meant."""

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.errors import InputError, raise_all
from ssd.spec.dataset_convert_pb2 import DatasetExportConfig
from ssd.spec.experiment_pb2 import Experiment
from ssd.spec.parse import parse_spec


def read(text, kind=Experiment):
    spec, findings = parse_spec(text, kind, "spec.txt")
    raise_all(findings.problems)
    return spec, findings


def error_lines(text, kind=Experiment) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(text, kind)
    return str(caught.value).splitlines()


def test_every_way_to_write_a_value():
    spec, _ = read(
        """
        random_seed: 0x2a  # hexadecimal
        ssd_config: {
          arch: "res" 'net'   # neighbours are one string
          nlayers: 18, min_scale: .1; max_scale: 1f
          freeze_blocks: [0, 1] freeze_blocks: 2
          clip_boxes: True
          steps: "\\"\\x41\\101\\n"
        }
        nms_config < top_k: 5 >
        eval_config { average_precision_mode: 1 }
        augmentation_config {
          brightness: -3
          image_mean { key: 'b' value: 1 }
          image_mean: { key: "g", value: 2 },
        }
        dataset_config { data_sources: [{ tfrecords_path: "ä" }, {}] data_sources {} }
        """
    )
    network = spec.ssd_config
    assert spec.random_seed == 42
    assert (network.arch, network.nlayers, network.clip_boxes) == ("resnet", 18, True)
    assert network.steps == '"AA\n'
    assert list(network.freeze_blocks) == [0, 1, 2]
    assert spec.nms_config.top_k == 5
    assert spec.eval_config.average_precision_mode == 1
    assert spec.augmentation_config.brightness == -3
    assert dict(spec.augmentation_config.image_mean) == {"b": 1.0, "g": 2.0}
    assert [source.tfrecords_path for source in spec.dataset_config.data_sources] == ["ä", "", ""]


def test_the_guides_other_spelling_is_read():
    spec, findings = read("nms_config {\n cluster_iou_threshold: 0.4 }")
    assert spec.nms_config.clustering_iou_threshold == pytest.approx(0.4)
    assert findings.source.at("nms_config.clustering_iou_threshold") == "spec.txt:2"


def test_windows_line_ends_and_tabs():
    spec, findings = read("random_seed: 1\r\nssd_config {\r\n\tarch: 'vgg'\r\n}\r\n")
    assert spec.ssd_config.arch == "vgg"
    assert findings.source.at("ssd_config.arch") == "spec.txt:3"


def test_lines_are_known_for_every_field():
    _, findings = read(
        "training_config {\n  learning_rate {\n    soft_start_annealing_schedule {\n      soft_start: 0.1\n    }\n  }\n}\n"
        'dataset_config {\n  data_sources {\n  }\n  data_sources { tfrecords_path: "x"\n }\n'
        '  target_class_mapping {\n  key: "car"\n  value: "Car" }\n}\nssd_config { freeze_blocks: [\n1,\n9] }'
    )
    at = findings.source.at
    assert at("training_config.learning_rate.soft_start_annealing_schedule.soft_start") == "spec.txt:4"
    assert at("training_config.learning_rate.soft_start_annealing_schedule.annealing") == "spec.txt:3"  # its block
    assert at("dataset_config.data_sources[0].tfrecords_path") == "spec.txt:9"
    assert at("dataset_config.data_sources[1]") == "spec.txt:11"
    assert at('dataset_config.target_class_mapping["car"]') == "spec.txt:13"
    assert at("ssd_config.freeze_blocks[1]") == "spec.txt:19"
    assert at("eval_config") == "spec.txt"


def test_what_is_given_twice_is_said():
    spec, findings = read("random_seed: 1\nrandom_seed: 2")
    assert spec.random_seed == 2
    assert findings.warnings == [
        "spec.txt:2: random_seed is given again (first in line 1): the value that comes last counts"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssd_confg { }", "spec.txt:1:1: ssd_confg is no field of the spec|did you mean ssd_config?"),
        ("ssd_config {\n  nlayer: 3 }", "spec.txt:2:3: nlayer is no field of ssd_config|did you mean nlayers?"),
        ("ssd_config { top_k: 3 }", "spec.txt:1:14: top_k is no field of ssd_config|it belongs in nms_config"),
        ("nlayers: 18", "spec.txt:1:1: nlayers is no field of the spec|it belongs in ssd_config"),
        ("nms_config { xyz { a: [1, {}] } }", "spec.txt:1:14: xyz is no field of nms_config|known here: confidence_threshold"),
        ("eval_config {\nnms_config {\n}", "spec.txt:2:1: nms_config is no field of eval_config|at the top level: is a '}' missing above it?"),
        ("foo { a: [ {", "spec.txt:1:5: this '{' has no '}'"),
        ("ssd_config { arch: resnet }", "spec.txt:1:20: ssd_config.arch needs a string in quotes, not 'resnet'"),
        ("ssd_config { nlayers: 1.5 }", "ssd_config.nlayers needs a whole number from 0 to 4294967295, not '1.5'"),
        ("ssd_config { nlayers: -1 }", "ssd_config.nlayers needs a whole number from 0 to 4294967295, not '-1'"),
        ("ssd_config { nlayers: 9999999999 }", "ssd_config.nlayers needs a whole number from 0 to 4294967295"),
        ("ssd_config { alpha: high }", "ssd_config.alpha needs a finite number, not 'high'"),
        ("ssd_config { alpha: nan }", "ssd_config.alpha needs a finite number, not 'nan'"),
        ("ssd_config { alpha: 1e60 }", "ssd_config.alpha needs a finite number, not '1e60'"),
        ("ssd_config { clip_boxes: yes }", "ssd_config.clip_boxes needs true or false, not 'yes'"),
        ("ssd_config { scales: [0.1, 0.2] }", "ssd_config.scales is a single value (a string in quotes), not a list"),
        ("ssd_config { scales { } }", "spec.txt:1:21: ':' is needed after scales, not '{'"),
        ("ssd_config { steps: 'a\\d' }", "ssd_config.steps has the unknown escape \\d"),
        ("ssd_config { steps: '\\xff' }", "ssd_config.steps has escapes that make no UTF-8 text"),
        ("ssd_config { steps: '\\U00110000' }", "ssd_config.steps has an escape for a character that does not exist"),
        ("eval_config { average_precision_mode: SAMPEL }", "needs one of SAMPLE, INTEGRATE, not 'SAMPEL'"),
        ("eval_config { average_precision_mode: 7 }", "needs one of SAMPLE, INTEGRATE, not '7'"),
        ("training_config: 3", "spec.txt:1:18: training_config is a block: '{' is needed, not '3'"),
        ("random_seed = 42", "spec.txt:1:13: ':' is needed after random_seed, not '='"),
        ("random_seed:", "spec.txt:1:13: the value of random_seed is missing"),
        ("random_seed: }", "spec.txt:1:14: the value of random_seed is missing"),
        ("}", "spec.txt:1:1: a field name is needed, not '}'"),
        ('{"random_seed": 1}', "spec.txt:1:1: a field name is needed, not '{'"),
        ("ssd_config {\n", "spec.txt:2:1: '}' is missing: the block ssd_config begins at line 1 and does not end"),
        ("ssd_config { arch: 'x }\n}", "not a string without its closing quote: 'x }"),
        ("ssd_config { freeze_blocks: [1 2] }", "',' or ']' is needed in the list of ssd_config.freeze_blocks, not '2'"),
        ("ssd_config { } dssd_config { }", "dssd_config and ssd_config (line 1) exclude each other"),
        (
            "dataset_config { target_class_mapping { ky: 'a' value: 'b' } }",
            "ky is no field of dataset_config.target_class_mapping[]|did you mean key?",
        ),
        (
            "dataset_config { target_class_mapping { key: 'a' value: 'b' } target_class_mapping { key: 'a' value: 'c' } }",
            "has the key \"a\" twice: 'b' and 'c'",
        ),
        ("kitti_config { }", "spec.txt: is a dataset_convert spec (kitti_config or coco_config); needed is an experiment"),
        ("# nothing\n\n", "spec.txt: is empty, needed is an experiment spec"),
        ("", "spec.txt: is empty"),
    ],
)  # fmt: skip
def test_errors(text, expected):
    lines = "\n".join(error_lines(text))
    for part in expected.split("|"):
        assert part in lines
    assert "Traceback" not in lines


def test_an_experiment_given_to_the_converter():
    (line,) = error_lines("random_seed: 1\nssd_config { arch: 'vgg' }", DatasetExportConfig)
    assert line.startswith("spec.txt: is an experiment spec (ssd_config, training_config, dataset_config, ...); needed")


def test_one_look_finds_all_errors():
    lines = error_lines(
        "ssd_config {\n nlayers: x\n foo: { a: [1, 2] b {} } bar: 'a' 'b'\n clip_boxes: maybe }\nzzz: 1"
    )
    places = [line.split(" ")[0] for line in lines if not line.startswith("    ")]
    assert places == ["spec.txt:2:11:", "spec.txt:3:2:", "spec.txt:3:26:", "spec.txt:4:14:", "spec.txt:5:1:"]


def test_a_file_of_another_language_does_not_fill_the_screen():
    lines = error_lines("a: b\n" * 1000)
    assert len(lines) < 40
    assert lines[-1] == "spec.txt:25:1: too many errors, the rest is not read"


WORDS = ["ssd_config", "nlayers", "arch", "image_mean", "key", "data_sources", "{", "}", "[", "]", ":", ",", ";", "<", ">",
         "'", '"', '"b"', "1", "-1.5", "true", "SAMPLE", "#", "\n", " ", "\\", "é", "augmentation_config", "dataset_config"]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))
def test_whatever_is_written_the_answer_is_a_message_or_a_placed_error(text):
    try:
        ours, _ = read(text)
    except InputError as error:
        assert str(error).startswith("spec.txt")
        return
    theirs = text_format.Merge(text, Experiment())
    assert ours == theirs


def messages(descriptor, depth=0):
    """Any message of the type, as the text that protobuf writes for it."""
    from google.protobuf import message_factory

    kinds = {
        1: st.floats(allow_nan=False, allow_infinity=False),
        2: st.floats(width=32, allow_nan=False, allow_infinity=False),
        5: st.integers(-(2**31), 2**31 - 1),
        8: st.booleans(),
        9: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        13: st.integers(0, 2**32 - 1),
    }

    def value(field):
        if field.message_type is not None:
            return messages(field.message_type, depth + 1)
        if field.enum_type is not None:
            return st.sampled_from([member.number for member in field.enum_type.values])
        return kinds[field.type]

    def build(values):
        message = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if field.name not in values:
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                for entry in values[field.name]:
                    getattr(message, field.name)[entry.key] = entry.value
            elif field.is_repeated:
                getattr(message, field.name).extend(values[field.name])
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(values[field.name])
            else:
                setattr(message, field.name, values[field.name])
        return message

    optional = {}
    for field in descriptor.fields:
        group = field.containing_oneof
        if group is not None and len(group.fields) > 1 and field is not group.fields[0]:
            continue  # one member of each choice is enough here
        optional[field.name] = st.lists(value(field), max_size=2) if field.is_repeated else value(field)
    return st.fixed_dictionaries({}, optional=optional).map(build)


@pytest.mark.parametrize("kind", [Experiment, DatasetExportConfig])
@given(data=st.data())
@settings(max_examples=25)
def test_any_message_is_read_as_protobuf_reads_it(kind, data):
    message = data.draw(messages(kind.DESCRIPTOR))
    style = data.draw(
        st.sampled_from([{}, {"as_utf8": True}, {"as_one_line": True}, {"use_short_repeated_primitives": True}])
    )
    text = text_format.MessageToString(message, **style)
    if not message.ListFields():
        return
    read_back, findings = read(text, kind)
    assert read_back == message == text_format.Parse(text, kind())
    assert not findings.warnings
