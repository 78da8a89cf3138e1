"""A trace of a few training steps, by the profiler of the backend, for TensorBoard or XProf."""

from pathlib import Path

import keras

from ssd.console import say, warn

# Steps of this process before the trace begins: the first ones compile, and fill the queues.
SKIPPED = 5


class Profile:
    """Traces `steps` training steps into `folder`; 0 traces nothing."""

    def __init__(self, folder: Path, steps: int):
        self.folder, self._wanted, self._seen, self._running = folder, steps, 0, False

    def before_step(self) -> None:
        """To be called before each step; starts the trace when the first ones are done."""
        if self._wanted and self._seen == SKIPPED:
            self.folder.mkdir(parents=True, exist_ok=True)
            _start(str(self.folder))
            self._running = True

    def after_step(self, wait) -> None:
        """To be called after each step; `wait` returns when the device is done with it."""
        self._seen += 1
        if self._running and self._seen == SKIPPED + self._wanted:
            wait()
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is running."""
        if self._running:
            self._running = False
            _stop()
            count = self._seen - SKIPPED
            say(f"profile of {count} steps: {self.folder} (pip install xprof; xprof --logdir {self.folder})")
            self._wanted = 0

    def check(self) -> None:
        """Says so where the run ended before the trace began."""
        if self._wanted:
            warn(f"--profile: the run ended within its first {SKIPPED} steps, which are not traced")


def _start(folder: str) -> None:
    if keras.backend.backend() == "jax":
        import jax

        jax.profiler.start_trace(folder)
    else:
        import tensorflow as tf

        tf.profiler.experimental.start(folder)


def _stop() -> None:
    if keras.backend.backend() == "jax":
        import jax

        jax.profiler.stop_trace()
    else:
        import tensorflow as tf

        tf.profiler.experimental.stop()
