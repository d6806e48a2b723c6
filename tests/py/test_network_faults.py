"""What networks do to exchanges, with the real server and the shipped library.

After each fault the devices are in step within three rounds, nothing is lost, nothing is there twice, and every file is
whole: `Ledger.assert_recovered`.
"""

import random
import sqlite3
import threading
import time

import pytest

from faults import FaultyProxy, answer, body_of
from recovery import recovering

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


class Bench:
    """A device behind the proxy and one that reaches the server directly."""

    def __init__(self, server, device):
        self.server = server
        self.ledger, self.near, self.far = recovering(server, device, "near", "far")
        self.proxy = FaultyProxy(server)
        self.near.query("SELECT cloudsync_network_init(?)", self.proxy.connection())
        self.near.query("SELECT cloudsync_network_set_apikey(?)", server.key)
        self.written = 0
        self.write()
        self.in_step()

    def write(self):
        """An insert and an update on both devices, and one in a row that the other one writes, too."""
        number, self.written = self.written, self.written + 1
        for name, device in (("near", self.near), ("far", self.far)):
            self.ledger.put(device, f"{name}-{number}", "new")
            self.ledger.put(device, f"{name}-{number // 2}", f"update {number}")
            self.ledger.put(device, "both", f"{name} {number}")

    def set(self, **settings):
        for name, value in settings.items():
            self.near.query("SELECT cloudsync_set(?, ?)", name, value)

    def try_sync(self, *arguments):
        """A sync that may fail; gives its error, or None."""
        marks = ", ".join("?" for _ in arguments)
        try:
            self.near.query(f"SELECT cloudsync_network_sync({marks})", *arguments)
        except sqlite3.Error as error:
            assert "127.0.0.1" in str(error), error
            return str(error)
        return None

    def in_step(self):
        self.proxy.heal()
        self.ledger.assert_recovered(self.near, self.far)
        # Only what was on its way is twice on its way.
        assert self.near.value("SELECT count(*) FROM t") == 2 * self.written + 1


@pytest.fixture
def bench(server, device):
    bench = Bench(server, device)
    yield bench
    bench.proxy.close()


def latency(exchange, request):
    exchange.pause(0.1)
    exchange.send(exchange.forward(request))


class Loss:
    """Requests and answers are lost by chance; the connection ends."""

    def __init__(self):
        self.random = random.Random(7)

    def __call__(self, exchange, request):
        if self.random.random() < 0.4:
            return False
        reply = exchange.forward(request)
        if self.random.random() < 0.4:
            return False
        exchange.send(reply)


class Reordering:
    """Each request that was given up arrives after the next one."""

    def __init__(self):
        self.late = None

    def __call__(self, exchange, request):
        if self.late is None:
            self.late = request
            return False
        reply = exchange.forward(request)
        exchange.forward(self.late)
        self.late = None
        exchange.send(reply)


def duplication(exchange, request):
    """The server gets each request three times, and the device the last answer."""
    exchange.forward(request)
    exchange.forward(request)
    exchange.send(exchange.forward(request))


def duplicates_at_once(exchange, request):
    others = [threading.Thread(target=exchange.forward, args=(request,)) for _ in range(3)]
    for other in others:
        other.start()
    exchange.send(exchange.forward(request))
    for other in others:
        other.join()


PASSING = {
    "latency": lambda: latency,
    "loss": Loss,
    "reordering": Reordering,
    "duplication": lambda: duplication,
    "duplicates at once": lambda: duplicates_at_once,
}


@pytest.mark.parametrize("name", PASSING)
def test_networks_that_lose_repeat_and_mix_up(bench, name):
    bench.proxy.fault = PASSING[name]()
    for _ in range(12):
        bench.write()
        bench.try_sync()
        bench.far.sync()
    bench.in_step()


def test_retries_get_through_a_lossy_network(bench):
    bench.proxy.fault = Loss()
    for _ in range(5):
        bench.write()
        # News to receive: a sync that is told to wait looks for them until they come.
        bench.far.sync()
        assert bench.try_sync(2, 30) is None
        assert bench.near.has_unsent() == 0
    bench.in_step()


