"""SIGTERM, SIGINT and SIGHUP: finish the step, save, leave. A second signal leaves at once.

A thread reads the number of the signal from a pipe. Python's own handlers would be too late: they run only
between two bytecodes of the main thread, which during a long compiled step or an import may be minutes away.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class StopRequest:
    """Shared by the listening thread, which sets `number`, and the loop, which reads it between steps."""

    number: int | None = None  # the signal that asked to stop
    # True while there is a state worth saving: the first signal then waits for the loop to save and leave.
    deferred: bool = False


@contextlib.contextmanager
def watched() -> Iterator[StopRequest]:
    """Listens for signals until the end of the block. Only in the main thread; elsewhere it does nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    reading, writing = os.pipe()
    # Python writes the number into the pipe from its C handler, which must never wait for the reader.
    os.set_blocking(writing, False)
    # `nohup` ignores SIGHUP; that wish is kept.
    numbers = [number for number in HANDLED if signal.getsignal(number) != signal.SIG_IGN]
    # The pipe first: a signal that came between the handlers and the pipe would be lost.
    wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reading, request), daemon=True)
    listener.start()
    # Handlers that do nothing: the pipe is written only for signals that have a handler of Python's.
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        listener.join(timeout=1)


def _listen(reading: int, request: StopRequest) -> None:
    while data := os.read(reading, 1):
        number = data[0]
        if number not in HANDLED:
            continue
        if request.number is not None or not request.deferred:
            leave(number)
        request.number = number
    os.close(reading)


def leave(number: int) -> None:
    """Ends the process now. What is on disk is whole at any time, so nothing needs to be undone."""
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hides it
    os.write(2, show_cursor + f"stopped: {signal.Signals(number).name} at once\n".encode())
    os._exit(128 + number)
