"""How long after its registration an instance is first reached through the proxy."""

from contextlib import ExitStack, contextmanager
import gc
import http.client
import json
import multiprocessing
import os
import select
import subprocess
import time

from load import Client, answers, call
from processes import Process, Unavailable, free_port, wait_until

PAUSE = 0.1
KINDS = ("declared", "template")
# Consul answers every query for a service that is not there when any service comes. So that a
# sample does not measure how long hundreds of such answers take, so many are declared at a time.
GROUP = 10


def embedded(callboard, backend, samples, folder):
    """Per kind of route: seconds from the call that registers an instance, once since it was
    sent and once since it was answered, to the first 200."""
    folder.mkdir()
    registry = free_port()
    data = json.dumps(str(folder / "data"))
    table = f'[registry.embedded]\naddress = "127.0.0.1:{registry}"\ndata = {data}\n'
    with proxy(callboard, table, range(samples), folder) as port:
        return {kind: [sample(port, registry, f"{kind}-{number}", backend)
                       for number in range(samples)] for kind in KINDS}


def consul(callboard, backend, samples, folder):
    """Per kind of route: seconds by which the first 200 came after a bare blocking query, which
    ran beside it, had seen the same change; and the seconds since the registration was sent."""
    program = consul_program()
    folder.mkdir()
    with ExitStack() as stack:
        registry = stack.enter_context(agent(program, folder))
        table = f'[registry.consul]\naddress = "http://127.0.0.1:{registry}"\n'
        results = {kind: [] for kind in KINDS}
        for first in range(0, samples, GROUP):
            numbers = range(first, min(first + GROUP, samples))
            with proxy(callboard, table, numbers, folder) as port:
                for name, kind in ((f"{kind}-{n}", kind) for n in numbers for kind in KINDS):
                    with watching(registry, name) as seen:
                        sent, _, reached = sample(port, registry, name, backend, absolute=True)
                        results[kind].append((reached - seen(), reached - sent))
        return results


def consul_program():
    """A real Consul: what the environment names, or what the tests would take."""
    named = os.environ.get("CALLBOARD_TEST_CONSUL")
    if named:
        return named
    getter = "tests/servers/get-consul"
    try:
        got = subprocess.run([getter], stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"no Consul: CALLBOARD_TEST_CONSUL is not set, and {error}") from error
    return got.stdout.strip()


@contextmanager
def agent(program, folder):
    """A Consul agent for development on ports of its own."""
    names = ("http", "dns", "server", "serf_lan", "serf_wan")
    ports = {name: free_port() for name in names}
    config = folder / "consul.json"
    # By default an agent allows one address 200 connections; the proxy alone has a long poll for
    # every service here.
    limits = {"http_max_conns_per_client": 2000}
    disabled = {"grpc": -1, "grpc_tls": -1}
    config.write_text(json.dumps({"ports": {**ports, **disabled}, "limits": limits}))
    command = [program, "agent", "-dev", "-bind", "127.0.0.1", "-log-level", "warn"]
    with Process("consul", [*command, "-config-file", config], folder) as process:
        port = ports["http"]
        has_leader = lambda: answers(port, "/v1/status/leader") and call(
            port, "GET", "/v1/status/leader")[2]
        wait_until(has_leader, "Consul has a leader", process=process)
        yield port


@contextmanager
def proxy(callboard, registry, numbers, folder):
    """Callboard with a declared service for each sample, and a template for the others."""
    port, admin = free_port(), free_port()
    declared = "".join(
        f'[[route]]\npath = "/declared-{number}"\nservice = "declared-{number}"\n'
        for number in numbers
    )
    config = folder / "proxy.toml"
    config.write_text(f"""
[[listen]]
address = "127.0.0.1:{port}"

[admin]
address = "127.0.0.1:{admin}"

{registry}
{declared}
[[route]]
path = "/{{service}}"
service = "{{service}}"
strip_prefix = true
""")
    with Process("callboard", [callboard, "run", "--config", config], folder) as process:
        ready = lambda: answers(admin, "/ready")
        wait_until(ready, "callboard is ready", seconds=60, process=process)
        yield port


def sample(port, registry, name, backend, absolute=False):
    """Registers a new service's first instance and asks for it until it answers.

    Gives the seconds from the registration's sending and from its answer to the first 200, or
    the three moments themselves.
    """
    client = Client(port, "bench.test", f"/{name}")
    status = client.ask()
    if status not in (404, 503):
        raise Unavailable(f"/{name} answered {status} before it was registered")
    entry = {"Name": name, "ID": name, "Address": "127.0.0.1", "Port": backend}
    registering = http.client.HTTPConnection("127.0.0.1", registry)
    registering.connect()
    time.sleep(PAUSE)
    gc.disable()
    sent, registered = time.monotonic(), None
    registering.request("PUT", "/v1/agent/service/register", json.dumps(entry))
    while client.ask() != 200:
        if registered is None and select.select([registering.sock], [], [], 0)[0]:
            registered = time.monotonic()
        if time.monotonic() > sent + 30:
            raise Unavailable(f"/{name} was not reached within 30 s")
        time.sleep(0.0001)
    reached = time.monotonic()
    gc.enable()
    status = registering.getresponse().status
    if status != 200:
        raise Unavailable(f"the registry answered {status} to a registration")
    registering.close()
    client.socket.close()
    registered = registered or reached
    return (sent, registered, reached) if absolute else (reached - sent, reached - registered)


@contextmanager
def watching(registry, name):
    """Runs a bare blocking query for a service in a process of its own; gives a function that
    waits for the moment at which its first instance was seen."""
    ours, theirs = multiprocessing.Pipe()
    watcher = multiprocessing.Process(target=watch, args=(registry, name, theirs), daemon=True)
    watcher.start()
    ours.recv()
    try:
        yield ours.recv
    finally:
        watcher.join(10)
        watcher.kill()


def watch(registry, name, report):
    gc.disable()
    connection = http.client.HTTPConnection("127.0.0.1", registry)
    connection.request("GET", f"/v1/health/service/{name}")
    answer = connection.getresponse()
    index, instances = answer.headers["X-Consul-Index"], json.loads(answer.read())
    report.send("watching")
    while not instances:
        connection.request("GET", f"/v1/health/service/{name}?index={index}&wait=60s")
        # The moment is that of the answer's arrival, before it is parsed.
        select.select([connection.sock], [], [])
        seen = time.monotonic()
        answer = connection.getresponse()
        index, instances = answer.headers["X-Consul-Index"], json.loads(answer.read())
    report.send(seen)
