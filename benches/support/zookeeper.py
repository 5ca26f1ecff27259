"""As much of ZooKeeper's protocol as registering and a bare watch need. (Its Jute records: integers
with the high byte first; texts, bytes and lists after their length.)"""

import socket
import struct

CREATE, DELETE, READ, LIST = 1, 2, 4, 8
# What a message is about that answers no request: a watch that fires.
FIRED = -1
NO_ERROR, NODE_EXISTS = 0, -110
TIMEOUT_MS = 30_000


class Session:
    """One connection; one request at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests, self.fired = 0, False
        # Version, last transaction seen, time-out, no session before this one, and its password.
        self._write(struct.pack(">iqiq", 0, 0, TIMEOUT_MS, 0) + text(bytes(16)) + b"\0")
        self._read()

    def send(self, kind, body):
        self.requests += 1
        self._write(struct.pack(">ii", self.requests, kind) + body)

    def answer(self):
        """What the request that was sent is answered with: the error's number, and the body."""
        while True:
            message = self._read()
            request, _, error = struct.unpack_from(">iqi", message)
            if request == self.requests:
                return error, message[16:]
            self.fired |= request == FIRED

    def make(self, path, data=b""):
        """Makes a node, unless it is there."""
        self.send(CREATE, creation(path, data))
        error, _ = self.answer()
        if error not in (NO_ERROR, NODE_EXISTS):
            raise ConnectionError(f"ZooKeeper does not make {path}: error {error}")

    def children(self, path):
        """The names of a node's children, which is watched from now on."""
        self.fired = False
        self.send(LIST, text(path) + b"\1")
        error, body = self.answer()
        if error != NO_ERROR:
            raise ConnectionError(f"ZooKeeper does not list {path}: error {error}")
        (count,), at, names = struct.unpack_from(">i", body), 4, []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", body, at)
            names.append(body[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return names

    def data(self, path):
        self.send(READ, text(path) + b"\0")
        error, body = self.answer()
        if error != NO_ERROR:
            raise ConnectionError(f"ZooKeeper does not read {path}: error {error}")
        (length,) = struct.unpack_from(">i", body)
        return body[4 : 4 + length]

    def until_fired(self):
        while not self.fired:
            (request,) = struct.unpack_from(">i", self._read())
            self.fired = request == FIRED

    def close(self):
        self.socket.close()

    def _write(self, message):
        self.socket.sendall(text(message))

    def _read(self):
        (length,) = struct.unpack(">i", self._bytes(4))
        return self._bytes(length)

    def _bytes(self, wanted):
        received = b""
        while len(received) < wanted:
            some = self.socket.recv(wanted - len(received))
            if not some:
                raise ConnectionError("ZooKeeper closed the connection")
            received += some
        return received


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">i", len(value)) + value


def creation(path, data):
    """The body of a request for a lasting node with which everybody may do everything."""
    anyone = struct.pack(">ii", 1, 31) + text("world") + text("anyone")
    return text(path) + text(data) + anyone + struct.pack(">i", 0)


def removal(path):
    """The body of a request that takes a node away, whatever its version."""
    return text(path) + struct.pack(">i", -1)
