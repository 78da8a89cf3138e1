"""`status.json`: one JSON object a line, as TAO's tools wrote it, for programs that watch a run."""

import contextlib
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path


class StatusLog:
    """Appends events to `results_dir/status.json`. `kpi`, `graphical` and `categorical` stay until they are set anew.

    Args:
        results_dir: an existing folder, or None to write nothing.
        append: False starts the file anew (dataset_convert does, as TAO did).
    """

    def __init__(self, results_dir: str | os.PathLike | None, append: bool = True):
        self.path = Path(results_dir) / "status.json" if results_dir else None
        self._sticky: dict[str, dict] = {}
        if self.path and not append:
            self.path.unlink(missing_ok=True)

    def write(self, status: str, message: str, *, kpi=None, graphical=None, categorical=None, **event) -> None:
        """One line; `status` is STARTED, RUNNING, SUCCESS, FAILURE or SKIPPED, `event` are its own keys."""
        for key, value in (("categorical", categorical), ("graphical", graphical), ("kpi", kpi)):
            if value is not None:
                self._sticky[key] = value
        if self.path is None:
            return
        now = datetime.datetime.now()
        line = {
            **event,
            "date": f"{now.month}/{now.day}/{now.year}",
            "time": f"{now.hour}:{now.minute}:{now.second}",
            "status": status,
            "verbosity": "INFO" if status != "FAILURE" else "ERROR",
            "message": message,
            **self._sticky,
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def noting_interruption(folder: str | os.PathLike, what: str) -> Iterator[None]:
    """Writes `what` was interrupted into the `status.json` of `folder`, if there is such a folder by then."""
    try:
        yield
    except KeyboardInterrupt:
        folder = Path(folder).expanduser()
        StatusLog(folder if folder.is_dir() else None).write("FAILURE", f"{what} was interrupted")
        raise
