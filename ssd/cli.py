"""The `ssd` command: the argument tree, logging and exit codes. Nothing heavy is imported before a verb runs."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

from ssd import __version__, native_log
from ssd.errors import Signalled, SsdError

# Every verb's module in ssd.commands has `add_arguments(parser)` and `run(args)`.
COMMANDS = {
    "dataset_convert": "turn KITTI or COCO data into TFRecords",
    "train": "train a detector from an experiment spec",
    "evaluate": "measure a detector on the validation data: VOC AP and COCO metrics",
    "prune": "remove the filters of a trained detector that count least",
    "export": "write a detector as ONNX (float32, float16, INT8), as an engine, for DeepStream and Triton",
    "inference": "detect objects in images: annotated pictures, KITTI labels, JSON",
}

BACKENDS = ("tensorflow", "jax")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb. Returns 0 when done, 2 on bad input, 1 when the run failed, 130 after Ctrl-C, 143 on SIGTERM."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args, unknown = _parser(argv).parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if not args.debug:
        native_log.keep_from_terminal()
    try:
        with _terminable():
            return _run(args)
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        print("interrupted" if number == signal.SIGINT else "terminated", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:
        # The reader of our output went away (`ssd ... | head`); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SsdError as error:
        return _failed(str(error), error.exit_code, args)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}", 1, args)
    except Exception as error:  # the last resort: a defect of ours must still end in one readable line
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        hint = "" if args.debug else "\n    this looks like a defect of ssd: run again with --debug for the traceback"
        return _failed(f"{type(error).__name__}: {reason}{hint}", 1, args)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP unwind the blocks that they meet: no decrypted model or half a file may stay behind.

    One that is ignored stays so: that is how `nohup` keeps SIGHUP away.
    """

    def stop(number, frame):
        raise Signalled(number)

    if threading.current_thread() is not threading.main_thread():  # no other may have handlers
        yield
        return
    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(args: argparse.Namespace) -> int:
    from ssd import console
    from ssd.errors import InputError

    _check_log_file(args)
    try:
        console.set_up(quiet=args.quiet, verbose=args.verbose, log_file=args.log_file)
    except OSError as error:
        raise InputError(f"--log_file {args.log_file}: cannot write there: {error.strerror}") from error
    _check_backend()
    command = importlib.import_module(f"ssd.commands.{args.command}")
    return command.run(args) or 0


def _check_log_file(args: argparse.Namespace) -> None:
    """A log is appended to: one that is named by mistake would damage a model or a spec."""
    if not args.log_file:
        return
    from pathlib import Path

    from ssd.errors import InputError
    from ssd.files import overwritten

    values = [value for name, value in vars(args).items() if name != "log_file" and isinstance(value, str) and value]
    if taken := overwritten(Path(args.log_file).expanduser(), values):
        raise InputError(f"--log_file {args.log_file}: is {taken}, which another flag names", hint="name another file")


def _check_backend() -> None:
    """Keras answers a wrong KERAS_BACKEND with a traceback, in the middle of an import."""
    import importlib.util

    from ssd.errors import InputError

    name = os.environ.get("KERAS_BACKEND", "tensorflow")
    if name not in BACKENDS:
        raise InputError(f"KERAS_BACKEND is {name}, allowed: {', '.join(BACKENDS)}", hint="unset it for tensorflow")
    if importlib.util.find_spec(name) is None:
        raise InputError(
            f"KERAS_BACKEND is {name}, which is not installed", hint=f"pip install {name}, or unset KERAS_BACKEND"
        )


def _failed(text: str, code: int, args: argparse.Namespace) -> int:
    if args.debug:
        traceback.print_exc()
    from ssd.console import log

    if log.handlers:
        log.error("%s", text)
    else:
        print(f"error: {text}", file=sys.stderr)
    return code


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd",
        description="Train and deploy SSD object detectors from a prototxt spec.",
        epilog="'ssd COMMAND --help' lists a command's flags.",
    )
    parser.add_argument("--version", action="version", version=f"ssd {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name != named:
            continue  # only the asked-for verb is imported
        importlib.import_module(f"ssd.commands.{name}").add_arguments(command)
        command.set_defaults(parser=command)
        common = command.add_argument_group("common")
        common.add_argument("--log_file", metavar="FILE", help="append the output to this file too")
        common.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
        common.add_argument("-v", "--verbose", action="store_true", help="print details")
        common.add_argument("--debug", action="store_true", help="print tracebacks")
    return parser
