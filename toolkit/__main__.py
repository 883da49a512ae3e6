"""`python -m toolkit` is the command `toolkit`."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Runs the command line; until it listens to signals itself, one of them ends the process without a traceback."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores SIGHUP
            signal.signal(number, _leave)
    for descriptor in (
        0,
        1,
        2,
    ):  # one that is closed would become a file of ours, and take the messages of libraries
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from toolkit.commands.cli import (
        main as command,  # imports take long enough for a signal to come
    )

    return command()


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
