"""Errors that a user can act on: what, where, what to do. The command line prints them and picks the exit code."""


class SsdError(Exception):
    """A failed run. Prints as `where: message`, then the hint, indented; ends the process with `exit_code`.

    Args:
        message: one line: what is wrong, with the value, and what is allowed.
        where: `file:line`, a field path, a record number; None where the message says it.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        line = f"{self.where}: {self.message}" if self.where else self.message
        return f"{line}\n    {self.hint}" if self.hint else line


class InputError(SsdError):
    """Bad input: a flag, a path, a value. Nothing was written."""

    exit_code = 2


class SpecError(InputError):
    """A spec that does not parse or whose values do not fit."""


class DataError(InputError):
    """Images, labels or records that cannot be used."""


class ModelError(InputError):
    """A model file that cannot be used, or not with this spec."""


class RunError(SsdError):
    """The input was fine and the run failed: a loss of NaN, a full disk, a lost worker."""


class Problems(InputError):
    """Several problems found in one look; printed one a line, in order."""

    def __init__(self, problems: list[InputError]):
        super().__init__(f"{len(problems)} problems")
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Signalled(KeyboardInterrupt):
    """A signal ends the run as Ctrl-C does. `number` says which one."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def raise_all(problems: list[InputError]) -> None:
    """Raises nothing, the one problem, or all of them together."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems(problems)
