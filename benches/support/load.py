"""Load: wrk where speed counts, and connections of our own where each request must be counted."""

import http.client
import json
import os
import re
import selectors
import socket
import subprocess

from processes import Unavailable

CONNECTIONS = 64


def wrk(program, url, host, seconds, cpu, fields=(), env=None):
    """Runs wrk on one core; how many requests were answered, every one of them with 200."""
    command = ["taskset", "-c", cpu, program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    for field in (f"Host: {host}", *fields):
        command += ["-H", field]
    command = [str(word) for word in (*command, url)]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **(env or {})}).stdout
    trouble = re.search(r"Socket errors.*|Non-2xx.*", said)
    if trouble:
        raise Unavailable(f"wrk on {url}: {trouble[0].strip()}")
    return int(re.search(r"(\d+) requests in", said)[1])


def h2load(program, url, host, seconds, cpu, env=None):
    """Runs h2load on one core: 8 connections of 32 streams each; how many requests were answered."""
    command = ["taskset", "-c", cpu, program, "-t1", "-c8", "-m32", f"-D{seconds}",
               "-H", f":authority: {host}", url]
    command = [str(word) for word in command]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **(env or {})}).stdout
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    answered = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", said)
    if not counts or counts[2] != "0" or counts[3] != "0" or not answered or answered[1] == "0":
        raise Unavailable(f"h2load on {url}: {said.strip()}")
    return int(counts[1])


def messages(bare, port, host, seconds, cpu):
    """Has messages go to and fro on 64 connections of WebSocket; how many came back."""
    command = ["taskset", "-c", cpu, bare, "messages", f"127.0.0.1:{port}", host, seconds]
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if ended.returncode:
        raise Unavailable(f"messages by port {port}: {ended.stderr.strip()}")
    return int(ended.stdout.split()[0])


class Client:
    """One keep-alive connection that sends the same GET again and again."""

    def __init__(self, port, host, path):
        self.port = port
        self.request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.received = b""
        self.connect()

    def connect(self):
        self.socket = socket.create_connection(("127.0.0.1", self.port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self):
        self.socket.sendall(self.request)

    def receive(self):
        """Reads once; the status when the answer is whole, else None."""
        received = self.socket.recv(65536)
        if not received:
            raise ConnectionError(f"port {self.port} closed the connection within an answer")
        self.received += received
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return None
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None:
            raise ConnectionError(f"port {self.port} answered without a length: {head!r}")
        if len(body) < int(length[1]):
            return None
        self.received = b""
        if re.search(rb"(?i)\r\nconnection: *close", head):
            self.socket.close()
            self.connect()
        return int(head[9:12])

    def ask(self):
        self.send()
        while (status := self.receive()) is None:
            pass
        return status


class Clients:
    """As many connections as wrk has, and exactly as many requests as asked for."""

    def __init__(self, port, host, path):
        self.all = [Client(port, host, path) for _ in range(CONNECTIONS)]

    def ask(self, requests):
        """Keeps every connection busy until so many requests have been answered with 200."""
        with selectors.DefaultSelector() as selector:
            for client in self.all:
                selector.register(client.socket, selectors.EVENT_READ, client)
                client.send()
            sent, answered = len(self.all), 0
            while answered < requests:
                for key, _ in selector.select(30):
                    status = key.data.receive()
                    if status is None:
                        continue
                    if status != 200:
                        raise Unavailable(f"port {key.data.port} answered {status}")
                    answered += 1
                    if sent < requests:
                        key.data.send()
                        sent += 1

    def close(self):
        for client in self.all:
            client.socket.close()


def call(port, method, path, body=None):
    """One call of an HTTP API: the answer's status, headers and JSON (or None)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    is_json = answer.headers.get("Content-Type", "").startswith("application/json")
    return answer.status, answer.headers, json.loads(text) if is_json and text else None


def answers(port, path, host=None):
    """Whether a GET is answered with 200 now."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
        status = connection.getresponse().status
        connection.close()
        return status == 200
    except (OSError, http.client.HTTPException):
        return False
