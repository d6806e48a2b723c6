"""A proxy between devices and the server that does to exchanges what networks do, and other things on the way."""

import contextlib
import socket
import ssl
import subprocess
import threading

from servers import Listener

WAIT_SECONDS_MAX = 30


class Closed(OSError):
    """The other side went away."""


def read_message(stream):
    """Reads one request or answer, head and body; empty at the end of the stream."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = stream.recv(65536)
        if not part:
            if data:
                raise Closed
            return b""
        data += part
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.split(b"\r\n")
    if any(line.lower() == b"expect: 100-continue" for line in lines):
        stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        lines = [line for line in lines if line.lower() != b"expect: 100-continue"]
    length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        part = stream.recv(65536)
        if not part:
            raise Closed
        body += part
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def body_of(message):
    return message.split(b"\r\n\r\n", 1)[1]


def answer(status, headers=(), body=b""):
    """An answer that no cloudsync server gave."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class FaultyProxy(Listener):
    """Passes whole requests and answers on, through a fault as long as there is one.

    A fault is called with the exchange and the request, and sends to the device what it likes to.
    """

    def __init__(self, server):
        self.server = server
        self.fault = None
        self.requests = []
        self.answers = []
        self.streams = []
        self.arrived = threading.Event()
        # Set when the proxy closes, so that faults that wait end.
        self.closing = threading.Event()
        super().__init__()

    def heal(self):
        self.fault = None

    def close(self):
        self.closing.set()
        super().close()

    def serve(self, client):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := read_message(client):
            fault, is_turn = self.fault, request.startswith(b"POST ")
            if is_turn:
                self.requests.append(request)
                self.arrived.set()
            if fault is None and is_turn:
                client.sendall(self.forward(request))
            elif fault is None:
                return self.stream(client, request)
            elif fault(Exchange(self, client), request) is False:
                return

    def forward(self, request):
        """Takes a request to the server; gives the whole answer."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_SECONDS_MAX) as upstream:
            upstream.sendall(request)
            reply = read_message(upstream)
        if not reply:
            raise Closed
        self.answers.append(reply)
        return reply

    def stream(self, client, request):
        """Passes an answer on that does not end."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_SECONDS_MAX) as upstream:
            upstream.sendall(request)
            self.streams += [upstream, client]
            while data := upstream.recv(65536):
                client.sendall(data)

    def cut_streams(self):
        streams, self.streams = self.streams, []
        for end in streams:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def deliver_part(self, request, length):
        """Brings the server only the beginning of a request."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_SECONDS_MAX) as upstream:
            upstream.sendall(request[:length])


class Exchange:
    """One request on its way, as a fault sees it."""

    def __init__(self, proxy, client):
        self.proxy = proxy
        self.client = client
        self.forward = proxy.forward

    def send(self, data):
        self.client.sendall(data)

    def hang(self):
        """Says nothing until the device goes away."""
        self.client.settimeout(WAIT_SECONDS_MAX)
        while self.client.recv(65536):
            pass
        return False

    def pause(self, seconds):
        self.proxy.closing.wait(seconds)


class Swallowing:
    """A fault: the device goes away in some phase, and the server never hears of it."""

    def __init__(self, phase):
        self.phase = phase
        self.upstream = None

    def __call__(self, exchange, request):
        self.upstream = socket.create_connection(("127.0.0.1", exchange.proxy.server.port), timeout=WAIT_SECONDS_MAX)
        head = request.index(b"\r\n\r\n") + 4
        parts = {"connected": 0, "in the head": head // 2, "in the body": head + 10}
        self.upstream.sendall(request[: parts.get(self.phase, len(request))])
        if self.phase == "afterwards":
            read_message(self.upstream)
        return False


class TlsEndpoint(Listener):
    """Speaks TLS for a server that does not, under a certificate of its own authority."""

    def __init__(self, server, authority, names):
        self.server = server
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*authority.issue(names))
        super().__init__()

    def serve(self, client):
        with self.context.wrap_socket(client, server_side=True) as stream:
            while request := read_message(stream):
                stream.sendall(FaultyProxy.forward(self, request))

    answers = property(lambda self: [])


class Authority:
    """A private certificate authority in a folder, made with the program `openssl`."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.certificate = folder / "ca.pem"
        self.key = folder / "ca.key"
        self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        self.issued = 0

    def _run(self, *arguments):
        output = ["-keyout", self.key, "-out", self.certificate, "-subj", "/CN=private authority"]
        subprocess.run(["openssl", *arguments, *output], check=True, capture_output=True, timeout=60)

    def issue(self, names):
        """A certificate for names such as `DNS:host`, and its key, as paths."""
        self.issued += 1
        stem = self.folder / f"server{self.issued}"
        key, request, certificate = (stem.with_suffix(suffix) for suffix in (".key", ".csr", ".pem"))
        extension = stem.with_suffix(".ext")
        extension.write_text(f"subjectAltName={','.join(names)}\nbasicConstraints=CA:FALSE\n")
        for arguments in (
            ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request]
            + ["-subj", "/CN=server"],
            ["x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial"]
            + ["-days", "2", "-extfile", extension, "-out", certificate],
        ):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
        return certificate, key


class TunnelProxy(Listener):
    """An HTTP proxy that makes tunnels, to one place whatever is asked for."""

    def __init__(self, port, credentials=None):
        self.target = port
        self.credentials = credentials
        self.heads = []
        super().__init__()

    def serve(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            part = client.recv(65536)
            if not part:
                return
            head += part
        self.heads.append(head.decode())
        if self.credentials and f"Proxy-Authorization: Basic {self.credentials}" not in self.heads[-1]:
            client.sendall(answer("407 Proxy Authentication Required"))
            return
        with socket.create_connection(("127.0.0.1", self.target), timeout=WAIT_SECONDS_MAX) as upstream:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._pump, args=(upstream, client), daemon=True)
            back.start()
            self._pump(client, upstream)
            back.join()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
