"""What a request costs a proxy: CPU time, system calls, heap allocations."""

from pathlib import Path
import re
import signal
import struct
import subprocess
import time

from load import Clients, h2load, messages, wrk
from peers import HOST, PATH
from processes import Unavailable, find, wait_until

WARM_UP, COUNTED = 5_000, 20_000
WAITS = {"epoll_wait", "epoll_pwait", "epoll_pwait2"}


# Of wrk, by OpenSSL: each connection is of the newest protocol, and of the curve of the certificates.
TLS = """openssl_conf = default
[default]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
MinProtocol = TLSv1.3
MaxProtocol = TLSv1.3
Groups = P-256
"""


def cpu(peers, rounds, seconds, core):
    """Per peer and round: CPU µs a request, and the part of the core's time that was in use."""
    url = lambda peer: f"http://127.0.0.1:{peer.port}{PATH}"
    return by_wrk(peers, rounds, seconds, core, url)


def tls(peers, rounds, seconds, core, folder, fields=()):
    """The same by TLS 1.3; with `Connection: close` among the fields each is a handshake, too."""
    url = lambda peer: f"https://127.0.0.1:{peer.secure}{PATH}"
    return by_wrk(peers, rounds, seconds, core, url, fields, only_tls13(folder))


def only_tls13(folder):
    config = folder / "openssl.cnf"
    config.write_text(TLS)
    return {"OPENSSL_CONF": str(config)}


def http2(peers, rounds, seconds, core, folder):
    """Per peer and round the same of HTTP/2 by TLS 1.3."""
    program, env = find("h2load", "nghttp2-client"), only_tls13(folder)
    url = lambda peer: f"https://127.0.0.1:{peer.secure}{PATH}"
    ask = lambda peer, seconds: h2load(program, url(peer), HOST, seconds, core, env)
    return in_turns(peers, rounds, seconds, ask)


def websocket(peers, rounds, seconds, core, bare):
    """Per peer and round: CPU µs a message of 128 bytes and its answer, through 64 tunnels."""
    ask = lambda peer, seconds: messages(bare, peer.port, HOST, seconds, core)
    return in_turns(peers, rounds, seconds, ask)


def by_wrk(peers, rounds, seconds, core, url, fields=(), env=None):
    program = find("wrk", "wrk")
    ask = lambda peer, seconds: wrk(program, url(peer), HOST, seconds, core, fields, env)
    return in_turns(peers, rounds, seconds, ask)


def in_turns(peers, rounds, seconds, ask):
    """The peers take turns within a round, and every other round goes the other way about, so that
    a machine that slows down or speeds up does so for all of them.
    """
    find("taskset", "util-linux")
    for peer in peers:
        ask(peer, 1)
    samples = {peer.name: [] for peer in peers}
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else reversed(peers):
            begun, used = time.monotonic(), peer.process.cpu_seconds()
            requests = ask(peer, seconds)
            used = peer.process.cpu_seconds() - used
            busy = used / (time.monotonic() - begun)
            samples[peer.name].append((used / requests * 1e6, busy))
    return samples


def calls(peer, folder):
    """System calls a request by name, epoll waits left out, on connections that are warm. Those that the peer makes
    in the same time without a request are no request's: a traced one is so slow that they would count for one."""
    clients = Clients(peer.port, HOST, PATH)
    clients.ask(WARM_UP)
    began = time.monotonic()
    busy = traced_calls(peer, folder, lambda: clients.ask(COUNTED))
    took = time.monotonic() - began
    quiet = traced_calls(peer, folder, lambda: time.sleep(took))
    clients.close()
    if not WAITS & busy.keys():
        raise Unavailable(f"strace saw no epoll wait among {', '.join(busy) or 'no calls'}")
    more = {name: max(0, number - quiet.get(name, 0)) for name, number in busy.items()}
    return {name: number / COUNTED for name, number in more.items() if name not in WAITS}


def traced_calls(peer, folder, act):
    """How many system calls the peer makes by name while something is done."""
    program = find("strace", "strace")
    report, noise = folder / "strace.txt", folder / "strace.log"
    pids = peer.process.pids()
    command = [program, "-f", "-c", "-o", str(report)]
    for pid in pids:
        command += ["-p", str(pid)]
    with open(noise, "wb") as log:
        tracer = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        attached = lambda: noise.read_text().count("attached") >= len(pids)
        wait_until(lambda: attached() or tracer.poll() is not None, "strace attaches")
        if tracer.poll() is not None:
            raise Unavailable(f"strace: {noise.read_text().strip()}")
        act()
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.wait()
    # % time, seconds, usecs/call, calls, errors (where there were any), name
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", report.read_text(), re.M)
    return {name: int(number) for number, name in rows if name != "total"}


def allocations(bench, name):
    """Heap allocations and bytes a request, of a peer started anew under a counter."""
    counter, counts = bench.folder / "allocations.so", bench.folder / f"{name}.allocations"
    source = Path(__file__).parent / "allocations.c"
    build = [find("cc", "gcc"), "-O2", "-shared", "-fPIC", "-o", counter, source]
    subprocess.run(build, check=True)
    counts.write_bytes(bytes(16))
    env = {"LD_PRELOAD": str(counter), "CALLBOARD_ALLOCATIONS": str(counts)}
    look = lambda: struct.unpack("QQ", counts.read_bytes())
    with bench.start(name, env) as peer:
        if look()[0] == 0:
            raise Unavailable(f"{name} does not allocate through the C library")
        clients = Clients(peer.port, HOST, PATH)
        clients.ask(WARM_UP)
        before = look()
        clients.ask(COUNTED)
        after = look()
        clients.close()
    return [(b - a) / COUNTED for a, b in zip(before, after)]
