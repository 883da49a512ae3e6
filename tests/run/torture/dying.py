"""Source of a `sitecustomize` that kills its process at the n-th operation on the files of a folder.

Watching a folder from outside and then killing comes too late for saves of a millisecond; this comes at the very call.
"""

SOURCE = """
import os, signal, sys

folder, last = os.environ["TORTURE_FOLDER"], int(os.environ["TORTURE_DIE_AT"])
count = 0
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock"}


def one_more():
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)


def heard(event, arguments):
    if event in EVENTS and folder in repr(arguments[0]):
        one_more()


def fsync(descriptor, whole=os.fsync):
    one_more()  # its file is written, its name not yet
    whole(descriptor)
    one_more()


os.fsync = fsync
sys.addaudithook(heard)
if last == 0:
    import atexit

    atexit.register(lambda: open("operations", "w").write(str(count)))
"""
