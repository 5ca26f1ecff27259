"""Two thousand services in one Consul: what the proxy costs while nothing changes, and how soon a
change is seen of one that is called."""

from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import http.client
import json
import multiprocessing
import os
import time

from load import Client, call
from processes import Unavailable, wait_until
from propagation import PAUSE, sample, started, watching
from registries import Consul

SERVICES = 2000
# The default of `max_watches`.
WATCHES = 100
CHANGES = 50
QUIET = 60
OTHER_STATUS = 203


def scale(callboard, backend, folder):
    """The share of a core in use in a quiet minute; seconds from when a bare blocking query saw
    a change to the first answer of the new instance, and since the registration was sent, by
    sample; and the most connections to Consul at any moment."""
    names = [f"s{number:04}" for number in range(SERVICES)]
    with Consul.start(folder) as registry:
        register(registry.port, names, backend)
        with started(callboard, registry.table, names, folder) as running:
            with connections(running.process.child.pid, registry.port) as most:
                running.until_ready()
                held = {"limit": WATCHES, "held": WATCHES, "in_turn": SERVICES - WATCHES}
                wait_until(lambda: watches(running.admin) == held, "all watches are given away")
                share = quiet(running.process)
                with answering(OTHER_STATUS) as other:
                    # The last were too late for a watch of their own.
                    changes = [change(running.port, registry, name, other)
                               for name in names[-CHANGES:]]
                return share, changes, most()


def register(port, names, backend):
    """An instance of each, on a node that no agent looks after."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for name in names:
        service = {"ID": name, "Service": name, "Address": "127.0.0.1", "Port": backend}
        entry = {"Node": "elsewhere", "Address": "127.0.0.1", "Service": service}
        connection.request("PUT", "/v1/catalog/register", json.dumps(entry))
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise Unavailable(f"Consul answered {answer.status} to a registration")
    connection.close()


def watches(admin):
    return call(admin, "GET", "/api/status")[2]["registries"][0]["watches"]


def quiet(process):
    began, used = time.monotonic(), process.cpu_seconds()
    time.sleep(QUIET)
    return (process.cpu_seconds() - used) / (time.monotonic() - began)


def change(port, registry, name, other):
    """A service that is called gets another instance, of which two requests in a row reach it."""
    client = Client(port, "bench.test", f"/{name}")
    if client.ask() != 200:
        raise Unavailable(f"/{name} is not answered")
    client.socket.close()
    with watching(registry, name) as seen:
        time.sleep(PAUSE)
        registration = registry.registration(name, other)
        it = sample(port, name, registration, before=(200,), wanted=OTHER_STATUS)
        return it.reached - seen(), it.reached - it.sent


@contextmanager
def answering(status):
    """Runs a backend that answers with this status; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    process = multiprocessing.Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield server.server_port
    finally:
        process.kill()
        process.join()
        server.server_close()


@contextmanager
def connections(pid, port):
    """Counts a process's connections to a port, a hundred times a second; gives a function that
    says how many they were at most."""
    most, ends = multiprocessing.Value("i"), multiprocessing.Event()

    def count():
        while not ends.wait(0.01):
            most.value = max(most.value, established(pid, port))

    process = multiprocessing.Process(target=count, daemon=True)
    process.start()
    try:
        yield lambda: most.value
    finally:
        ends.set()
        process.join(10)
        process.kill()


def established(pid, port):
    # The list first: a descriptor that is gone by then is no connection.
    with open(f"/proc/{pid}/net/tcp") as lines:
        remote = f":{port:04X}"
        fields = [line.split() for line in lines][1:]
    # By their inodes: the list may name one twice where it changes while it is read.
    listed = {each[9] for each in fields if each[2].endswith(remote) and each[3] == "01"}
    own = set()
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        try:
            own.add(os.readlink(descriptor.path).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            pass
    return len(listed & own)
