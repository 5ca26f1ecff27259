"""Ten thousand services that are never called: what each endpoint holds of memory, what the proxy
costs while nothing changes, and what one change costs."""

from contextlib import contextmanager
import http.client
import json
import time

from processes import Process, free_port, wait_until

SERVICES = 10_000
ENDPOINTS = 10
# The proxy's own, of which what few services hold is taken off.
FEW = 10
# Twice as long as what has not changed may stand on disk unconfirmed.
QUIET = 120
CHANGES = 2_000


def many(callboard, folder):
    """Bytes held for each endpoint, the share of a core in use while nothing changes, the seconds
    of CPU time that a changed line of the file costs, and those of a registration with the
    embedded registry that gives an instance another address; those with SERVICES services."""
    with of_file(callboard, folder / "few", FEW) as (process, _):
        few = resident(process)
    with of_file(callboard, folder / "many", SERVICES) as (process, file):
        held = (resident(process) - few) / (SERVICES * ENDPOINTS)
        # Until then it is not quiet: what was read is written to disk.
        snapshot = file.parent / "callboard-data" / "snapshot.json"
        wait_until(snapshot.exists, "the snapshot is written", 60, process)
        quiet = share(process, QUIET)
        line = changed_line(process, file)
    return held, quiet, line, registration(callboard, folder / "embedded")


def routes(count):
    return "".join(f'[[route]]\npath = "/s{n}"\nservice = "s{n}"\n' for n in range(count))


@contextmanager
def running(callboard, folder, text):
    admin = free_port()
    (folder / "proxy.toml").write_text(
        f'workers = 2\nlog.level = "error"\nadmin.address = "127.0.0.1:{admin}"\n{text}')
    command = [callboard, "run", "--config", folder / "proxy.toml"]
    with Process("many", command, folder) as process:
        wait_until(lambda: is_ready(admin), "it is ready", 120, process)
        yield process


def is_ready(admin):
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=20)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        return answer.status == 200 and b"not read" not in answer.read()
    except OSError:
        return False
    finally:
        connection.close()


def lines(count, first):
    """The file, of which the first endpoint's weight is this."""
    for n in range(count):
        yield f"[s{n}]\nendpoints = ["
        for m in range(ENDPOINTS):
            weight = first if n == m == 0 else 1
            yield f'  {{ address = "10.{n // 250}.{n % 250}.{m + 1}:80", weight = {weight} }},'
        yield "]"


def write(file, count, first):
    new = file.with_suffix(".new")
    new.write_text("\n".join(lines(count, first)) + "\n")
    new.rename(file)


@contextmanager
def of_file(callboard, folder, count):
    folder.mkdir()
    file = folder / "services.toml"
    write(file, count, 1)
    text = (f'[[listen]]\naddress = "127.0.0.1:{free_port()}"\n'
            f'[registry.file]\npath = "services.toml"\n{routes(count)}')
    with running(callboard, folder, text) as process:
        yield process, file


def resident(process):
    time.sleep(1)
    with open(f"/proc/{process.child.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def share(process, seconds):
    began, used = time.monotonic(), process.cpu_seconds()
    time.sleep(seconds)
    return (process.cpu_seconds() - used) / (time.monotonic() - began)


def changed_line(process, file):
    """The median of some; what the proxy uses in as long a time without a change is taken off."""
    idle = share(process, 3) * 3
    costs = []
    for weight in range(2, 7):
        used = process.cpu_seconds()
        write(file, SERVICES, weight)
        time.sleep(3)
        costs.append(process.cpu_seconds() - used - idle)
    return sorted(costs)[len(costs) // 2]


def registration(callboard, folder):
    folder.mkdir()
    registry = free_port()
    text = (f'[[listen]]\naddress = "127.0.0.1:{free_port()}"\n'
            f'[registry.embedded]\naddress = "127.0.0.1:{registry}"\n{routes(SERVICES)}')
    with running(callboard, folder, text) as process:
        connection = http.client.HTTPConnection("127.0.0.1", registry, timeout=20)

        def register(n, host):
            entry = {"Name": f"s{n}", "ID": f"s{n}", "Address": host, "Port": 80}
            connection.request("PUT", "/v1/agent/service/register", json.dumps(entry))
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status

        for n in range(SERVICES):
            register(n, "10.0.0.1")
        used = process.cpu_seconds()
        for n in range(CHANGES):
            register(n, f"10.1.{n // 250}.{n % 250}")
        cost = (process.cpu_seconds() - used) / CHANGES
        connection.close()
        return cost
