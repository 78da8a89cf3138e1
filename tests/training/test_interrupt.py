import os
import signal

import pytest

from ssd.training.interrupt import Interrupt, Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_waits_for_a_check_and_the_second_does_not(number):
    inherited = signal.signal(number, handler := signal.default_int_handler)  # what starts the tests may ignore some
    with Interrupt() as interrupt:
        interrupt.check()
        os.kill(os.getpid(), number)
        assert interrupt.requested()
        with pytest.raises(Stopped) as first:
            interrupt.check()
        assert first.value.number == number
        with pytest.raises(KeyboardInterrupt) as second:
            os.kill(os.getpid(), number)
            signal.pause()
        assert not isinstance(second.value, Stopped)
    assert signal.signal(number, inherited) is handler


def test_a_hang_up_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupt.check()
    finally:
        signal.signal(signal.SIGHUP, before)