def test_a_connection_cut_at_every_byte_of_a_small_exchange(bench):
    # Thousands of commits: what the disk does is not looked at here.
    bench.near.script("PRAGMA synchronous = OFF")
    bench.write()
    bench.near.sync()
    up, down = len(bench.proxy.requests[-1]), len(bench.proxy.answers[-1])
    # Times and lengths differ by a few bytes from exchange to exchange.
    for cut in range(up + 8):
        def fault(exchange, request, cut=cut):
            bench.proxy.deliver_part(request, cut)
            if cut >= len(request):
                exchange.send(exchange.forward(request))
            return False

        bench.proxy.fault = fault
        one_cut(bench, cut)
    for cut in range(down + 8):
        def fault(exchange, request, cut=cut):
            exchange.send(exchange.forward(request)[:cut])
            return False

        bench.proxy.fault = fault
        one_cut(bench, cut)
    bench.in_step()


def one_cut(bench, cut):
    bench.ledger.put(bench.near, "near-0", f"before cut {cut}")
    bench.try_sync()
    # Now and then all is well in between, so that both a new round and one that is sent again are cut.
    if cut % 4 == 0:
        bench.proxy.heal()
        bench.near.sync()
        bench.ledger.note_acknowledged(bench.near)


def half_open(exchange, request):
    return exchange.hang()


def half_open_after_the_server_took_it(exchange, request):
    exchange.forward(request)
    return exchange.hang()


