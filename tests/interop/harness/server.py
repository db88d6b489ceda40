"""A homeserver in a process of its own, in a temporary folder, on ports that were free.

`await start()` returns when the server answers; `kill()` is a `kill -9`; after it, `start()` brings
the same server back on the same ports with the same data. [`Ingle`] runs the program under test;
its neighbour in `synapse.py` has the same verbs.
"""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request

import trustme

from .wait import TooLate, until

LOCAL = urllib.request.ProxyHandler({})


def free_port():
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """What every homeserver of the tests can do; the kinds say how they are configured and called."""

    kind = "server"
    host = "localhost"
    COMPLAINT = re.compile(r"\b(WARN|WARNING|ERROR|CRITICAL)\b")
    NO_NEWS = re.compile(r"(?!)")

    def __init__(self, folder, authority=None, federated=False, config=""):
        """`authority` is a `trustme.CA` that several servers share; `config` goes into the file as it is."""
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.federated = federated
        self.config = config
        self.process = None
        self.port, self.tls_port = free_port(), free_port()
        # Others find a federated server by its name alone, without DNS.
        self.name = f"{self.host}:{self.tls_port}" if federated else "ingle.test"
        self.authority = authority or trustme.CA()
        self.authority_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.authority_file)
        self.renew_certificate()
        self.configure()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self):
        return f"https://localhost:{self.tls_port}"

    @property
    def log_file(self):
        return self.folder / f"{self.kind}.log"

    def renew_certificate(self):
        """Puts a new certificate for localhost where the server's configuration expects it."""
        certificate = self.authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(self.folder / "key.pem")
        (self.folder / "fullchain.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))

    def trust(self):
        """The TLS settings of a client that trusts this server's certificate and no other."""
        return ssl.create_default_context(cafile=str(self.authority_file))

    def configure(self):
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    async def start(self):
        """Starts the process and waits until it answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await until(f"{self.kind} answers at {self.url}", self._answers)
        return self

    async def _answers(self):
        if self.process.poll() is not None:
            raise TooLate(f"{self.kind} ended with status {self.process.returncode}:\n{self.log_tail()}")
        try:
            status, _ = await self.get("/_matrix/client/versions")
        except OSError:
            return False
        return status == 200

    async def get(self, path, token=None):
        """Asks the plain listener; returns status and decoded body."""
        return await self.request("GET", path, token=token)

    async def request(self, method, path, body=None, token=None):
        return await asyncio.to_thread(self._request, method, path, body, token)

    def _request(self, method, path, body, token):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.build_opener(LOCAL).open(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.loads(refusal.read())

    def kill(self):
        """Ends the server as a power cut would: no signal handler runs."""
        self.process.kill()
        self.process.wait()

    def pause(self):
        """Lets nothing of the server run, as if its machine hung: connections stay open and stay silent."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def complaints(self):
        """The lines of its log at the level of warnings and above, but for those that are no news."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return [line for line in lines if self.COMPLAINT.search(line) and not self.NO_NEWS.search(line)]

    def stop(self):
        """Asks the server to end, as systemd would, and gives its exit status."""
        if self.process and self.process.poll() is None:
            self.resume()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise TooLate(f"{self.kind} did not stop within 20 s of SIGTERM:\n{self.log_tail()}") from None
        return self.process.returncode if self.process else None

    def log_tail(self, lines=30):
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def says(self, pattern):
        """Waits for a line of the server's output that matches, and gives the matching text."""

        async def look():
            found = pattern.search(self.log_file.read_text(errors="replace"))
            return found and found.group()

        return await until(f"{self.kind} says {pattern.pattern}", look)


class Ingle(Server):
    """The program under test, with open registration and without rate limits unless told otherwise."""

    kind = "ingle"

    def configure(self):
        federated = str(self.federated).lower()
        text = f"""
            server_name = "{self.name}"
            data_dir = "{self.folder / 'data'}"
            public_url = "{self.tls_url}"

            [[listen]]
            address = "127.0.0.1:{self.port}"

            [[listen]]
            address = "127.0.0.1:{self.tls_port}"
            tls = true

            [tls]
            certificate = "{self.folder / 'fullchain.pem'}"
            key = "{self.folder / 'key.pem'}"
            extra_roots = ["{self.authority_file}"]

            [registration]
            open = true
            password_cost = "minimal"

            [federation]
            enabled = {federated}
            allow_private_addresses = {federated}

            [directory]
            allow_over_federation = true

            [limits]
            enabled = false
        """
        lines = [line.strip() for line in text.strip().splitlines()]
        (self.folder / "ingle.toml").write_text("\n".join(lines) + "\n" + self.config)

    def command(self):
        return [os.environ["INGLE_BIN"], "serve", "--config", str(self.folder / "ingle.toml")]

    def environment(self):
        return {"HOME": str(self.folder), "RUST_BACKTRACE": "1"}


class FreshIngle(Ingle):
    """The program as somebody starts it who has configured nothing, in an empty home."""

    def configure(self):
        self.name = "localhost"
        self.home = self.folder / "home"
        self.home.mkdir(exist_ok=True)
        # Without a configuration it listens on this port; where that is taken, one line moves it.
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", 8008)) == 0
        self.config_file = None
        if taken:
            self.config_file = self.folder / "ingle.toml"
            self.config_file.write_text(f'[[listen]]\naddress = "127.0.0.1:{self.port}"\n')
        else:
            self.port = 8008

    def command(self):
        return [os.environ["INGLE_BIN"], "serve", *(["--config", str(self.config_file)] if self.config_file else [])]

    def environment(self):
        unset = {name: "" for name in os.environ if name.startswith("XDG_")}
        return {**unset, "HOME": str(self.home), "RUST_BACKTRACE": "1"}
