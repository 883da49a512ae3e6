"""`python -m toolkit` is the command `toolkit`."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Runs the command line."""
    # The imports below take long enough for a signal to come. Python would answer SIGINT with a traceback. So
    # until a run has its own listener, a signal just ends the process. An ignored signal stays ignored:
    # `nohup` ignores SIGHUP.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    # If stdin, stdout or stderr were closed, the next file that is opened would get its number, and libraries
    # that print messages would write them into that file. So each of the three that is closed is opened as
    # /dev/null.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from toolkit.commands import cli

    return cli.main()


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
