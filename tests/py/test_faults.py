"""Processes that die in the middle of a round, and servers that are something else: nothing is lost."""

import resource
import sqlite3
import subprocess
import sys

import pytest

from devices import assert_same, sync_until_still
from recovery import SCHEMA, recovering
from servers import CuttingProxy, FakeServer

SYNC_ONCE = """
import sqlite3, sys
path, library, connection, key = sys.argv[1:]
conn = sqlite3.connect(path, isolation_level=None, timeout=30)
conn.enable_load_extension(True)
conn.load_extension(library)
conn.execute("SELECT cloudsync_network_init(?)", (connection,)).fetchall()
conn.execute("SELECT cloudsync_network_set_apikey(?)", (key,)).fetchall()
conn.execute("SELECT cloudsync_network_sync()").fetchall()
"""

# Where in a round the cut falls: which way the bytes went, and after how many.
CUTS = [
    ("up", 0),
    ("up", 1),
    ("up", 300),
    ("up", 20_000),
    ("up", 60_000),
    ("down", 0),
    ("down", 1),
    ("down", 100),
    ("down", 300),
    ("down", 20_000),
    ("down", 60_000),
]

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


@pytest.fixture
def ledger_and_pair(server, device):
    """A has many rows to send; B has sent as many, so that A has as many to receive: more than any cut waits for."""
    ledger, a, b = recovering(server, device, "a", "b")
    ledger.fill(b, "b", 2000, width=80)
    b.sync()
    ledger.note_acknowledged(b)
    ledger.fill(a, "a", 2000, width=80)
    return ledger, a, b


@pytest.fixture
def pair(ledger_and_pair):
    return ledger_and_pair[1:]


@pytest.fixture
def assert_whole(ledger_and_pair):
    return ledger_and_pair[0].assert_recovered


def connect(device, proxy, server):
    device.query("SELECT cloudsync_network_init(?)", proxy.connection())
    device.query("SELECT cloudsync_network_set_apikey(?)", server.key)


def try_sync(device):
    try:
        device.sync()
    except sqlite3.Error as error:
        assert str(error)


@pytest.mark.parametrize("direction, cut_after", CUTS)
def test_the_server_is_killed_in_a_round(pair, assert_whole, server, direction, cut_after):
    a, b = pair
    proxy = CuttingProxy(server, direction, cut_after, on_cut=server.kill)
    connect(a, proxy, server)
    try_sync(a)
    assert proxy.was_cut.is_set()
    server.restart()
    assert_whole(a, b)
    proxy.close()


@pytest.mark.parametrize("direction, cut_after", CUTS)
def test_the_device_is_killed_in_a_round(pair, assert_whole, server, device, library, direction, cut_after):
    a, b = pair
    a.close()
    child = None
    proxy = CuttingProxy(server, direction, cut_after, on_cut=lambda: child.kill())
    command = [sys.executable, "-c", SYNC_ONCE, a.path, library, proxy.connection(), server.key]
    child = subprocess.Popen(command)
    child.wait(timeout=120)
    assert child.returncode != 0 and proxy.was_cut.is_set()
    a = device("a")
    connect(a, proxy, server)
    assert_whole(a, b)
    proxy.close()


@pytest.mark.parametrize("direction, cut_after", CUTS)
def test_the_connection_breaks_in_a_round(pair, assert_whole, server, direction, cut_after):
    a, b = pair
    proxy = CuttingProxy(server, direction, cut_after)
    connect(a, proxy, server)
    try_sync(a)
    assert proxy.was_cut.is_set()
    assert_whole(a, b)
    proxy.close()


def test_acknowledged_rows_survive_a_kill_right_after(server, device):
    ledger, a, b = recovering(server, device, "a", "b")
    for number in range(5):
        ledger.put(a, str(number), "acknowledged")
        a.sync()
        ledger.note_acknowledged(a)
        server.kill()
        ledger.assert_acknowledged()
        server.restart()
    ledger.assert_recovered(a, b)


