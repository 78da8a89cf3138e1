"""Keeps TensorFlow's start-up lines from the terminal: it writes them while imported, before its log level counts."""

import contextlib
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterator


def import_quietly(name: str) -> None:
    """Whoever imports the package `name` first does so with the process's error stream turned away."""
    if name not in sys.modules:
        sys.meta_path.insert(0, _Finder(name))


class _Finder(importlib.abc.MetaPathFinder):
    """Leaves the finding to the others and wraps what they found."""

    def __init__(self, name: str):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                with _error_stream_aside():
                    execute(module)

            spec.loader.exec_module = exec_module
        return spec


@contextlib.contextmanager
def _error_stream_aside() -> Iterator[None]:
    """What native code writes meanwhile is dropped; an exception brings it back, since it may say why."""
    import tempfile

    try:
        stream = os.dup(2)
    except OSError:  # closed: nobody hears anything anyway
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stream, 2)
            aside.seek(0)
            os.write(2, aside.read())
            raise
        finally:
            os.dup2(stream, 2)
            os.close(stream)
