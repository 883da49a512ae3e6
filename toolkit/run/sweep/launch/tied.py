"""`python tied.py COMMAND...` runs the command while its stdin stays open, then asks it (SIGTERM) to save and leave.

The other end of that pipe is held by the sweep, so that the kernel closes it even where the sweep is killed, and
exactly once: a second signal would make a run leave without saving. A script, not a module: it imports nothing of ours.
"""

import os
import signal
import subprocess
import sys
import threading
from typing import NoReturn


def main(words: list[str]) -> NoReturn:
    # Whoever signals this group of processes reaches the command as well, which saves and leaves; this process waits for
    # it. The handler does nothing. To ignore the signals would not do, because the command would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    command = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def ask_at_the_end_of_stdin() -> None:
        while os.read(0, 1):
            pass
        command.send_signal(signal.SIGTERM)

    threading.Thread(target=ask_at_the_end_of_stdin, daemon=True).start()
    code = command.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(sys.argv[1:])
