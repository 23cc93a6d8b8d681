from __future__ import annotations

import os
import signal

import pytest

from alexnet_keras.training.stopping import SIGNALS, Stopped, StopRequest


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def former_handlers():
    """Even where a test fails, pytest gets its own back."""
    former = {number: signal.getsignal(number) for number in SIGNALS}
    yield former
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_ends_nothing(number):
    with StopRequest() as request:
        assert request.signal is None
        send(number)
        assert request.signal == number


def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequest() as request, pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
        assert request.signal == signal.SIGINT
        send(signal.SIGINT)


def test_sigterm_may_come_again():
    with StopRequest() as request:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert request.signal == signal.SIGTERM


def test_former_handlers_come_back(former_handlers):
    with pytest.raises(ZeroDivisionError), StopRequest():
        assert signal.getsignal(signal.SIGTERM) != former_handlers[signal.SIGTERM]
        raise ZeroDivisionError
    for number, handler in former_handlers.items():
        assert signal.getsignal(number) == handler


def test_a_request_can_be_entered_again():
    request = StopRequest()
    with request:
        pass
    with request:
        send(signal.SIGTERM)
    assert request.signal == signal.SIGTERM


def test_who_was_stopped_says_with_which_exit_code():
    assert Stopped(128 + signal.SIGTERM).exit_code == 143
