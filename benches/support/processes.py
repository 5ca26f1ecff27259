"""Programs that the benches start: found, pinned to a core, timed, and ended by their own ids."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time


class Unavailable(Exception):
    """A figure that cannot be measured here, and why."""


def find(program, package):
    """The path of an installed program; names what to install where it is missing."""
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise Unavailable(f"{program} is not installed (Debian: apt install {package})")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(holds, what, seconds=20, process=None):
    """Waits for a condition, not longer than the process it depends on lives."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process is not None and process.ended():
            raise Unavailable(f"{process.name} ended at once: {process.last_words()}")
        if time.monotonic() > deadline:
            words = f": {process.last_words()}" if process else ""
            raise Unavailable(f"{what}: not within {seconds} s{words}")
        time.sleep(0.01)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Process:
    """One started program and its children. A context manager: it ends what it has started."""

    def __init__(self, name, command, folder, cpu=None, env=None):
        self.name = name
        self.log = folder / f"{name}.log"
        pin = None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=pin,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.ended():
            return
        self.child.terminate()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def ended(self):
        return self.child.poll() is not None

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.child.poll()}, nothing said"

    def pids(self):
        """Its own id and its descendants'."""
        found = [self.child.pid]
        for pid in found:
            for task in os.listdir(f"/proc/{pid}/task"):
                # A thread may end while it is looked at.
                with contextlib.suppress(OSError):
                    with open(f"/proc/{pid}/task/{task}/children") as children:
                        found.extend(int(child) for child in children.read().split())
        return found

    def cpu_seconds(self):
        """CPU time, user and system, of all threads that it has or had, to the nanosecond."""
        # A process's CPU clock is named by its id (clock_getcpuclockid(3)).
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids())