HTML = b"<html><body>It works!</body></html>"
ANSWERS = {
    "nothing": b"",
    "rubbish": bytes(range(256)) * 20,
    "half a status line": b"HTTP/1.1 2",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "no body": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a web page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(HTML), HTML),
    "rubbish as a body": b"HTTP/1.1 200 OK\r\nContent-Length: 5120\r\n\r\n" + bytes(range(256)) * 20,
    "a length of terabytes": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\nx",
    "a chunk of terabytes": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\nx",
    "not found": b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
    "an error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "a redirect to itself": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
}
SOMETHING_ELSE = {"rubbish", "a web page", "rubbish as a body", "not found", "another protocol"}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_that_is_something_else(pair, assert_whole, server, answer):
    a, b = pair
    before = a.rows("t")
    fake = FakeServer(ANSWERS[answer])
    a.query("SELECT cloudsync_network_init(?)", fake.connection())
    a.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    text = a.error("SELECT cloudsync_network_sync()")
    fake.close()
    assert f"127.0.0.1:{fake.port}" in text
    if answer in SOMETHING_ELSE:
        assert "not a cloudsync server at" in text
    assert a.rows("t") == before
    assert a.has_unsent() == 1
    a.connect(server)
    assert_whole(a, b)


def test_causes_are_named(pair, assert_whole, server):
    a, b = pair
    unused = FakeServer(b"")
    unused.close()
    causes = [
        (unused.connection(), server.key, f"127.0.0.1:{unused.port}"),
        (server.connection, "wrong", "key"),
        (server.connection.replace("my_database", "other"), server.key, "other"),
    ]
    for connection, key, expected in causes:
        a.query("SELECT cloudsync_network_init(?)", connection)
        a.query("SELECT cloudsync_network_set_apikey(?)", key)
        assert expected in a.error("SELECT cloudsync_network_sync()")
        assert a.has_unsent() == 1
    a.connect(server)
    assert_whole(a, b)


@pytest.mark.parametrize(
    "url",
    ["", "cloudsync://", "cloudsync://host", "ftp://host/db", "cloudsync://host/bad name", "cloudsync://host:x/db",
     "cloudsync://host:99999/db", "http://example.com/db", "not a url", "cloudsync://[::1/db"],
)
def test_bad_urls_are_refused(device, url):
    a = device("a", None, SCHEMA, ["t"])
    a.error("SELECT cloudsync_network_init(?)", url)


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def damaged(payload):
    """Truncated, flipped, lengthened and random bytes."""
    step = max(len(payload) // 200, 1)
    for length in range(0, len(payload), step):
        yield payload[:length]
    for position in list(range(min(len(payload), 120))) + list(range(120, len(payload), step)):
        for bit in (0, 7):
            flipped = bytearray(payload)
            flipped[position] ^= 1 << bit
            yield bytes(flipped)
    yield payload + b"\0"
    random = __import__("random").Random(1)
    for _ in range(300):
        yield random.randbytes(random.randrange(200))
        # Behind a header that is right, so that more than the first check is reached.
        yield payload[: random.randrange(40)] + random.randbytes(random.randrange(200))


def test_damaged_payloads_are_errors(device):
    a, b = (device(name, None, SCHEMA, ["t"]) for name in "ab")
    a.script("INSERT INTO t VALUES ('1', 'x'), ('2', 'y'); UPDATE t SET v = 'z' WHERE id = '1'")
    payload = a.value("SELECT cloudsync_payload_encode()")
    start = peak_bytes()
    for bytes_ in damaged(payload):
        b.error("SELECT cloudsync_payload_apply(?)", bytes_)
    assert peak_bytes() - start < 100_000_000
    assert b.rows("t") == []
    assert b.value("SELECT cloudsync_payload_apply(?)", payload) == 2
    assert_same("t", a, b)
    assert b.integrity() == "ok"


def test_damaged_requests_are_errors(pair, server):
    import socket

    a, b = pair
    proxy = CuttingProxy(server)
    a.query("SELECT cloudsync_network_init(?)", proxy.connection())
    a.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    a.script("DELETE FROM t WHERE id NOT LIKE '%-1'")
    a.sync()
    proxy.close()
    head, body = proxy.seen["up"].split(b"\r\n\r\n", 1)
    length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
    body = body[:length]
    for bytes_ in damaged(body):
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
        lines += [b"Content-Length: %d" % len(bytes_), b"Connection: close"]
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + bytes_)
            status = client.makefile("rb").readline().split()
        # The whole of it again is a repeated round, whose answer is the same.
        assert status[1].startswith(b"4"), status
    a.connect(server)
    sync_until_still(a, b)
    assert_same("t", a, b)
    assert server.process.poll() is None
