"""The shipped server, started for a test; a proxy that cuts connections; and servers that are something else."""

import queue
import re
import signal
import socket
import subprocess
import threading

READY_SECONDS_MAX = 30
METRICS = re.compile(r"^metrics at (http://\S+)$")
CONNECT = re.compile(r"cloudsync_network_init\('([^']+)'\)")
KEY = re.compile(r"cloudsync_network_set_apikey\('([^']+)'\)")
LISTENING = re.compile(r"^listening on https?://127\.0\.0\.1:(\d+)")


class Server:
    """`cloudsync serve --dev` on a free loopback port. It can be killed and started again."""

    def __init__(self, program, data, database="my_database", options=(), log=None):
        self.program = program
        self.data = data
        self.database = database
        self.options = options
        self.log = log
        self.port = 0
        self.key = None
        self.metrics = None
        self.process = None
        self.start()

    @property
    def connection(self):
        """What devices give to `cloudsync_network_init`."""
        return f"cloudsync://127.0.0.1:{self.port}/{self.database}"

    def start(self):
        """Starts the process, on the port of before if there was one, and waits until it is ready."""
        # The process has a handle of its own.
        log = open(self.log, "ab") if self.log else None
        self.process = subprocess.Popen(
            [self.program, "serve", "--dev", self.database, "--data-dir", self.data]
            + ["--addr", f"127.0.0.1:{self.port}", *self.options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        if log:
            log.close()
        lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, lines), daemon=True).start()
        listening = False
        # A key is shown once, when it is made.
        while not (listening and self.key):
            line = lines.get(timeout=READY_SECONDS_MAX)
            assert line is not None, f"the server ended with {self.process.wait()}"
            if match := LISTENING.match(line):
                listening, self.port = True, int(match[1])
            if match := METRICS.match(line):
                self.metrics = match[1]
            if match := CONNECT.search(line):
                assert match[1].endswith(f"/{self.database}")
            if match := KEY.search(line):
                self.key = self.key or match[1]

    @staticmethod
    def _read(stdout, lines):
        with stdout:
            for line in stdout:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    def kill(self):
        """Ends the process as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """Asks the process to end, and waits; gives its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=READY_SECONDS_MAX)

    def restart(self):
        """Starts again after `kill`."""
        self.start()

    def run(self, *arguments):
        """Runs another command of the same program on the same folder; gives what it printed."""
        command = [self.program, *arguments, "--data-dir", self.data]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class Listener:
    """Accepts connections on a free loopback port and hands each to `serve`, in threads of its own."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            self.serve(client)
        except OSError:
            pass
        finally:
            client.close()

    def serve(self, client):
        raise NotImplementedError

    def connection(self, database="my_database"):
        return f"cloudsync://127.0.0.1:{self.port}/{database}"

    def close(self):
        self.socket.close()
        for client in self.open:
            client.close()


class FakeServer(Listener):
    """Reads a request and answers with the same bytes, whatever was asked."""

    def __init__(self, answer):
        self.answer = answer
        super().__init__()

    def serve(self, client):
        client.settimeout(10)
        client.recv(65536)
        client.sendall(self.answer)
        # Half an answer must be seen as such, not as a reset that overtakes it.
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


class CuttingProxy(Listener):
    """Forwards to a server and, once, after so many bytes in one direction, cuts the connection.

    `on_cut` runs first: it kills the server or the device, so that they die in the middle of a round.
    """

    def __init__(self, server, direction=None, cut_after=None, on_cut=lambda: None):
        self.server = server
        self.direction = direction
        self.cut_after = cut_after
        self.on_cut = on_cut
        self.was_cut = threading.Event()
        self.seen = {"up": b"", "down": b""}
        self.lock = threading.Lock()
        super().__init__()

    def serve(self, client):
        upstream = socket.create_connection(("127.0.0.1", self.server.port), timeout=30)
        self.open.append(upstream)
        back = threading.Thread(target=self._forward, args=(upstream, client, "down"), daemon=True)
        back.start()
        self._forward(client, upstream, "up")
        back.join()
        upstream.close()

    def _forward(self, source, sink, direction):
        try:
            while data := source.recv(65536):
                with self.lock:
                    done = len(self.seen[direction])
                    left = self._left(direction, done)
                    self.seen[direction] += data
                if left is not None and left <= len(data):
                    sink.sendall(data[:left])
                    self._cut(source, sink)
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _left(self, direction, done):
        if direction != self.direction or self.was_cut.is_set():
            return None
        return max(self.cut_after - done, 0)

    def _cut(self, *sockets):
        self.was_cut.set()
        self.on_cut()
        for end in sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
