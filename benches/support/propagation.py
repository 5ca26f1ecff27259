"""How long after its registration an instance is first reached through the proxy."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
import json
import multiprocessing
import random
import time

from load import Client, answers
from processes import Process, Unavailable, free_port, wait_until
from registries import Consul, Dns, Etcd, Eureka, File, ZooKeeper, consul_registration

TEMPLATE = """
[[route]]
path = "/{service}"
service = "{service}"
strip_prefix = true
"""
# Between the last that happened to a service and its sample, in seconds.
PAUSE = 0.1
# Between an answer that was no 200 and the next question.
STEP, LONG_STEP = 0.0001, 0.001
KINDS = ("declared", "template")
# Consul answers every query for a service that is not there when any service comes. So that a
# sample does not measure how long hundreds of such answers take, so many are declared at a time.
GROUP = 10


@dataclass
class Sample:
    """Moments of one registration, of the monotonic clock."""

    sent: float
    answered: float
    reached: float


def embedded(callboard, backend, samples, folder):
    """Per kind of route: seconds from the call that registers an instance, once since it was
    sent and once since it was answered, to the first 200."""
    registry = free_port()
    data = json.dumps(str(folder / "data"))
    table = f'[registry.embedded]\naddress = "127.0.0.1:{registry}"\ndata = {data}\n'
    names = {kind: [f"{kind}-{number}" for number in range(samples)] for kind in KINDS}
    results = {kind: [] for kind in KINDS}
    with proxy(callboard, table + TEMPLATE, names["declared"], folder) as running:
        for kind in KINDS:
            for name in names[kind]:
                time.sleep(PAUSE)
                it = sample(running.port, name, consul_registration(registry, name, backend))
                results[kind].append((it.reached - it.sent, it.reached - it.answered))
    return results


def consul(callboard, backend, samples, folder):
    """As `pushed`, per kind of route."""
    results = {kind: [] for kind in KINDS}
    # The proxy alone has a long poll for every service here.
    with Consul.start(folder, connections=2000) as registry:
        for first in range(0, samples, GROUP):
            numbers = range(first, min(first + GROUP, samples))
            declared = [f"declared-{number}" for number in numbers]
            with proxy(callboard, registry.table + TEMPLATE, declared, folder) as running:
                for name, kind in ((f"{kind}-{n}", kind) for n in numbers for kind in KINDS):
                    results[kind].append(pushed(running.port, registry, name, backend))
    return results


def etcd(callboard, backend, samples, folder):
    return {"declared": declared(callboard, backend, samples, folder, Etcd)}


def zookeeper(callboard, backend, samples, folder):
    return {"declared": declared(callboard, backend, samples, folder, ZooKeeper)}


def declared(callboard, backend, samples, folder, kind):
    """As `pushed`, for services that a route names."""
    names = [f"s{number}" for number in range(samples)]
    with kind.start(folder) as registry:
        registry.prepare(names)
        with proxy(callboard, registry.table, names, folder) as running:
            return [pushed(running.port, registry, name, backend) for name in names]


def pushed(port, registry, name, backend):
    """Seconds by which the first 200 came after a bare watch, which ran beside it, had seen the
    same change; and the seconds since the registration was sent."""
    with watching(registry, name) as seen:
        time.sleep(PAUSE)
        it = sample(port, name, registry.registration(name, backend))
        return it.reached - seen(), it.reached - it.sent


def eureka(callboard, backend, samples, folder):
    return {"declared": polled(callboard, backend, samples, folder, Eureka, Eureka.POLL, 10)}


def dns(callboard, backend, samples, folder):
    return {"declared": polled(callboard, backend, samples, folder, Dns, Dns.TTL, 10)}


def file(callboard, backend, samples, folder):
    # One at a time: each change of the file has to be read before the next is made.
    return {"declared": polled(callboard, backend, samples, folder, File, File.POLL, 1)}


def polled(callboard, backend, samples, folder, kind, interval, at_once):
    """Seconds from when the registration was sent to the first 200, of which nothing is taken
    away. Each begins at any moment of the interval."""
    names = [f"s{number}" for number in range(samples)]
    with kind.start(folder) as registry, ThreadPoolExecutor(at_once) as threads:
        registry.prepare(names)
        with proxy(callboard, registry.table, names, folder) as running:

            def one(name):
                time.sleep(PAUSE + random.uniform(0, interval))
                registration = registry.registration(name, backend)
                it = sample(running.port, name, registration, LONG_STEP)
                return (it.reached - it.sent,)

            return list(threads.map(one, names))


@dataclass
class Proxy:
    """One that runs."""

    port: int
    admin: int
    process: Process

    def until_ready(self):
        ready = lambda: answers(self.admin, "/ready")
        wait_until(ready, "callboard is ready", seconds=60, process=self.process)


@contextmanager
def proxy(callboard, registry, declared, folder):
    """Callboard with a route to each service that is declared, when it is ready."""
    with started(callboard, registry, declared, folder) as running:
        running.until_ready()
        yield running


@contextmanager
def started(callboard, registry, declared, folder):
    """The same, at once."""
    port, admin = free_port(), free_port()
    routes = "".join(f'[[route]]\npath = "/{name}"\nservice = "{name}"\n' for name in declared)
    config = folder / "proxy.toml"
    config.write_text(f"""
[[listen]]
address = "127.0.0.1:{port}"

[admin]
address = "127.0.0.1:{admin}"

# A refusal is a line of the log, and a bench asks for thousands a second.
[log]
level = "error"

{registry}
{routes}""")
    with Process("callboard", [callboard, "run", "--config", config], folder) as process:
        yield Proxy(port, admin, process)


def sample(port, name, registration, step=STEP, before=(404, 503), wanted=200):
    """Registers a service's instance and asks for it until it answers."""
    client = Client(port, "bench.test", f"/{name}")
    if (status := client.ask()) not in before:
        raise Unavailable(f"/{name} answered {status} before it was registered")
    sent, answered = time.monotonic(), None
    registration.send()
    while client.ask() != wanted:
        if answered is None and registration.is_answered():
            answered = time.monotonic()
        if time.monotonic() > sent + 30:
            raise Unavailable(f"/{name} was not reached within 30 s")
        time.sleep(step)
    reached = time.monotonic()
    registration.finish()
    client.socket.close()
    return Sample(sent, answered or reached, reached)


@contextmanager
def watching(registry, name):
    """Runs a bare watch of a service in a process of its own; gives a function that waits for the
    moment at which a new instance was seen."""
    ours, theirs = multiprocessing.Pipe()
    watcher = multiprocessing.Process(
        target=registry.watch, args=(name, theirs.send), daemon=True)
    watcher.start()
    ours.recv()
    try:
        yield ours.recv
    finally:
        watcher.join(10)
        watcher.kill()
