import os
import signal

import pytest

from ssd.training.interrupt import Interrupt, Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_a_check_and_the_second_does_not(number):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        interrupt.check()
        os.kill(os.getpid(), number)
        assert interrupt.requested
        with pytest.raises(Stopped):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt) as second:
            os.kill(os.getpid(), number)
            signal.pause()
        assert not isinstance(second.value, Stopped)
    assert signal.getsignal(number) is before