def half_open_in_the_answer(exchange, request):
    reply = exchange.forward(request)
    exchange.send(reply[: len(reply) // 2])
    return exchange.hang()


def slow_answer(exchange, request):
    for byte in exchange.forward(request):
        exchange.send(bytes([byte]))
        exchange.pause(0.05)


@pytest.mark.parametrize(
    "fault", [half_open, half_open_after_the_server_took_it, half_open_in_the_answer, slow_answer]
)
def test_silence_and_slowness_end_by_the_timeouts(bench, fault):
    bench.set(network_answer_ms=300, network_request_ms=500)
    bench.proxy.fault = fault
    for _ in range(2):
        bench.write()
        assert "broke off: no answer within 0." in bench.try_sync()
    bench.set(network_answer_ms=120_000, network_request_ms=600_000)
    bench.in_step()


STORMS = {
    "429": answer("429 Too Many Requests", ["Retry-After: 0"]),
    "500": answer("500 Internal Server Error", [], b"<html>oh</html>"),
    "502": answer("502 Bad Gateway", ["Content-Type: text/html"], b"<html>bad gateway</html>"),
    "503": answer("503 Service Unavailable", ["Retry-After: Thu, 01 Jan 1970 00:00:00 GMT"]),
    "504": answer("504 Gateway Timeout"),
    "408": answer("408 Request Timeout", ["Connection: close"]),
    "503 of ours": answer(
        "503 Service Unavailable",
        ["cloudsync-protocol: 1"],
        b'{"error":{"code":"CLOUDSYNC_BUSY","message":"the server is busy: try again"}}',
    ),
}


@pytest.mark.parametrize("name", STORMS)
def test_storms_pass(bench, name):
    left = [6]

    def storm(exchange, request):
        left[0] -= 1
        exchange.send(STORMS[name] if left[0] >= 0 else exchange.forward(request))

    bench.proxy.fault = storm
    bench.write()
    text = bench.try_sync()
    assert "is busy" in text or f"answered HTTP {name}" in text
    bench.far.sync()
    assert bench.try_sync(5, 10) is None
    assert left[0] < 0
    report = bench.near.status()
    assert report["error"] is None and report["attempts"] == 6 and report["waiting"] is None
    bench.in_step()


def test_retry_after_is_waited(bench):
    times = []

    def busy_once(exchange, request):
        times.append(time.monotonic())
        first = len(times) == 1
        exchange.send(answer("429 Too Many Requests", ["Retry-After: 1"]) if first else exchange.forward(request))

    bench.proxy.fault = busy_once
    bench.write()
    bench.far.sync()
    assert bench.try_sync(1, 1) is None
    assert 1 <= times[1] - times[0] < 3
    bench.in_step()


def test_the_total_time_is_kept(bench):
    bench.set(network_total_ms=700)
    bench.proxy.fault = half_open
    bench.write()
    begun = time.monotonic()
    assert bench.try_sync(100, 1000)
    assert time.monotonic() - begun < 2
    bench.set(network_total_ms=86_400_000)
    bench.in_step()


def mislabelled(exchange, request):
    """A proxy that makes something else of the answer's type, and drops headers that it does not know."""
    exchange.send(answer("200 OK", ["Content-Type: text/html"], body_of(exchange.forward(request))))


def mangled(exchange, request):
    """The header of ours is there, but something on the way has rewritten the body."""
    body = body_of(exchange.forward(request)).replace(b"\n", b"\r\n") + b"<!-- scanned -->"
    exchange.send(answer("200 OK", ["cloudsync-protocol: 1", "Content-Type: application/vnd.cloudsync"], body))


PORTAL = b"<html><body>Welcome to the hotel. Please sign in.</body></html>"
STRANGERS = {
    "a captive portal": lambda exchange, request: exchange.send(
        answer("200 OK", ["Content-Type: text/html"], PORTAL)
    ),
    "a portal that pretends": lambda exchange, request: exchange.send(
        answer("200 OK", ["cloudsync-protocol: 1", "Content-Type: text/html"], PORTAL)
    ),
    "a portal elsewhere": lambda exchange, request: exchange.send(
        answer("302 Found", ["Location: http://portal.example/login"])
    ),
    "a moved server": lambda exchange, request: exchange.send(
        answer("308 Permanent Redirect", ["Location: https://sync.example/v1/databases/my_database/sync"])
    ),
    "an answer of another type": mislabelled,
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_server_is_told_apart(bench, name):
    bench.proxy.fault = STRANGERS[name]
    for _ in range(2):
        bench.write()
        before = bench.near.rows("t")
        assert "not a cloudsync server at" in bench.try_sync()
        assert bench.near.has_unsent() == 1 and bench.near.rows("t") == before
    bench.in_step()


def test_a_damaged_answer_may_come_whole_the_next_time(bench):
    bench.proxy.fault = mangled
    bench.write()
    assert "broke off" in bench.try_sync()
    bench.in_step()


@pytest.mark.parametrize("phase", ["before", "in the request", "after the request", "in the answer", "after the answer"])
def test_the_server_restarts_in_every_phase(bench, phase):
    def restart(exchange, request):
        bench.proxy.heal()
        reply = b""
        if phase == "in the request":
            bench.proxy.deliver_part(request, len(request) - 3)
        if phase in ("in the answer", "after the answer", "after the request"):
            reply = exchange.forward(request)
        bench.server.kill()
        bench.server.restart()
        if phase == "in the answer":
            exchange.send(reply[: len(reply) - 5])
        if phase == "after the answer":
            exchange.send(reply)
        return False

    for _ in range(2):
        bench.write()
        bench.proxy.fault = restart
        bench.try_sync()
    bench.in_step()


def test_one_changed_cell_is_small(bench):
    bench.far.sync()
    for number in range(3):
        bench.ledger.put(bench.near, "near-0", f"changed {number}")
        bench.near.sync()
        request, reply = bench.proxy.requests[-1], bench.proxy.answers[-1]
        bodies = len(body_of(request)) + len(body_of(reply))
        assert bodies <= 200, f"the bodies have {bodies} bytes"
        assert len(request) + len(reply) <= 800, f"with headers {len(request) + len(reply)} bytes"
        assert bench.near.has_unsent() == 0
        bench.ledger.put(bench.near, "near-0", "again")
    bench.in_step()


def test_each_further_cell_costs_twenty_bytes_at_most(server, device):
    a = device("a", None, "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, n INTEGER, v TEXT)", ["t"])
    proxy = FaultyProxy(server)
    a.query("SELECT cloudsync_network_init(?)", f"cloudsync://127.0.0.1:{proxy.port}/{server.database}")
    a.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    for number in range(200):
        a.query("INSERT INTO t VALUES (cloudsync_uuid(), ?, 'small')", number)
    a.sync()
    bodies = {}
    for cells in (1, 101):
        a.query("UPDATE t SET n = n + 1000 * ? WHERE n % 1000 < ?", cells, cells)
        a.sync()
        assert a.status()["sent"] == cells
        bodies[cells] = len(body_of(proxy.requests[-1])) + len(body_of(proxy.answers[-1]))
    proxy.close()
    assert bodies[1] <= 200 and bodies[101] - bodies[1] <= 100 * 20, bodies
