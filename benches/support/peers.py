"""The proxies that are compared, each set up for one core and the same three backends."""

from contextlib import contextmanager
from dataclasses import dataclass
import json
from pathlib import Path
import subprocess
import tempfile

from load import answers, call
from processes import Process, Unavailable, find, free_port, wait_until

HOST = "shop-12.bench.test"
PATH = "/api/items?page=2"


@dataclass
class Peer:
    """A proxy that runs and answers on a port, and by TLS on another, where it speaks that."""

    name: str
    process: Process
    port: int
    secure: int


class Bench:
    """What every peer is started with: a folder, built programs, backends and a core."""

    def __init__(self, folder, callboard, bare, backends, cpu):
        self.folder, self.callboard, self.bare = folder, callboard, bare
        self.backends, self.cpu = backends, cpu
        self.identity = identity(folder)

    @contextmanager
    def start(self, name, env=None):
        """Runs a peer, gives it when it answers, and ends it."""
        port, secure = free_port(), free_port()
        folder = Path(tempfile.mkdtemp(prefix=name, dir=self.folder))
        setup = getattr(self, f"_{name}")
        with setup(folder, port, secure, env) as process:
            for_us = lambda: answers(port, PATH, HOST)
            wait_until(for_us, f"{name} answers", process=process)
            yield Peer(name, process, port, secure)

    @contextmanager
    def _callboard(self, folder, port, secure, env):
        registry = free_port()
        config = folder / "proxy.toml"
        config.write_text(
            callboard_config(port, secure, self.identity, free_port(), registry, folder))
        command = [self.callboard, "run", "--config", config]
        with self._process("callboard", command, folder, env) as process:
            listens = lambda: answers(registry, "/v1/agent/self")
            wait_until(listens, "the registry answers", process=process)
            for number, backend in enumerate(self.backends):
                register(registry, "shop-12-api", f"shop-12-api-{number}", backend)
            yield process

    def _nginx(self, folder, port, secure, env):
        config = folder / "nginx.conf"
        config.write_text(nginx_config(port, secure, self.identity, self.backends, folder))
        command = [find("nginx", "nginx-light"), "-p", folder, "-c", config]
        return self._process("nginx", [*command, "-e", folder / "error.log"], folder, env)

    def _haproxy(self, folder, port, secure, env):
        config = folder / "haproxy.cfg"
        config.write_text(haproxy_config(port, secure, self.identity, self.backends))
        command = [find("haproxy", "haproxy"), "-db", "-f", config]
        return self._process("haproxy", command, folder, env)

    def _relay(self, folder, port, secure, env):
        addresses = [f"127.0.0.1:{each}" for each in (port, *self.backends)]
        return self._process("relay", [self.bare, "relay", *addresses], folder, env)

    def _process(self, name, command, folder, env):
        return Process(name, command, folder, self.cpu, env)


def identity(folder):
    """A certificate with a key of P-256, and both in one file, as HAProxy has them."""
    certificate, key, both = (folder / f"{name}.pem" for name in ("site", "site-key", "both"))
    command = [find("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=bench.test", "-addext",
               "subjectAltName=DNS:*.bench.test", "-days", "2", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    return certificate, key, both


def register(registry, service, instance, port):
    """Registers an instance on loopback at Consul or at the embedded registry."""
    entry = {"Name": service, "ID": instance, "Address": "127.0.0.1", "Port": port}
    status, _, _ = call(registry, "PUT", "/v1/agent/service/register", entry)
    if status != 200:
        raise Unavailable(f"the registry answered {status} to a registration")


def callboard_config(port, secure, identity, admin, registry, folder):
    """One worker, and what a person has on: 51 routes by host and prefix, retries, time-outs."""
    routes = "".join(
        f"""
[[route]]
host = "shop-{number}.bench.test"
path = "/{part}"
service = "shop-{number}-{part}"
"""
        for number in range(25)
        for part in ("api", "static")
    )
    routes += f"""
[[route]]
host = "{HOST}"
path = "/chat"
service = "shop-12-api"
"""
    return f"""
workers = 1

[[listen]]
address = "127.0.0.1:{port}"

[[listen]]
address = "127.0.0.1:{secure}"
tls = {{ certificates = [{{ cert = "{identity[0]}", key = "{identity[1]}" }}] }}
limits = {{ requests_per_connection = 1000000000 }}

[admin]
address = "127.0.0.1:{admin}"

[registry.embedded]
address = "127.0.0.1:{registry}"
data = {json.dumps(str(folder / "data"))}

[defaults]
balance = "round_robin"
timeout = {{ connect = "1s", response = "30s", idle = "60s" }}
retry = {{ attempts = 3 }}
{routes}"""


def nginx_config(port, secure, identity, backends, folder):
    servers = "".join(f"server 127.0.0.1:{backend};\n" for backend in backends)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    {temporary}
    keepalive_timeout 75s;
    keepalive_requests 100000000;
    upstream backends {{
        {servers}
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{secure} ssl http2;
        ssl_certificate {identity[0]};
        ssl_certificate_key {identity[1]};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ecdh_curve prime256v1;
        location / {{
            proxy_pass http://backends;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $remote_addr;
        }}
        location /chat {{
            proxy_pass http://backends;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


def haproxy_config(port, secure, identity, backends):
    servers = "".join(
        f"    server s{number} 127.0.0.1:{backend}\n" for number, backend in enumerate(backends)
    )
    return f"""
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 30s
    timeout tunnel 1h
    retries 3
    option forwardfor
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    bind 127.0.0.1:{secure} ssl crt {identity[2]} curves P-256 alpn h2,http/1.1
    default_backend backends
backend backends
    balance roundrobin
{servers}"""
