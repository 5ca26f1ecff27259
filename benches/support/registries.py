"""The registries that the benches start: how each is named in proxy.toml, how an instance is
registered there, and for those that push their changes what a bare watch of one service is."""

from base64 import b64encode
from contextlib import contextmanager
import http.client
import json
import os
import select
import subprocess
import threading
import time

import dns
from load import answers, call
from processes import Process, Unavailable, find, free_port, wait_until
import zookeeper

# As the tests' servers have them: little memory, and no compiler that takes a core for minutes.
JAVA = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def server(name):
    """A real server: what the environment names, or what the tests would take."""
    variable = f"CALLBOARD_TEST_{name.upper()}"
    if named := os.environ.get(variable):
        return named
    try:
        got = subprocess.run(
            [f"tests/servers/get-{name}"], stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"no {name}: {variable} is not set, and {error}") from error
    return got.stdout.strip()


class Call:
    """A registration over HTTP, on a connection that is there before it is sent."""

    def __init__(self, port, method, path, entry):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.connection.connect()
        headers = {"Content-Type": "application/json"}
        self.request = method, path, json.dumps(entry), headers

    def send(self):
        self.connection.request(*self.request)

    def is_answered(self):
        return bool(select.select([self.connection.sock], [], [], 0)[0])

    def finish(self):
        status = self.connection.getresponse().status
        self.connection.close()
        if status not in (200, 204):
            raise Unavailable(f"the registry answered {status} to a registration")


class Registry:
    def prepare(self, names):
        """Makes what has to be there before the proxy asks for services of these names."""


def consul_registration(port, name, backend):
    """At Consul, or at the embedded registry."""
    entry = {"Name": name, "ID": f"{name}-{backend}", "Address": "127.0.0.1", "Port": backend}
    return Call(port, "PUT", "/v1/agent/service/register", entry)


class Consul(Registry):
    def __init__(self, port):
        self.port = port
        self.table = f'[registry.consul]\naddress = "http://127.0.0.1:{port}"\n'

    @classmethod
    @contextmanager
    def start(cls, folder, connections=200):
        """An agent for development on ports of its own, which allows one address so many
        connections: 200 by default."""
        names = ("http", "dns", "server", "serf_lan", "serf_wan")
        ports = {name: free_port() for name in names}
        config = folder / "consul.json"
        limits = {"http_max_conns_per_client": connections}
        disabled = {"grpc": -1, "grpc_tls": -1}
        config.write_text(json.dumps({"ports": {**ports, **disabled}, "limits": limits}))
        command = [server("consul"), "agent", "-dev", "-bind", "127.0.0.1", "-log-level", "warn"]
        with Process("consul", [*command, "-config-file", config], folder) as process:
            port = ports["http"]
            has_leader = lambda: answers(port, "/v1/status/leader") and call(
                port, "GET", "/v1/status/leader")[2]
            wait_until(has_leader, "Consul has a leader", process=process)
            yield cls(port)

    def registration(self, name, backend):
        return consul_registration(self.port, name, backend)

    def watch(self, name, report):
        """A blocking query; the moment is that of the answer's arrival, before it is parsed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", f"/v1/health/service/{name}")
        answer = connection.getresponse()
        index, before = answer.headers["X-Consul-Index"], json.loads(answer.read())
        instances = before
        report("watching")
        while len(instances) == len(before):
            connection.request("GET", f"/v1/health/service/{name}?index={index}&wait=60s")
            select.select([connection.sock], [], [])
            seen = time.monotonic()
            answer = connection.getresponse()
            index, instances = answer.headers["X-Consul-Index"], json.loads(answer.read())
        report(seen)


class Etcd(Registry):
    def __init__(self, port):
        self.port = port
        self.table = f'[registry.etcd]\naddress = "http://127.0.0.1:{port}"\n'

    @classmethod
    @contextmanager
    def start(cls, folder):
        port = free_port()
        clients, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
        command = [
            server("etcd"), "--data-dir", folder / "etcd", "--unsafe-no-fsync",
            "--listen-client-urls", clients, "--advertise-client-urls", clients,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"default={peers}", "--log-level", "error",
        ]
        with Process("etcd", command, folder) as process:
            wait_until(lambda: answers(port, "/health"), "etcd is healthy", process=process)
            yield cls(port)

    def registration(self, name, backend):
        address = f"127.0.0.1:{backend}"
        entry = {"key": base64(f"/services/{name}/{address}"), "value": base64(address)}
        return Call(self.port, "POST", "/v3/kv/put", entry)

    def watch(self, name, report):
        """A watch over the JSON gateway; the moment is that of the event's first byte."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        watched = {"key": base64(f"/services/{name}/"), "range_end": base64(f"/services/{name}0")}
        connection.request("POST", "/v3/watch", json.dumps({"create_request": watched}))
        answer = connection.getresponse()
        assert b'"created":true' in answer.readline()
        report("watching")
        select.select([connection.sock], [], [])
        report(time.monotonic())


