"""`python tied.py COMMAND...` runs the command while its stdin stays open, then asks it (SIGTERM) to save and leave.

Whoever started it holds the other end of that pipe, so the kernel closes it even if that process is killed. It closes
only once, which matters because a second signal would make a run leave without saving. This file runs as a
script without packages, so it imports nothing of toolkit.
"""

import os
import signal
import subprocess
import sys
import threading
from typing import NoReturn


def main(words: list[str]) -> NoReturn:
    # A signal to this group of processes reaches the command as well, which saves and leaves, and this
    # process has to wait for it. So its handler does nothing. `SIG_IGN` would not do: the command would
    # inherit it and ignore the signal, too.
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
