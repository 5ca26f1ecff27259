"""A resolver that knows what it is told: an SRV record, with its address, for each name, and that
other names do not exist. Both may be believed for one second."""

from contextlib import contextmanager
import multiprocessing
import select
import socket
import struct

TTL = 1
ZONE = "bench.test"
SRV, A, SOA, INTERNET = 33, 1, 6, 1
# An answer by who may say so; and that there is no such name.
ANSWER, NO_SUCH_NAME = 0x8400, 0x8403


@contextmanager
def resolver():
    """Runs one in a process of its own; gives its port, and a pipe: a name and a port sent there
    are a record from when `True` comes back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind(("127.0.0.1", 0))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=serve, args=(asked, theirs), daemon=True)
        process.start()
        try:
            yield asked.getsockname()[1], ours
        finally:
            process.kill()
            process.join()


def serve(asked, told):
    records = {}
    while True:
        ready, _, _ = select.select([asked, told], [], [])
        if told in ready:
            name, port = told.recv()
            records[f"{name}.{ZONE}"] = port
            told.send(True)
        if asked in ready:
            query, client = asked.recvfrom(4096)
            asked.sendto(answer(query, records), client)


def answer(query, records):
    """The answer to a query's one question."""
    at, labels = 12, []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    question = query[12 : at + 5]
    (kind,) = struct.unpack_from(">H", query, at + 1)
    port = records.get(".".join(labels))
    if port is None:
        zone = name(ZONE)
        numbers = struct.pack(">5I", 1, 3600, 600, 86400, TTL)
        authority = record(zone, SOA, name(f"ns.{ZONE}") + name(f"hostmaster.{ZONE}") + numbers)
        return head(query, NO_SUCH_NAME, 0, 1, 0) + question + authority
    target = name(f"here.{ZONE}")
    srv = record(question[:-4], SRV, struct.pack(">3H", 0, 1, port) + target)
    address = record(target, A, bytes([127, 0, 0, 1]))
    if kind == SRV:
        return head(query, ANSWER, 1, 0, 1) + question + srv + address
    return head(query, ANSWER, 0, 0, 0) + question


def head(query, flags, answers, authorities, additional):
    return query[:2] + struct.pack(">5H", flags, 1, answers, authorities, additional)


def name(text):
    labels = text.split(".")
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def record(owner, kind, data):
    return owner + struct.pack(">2HIH", kind, INTERNET, TTL, len(data)) + data