class ZooKeeper(Registry):
    def __init__(self, port):
        self.port = port
        self.table = f'[registry.zookeeper]\naddress = "127.0.0.1:{port}"\n'
        self.session = zookeeper.Session(port)

    @classmethod
    @contextmanager
    def start(cls, folder):
        port = free_port()
        config = folder / "zoo.cfg"
        config.write_text(
            f"tickTime=2000\ndataDir={folder}/zookeeper\nclientPort={port}\n"
            "clientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n")
        # The disk is not waited for: what a registry's disk takes is not what is measured.
        command = [
            find("java", "default-jre-headless"), *JAVA, "-Dzookeeper.forceSync=no",
            "-cp", f"{server('zookeeper')}/*",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", config,
        ]
        with Process("zookeeper", command, folder) as process:
            wait_until(lambda: takes_sessions(port), "ZooKeeper answers", 60, process)
            this = cls(port)
            this.session.make("/services")
            this.warm_up()
            yield this
            this.session.close()

    def warm_up(self):
        """Java takes several times as long for what it does for the first times."""
        watching = zookeeper.Session(self.port)
        self.session.make("/warm")
        for number in range(2000):
            watching.children("/warm")
            self.session.make(f"/warm/{number}", b"127.0.0.1:1")
            watching.until_fired()
            watching.data(f"/warm/{number}")
            self.session.send(zookeeper.DELETE, zookeeper.removal(f"/warm/{number}"))
            self.session.answer()
        watching.close()

    def prepare(self, names):
        """The services' own nodes are there, as they are in an ensemble that has known them."""
        for name in names:
            self.session.make(f"/services/{name}")

    def registration(self, name, backend):
        return Creation(self.session, f"/services/{name}/one", f"127.0.0.1:{backend}".encode())

    def watch(self, name, report):
        """Lists the children when the watch fires, and reads the new one; the moment is that at
        which its data is here, as nothing can be called before."""
        session = zookeeper.Session(self.port)
        path = f"/services/{name}"
        assert not session.children(path)
        report("watching")
        session.until_fired()
        (child,) = session.children(path)
        session.data(f"{path}/{child}")
        report(time.monotonic())
        session.close()


class Creation:
    """A registration at ZooKeeper."""

    def __init__(self, session, path, data):
        self.session, self.body = session, zookeeper.creation(path, data)

    def send(self):
        self.session.send(zookeeper.CREATE, self.body)

    def is_answered(self):
        return bool(select.select([self.session.socket], [], [], 0)[0])

    def finish(self):
        error, _ = self.session.answer()
        if error:
            raise Unavailable(f"ZooKeeper answered error {error} to a registration")


def takes_sessions(port):
    try:
        zookeeper.Session(port).close()
        return True
    except OSError:
        return False


class Eureka(Registry):
    POLL = 0.5

    def __init__(self, port):
        self.port = port
        address = f'"http://127.0.0.1:{port}/eureka"'
        self.table = f'[registry.eureka]\naddress = {address}\npoll = "500ms"\n'

    @classmethod
    @contextmanager
    def start(cls, folder):
        port = free_port()
        # Answers from its second cache would be late by up to that one's own interval.
        command = [
            find("java", "default-jre-headless"), *JAVA, "-jar", server("eureka"),
            f"--server.port={port}", "--server.address=127.0.0.1",
            "--eureka.client.register-with-eureka=false", "--eureka.client.fetch-registry=false",
            "--eureka.server.use-read-only-response-cache=false",
            "--eureka.server.wait-time-in-ms-when-sync-empty=0",
        ]
        with Process("eureka", command, folder) as process:
            there = lambda: answers(port, "/eureka/apps")
            wait_until(there, "Eureka answers", 300, process)
            this = cls(port)
            for number in range(200):
                warm_up = this.registration("warm", number + 1)
                warm_up.send()
                warm_up.finish()
                call(port, "GET", "/eureka/apps/delta")
            yield this

    def registration(self, name, backend):
        instance = {
            "instanceId": f"{name}-{backend}", "app": name, "hostName": "localhost",
            "ipAddr": "127.0.0.1", "vipAddress": name, "status": "UP",
            "port": {"$": backend, "@enabled": "true"},
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
        }
        return Call(self.port, "POST", f"/eureka/apps/{name}", {"instance": instance})


class Dns(Registry):
    TTL = dns.TTL

    def __init__(self, port, told):
        self.told, self.lock = told, threading.Lock()
        query = f'query = "{{service}}.{dns.ZONE}"'
        self.table = f'[registry.dns]\naddress = "127.0.0.1:{port}"\n{query}\n'

    @classmethod
    @contextmanager
    def start(cls, _folder):
        with dns.resolver() as (port, told):
            yield cls(port, told)

    def registration(self, name, backend):
        return Telling(self, (name, backend))


class Telling:
    """A new record of the resolver; there when `send` returns."""

    def __init__(self, registry, record):
        self.registry, self.record = registry, record

    def send(self):
        with self.registry.lock:
            self.registry.told.send(self.record)
            self.registry.told.recv()

    def is_answered(self):
        return True

    def finish(self):
        pass


class File(Registry):
    # What docs/file.md says of how soon a change is seen.
    POLL = 0.25

    def __init__(self, path):
        self.path, self.services = path, {}
        self.table = f'[registry.file]\npath = "{path}"\n'

    @classmethod
    @contextmanager
    def start(cls, folder):
        yield cls(folder / "services.json")

    def prepare(self, names):
        self.services = {name: {"endpoints": []} for name in names}
        Renaming(self).send()

    def registration(self, name, backend):
        self.services[name] = {"endpoints": [f"127.0.0.1:{backend}"]}
        return Renaming(self)


class Renaming:
    """A new file in the place of the old one."""

    def __init__(self, registry):
        self.path, self.new = registry.path, registry.path.with_suffix(".new")
        self.new.write_text(json.dumps(registry.services))

    def send(self):
        os.rename(self.new, self.path)

    def is_answered(self):
        return True

    def finish(self):
        pass


def base64(text):
    return b64encode(text.encode()).decode()
