"""Peers that are slow on purpose, or gone without a word: each side ends what lasts too long, and others are served."""

import contextlib
import os
import pathlib
import select
import socket
import threading
import time

import pytest

from faults import FaultyProxy, Swallowing
from recovery import recovering, until
from servers import Server

IDLE_MS, BODY_MS = 400, 1200
# How much later than it should the end of a connection may be noticed on a busy machine.
SLACK_SECONDS = 8

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


@pytest.fixture
def server(program, tmp_path):
    """A server that has little patience."""
    server = Server(program, tmp_path / "server", options=["--idle-ms", str(IDLE_MS), "--body-ms", str(BODY_MS)])
    yield server
    server.kill()


@pytest.fixture
def others(server, device):
    """Two devices that go on, and the ledger."""
    return recovering(server, device, "one", "two")


def head(server, length):
    return (
        f"POST /v1/databases/my_database/sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.cloudsync\r\n"
        f"Authorization: Bearer {server.key}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def connect(server):
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def is_ended(client):
    """Whether the server has ended a connection; what it said before is read."""
    try:
        while select.select([client], [], [], 0)[0]:
            if not client.recv(65536):
                return True
    except OSError:
        return True
    return False


def trickle(client, data, seconds_max):
    """Sends byte by byte, more often than the server ends what is idle; gives after how long it was ended all the same."""
    begun, pulse = time.monotonic(), threading.Event()
    for byte in data:
        if is_ended(client):
            return time.monotonic() - begun
        with contextlib.suppress(OSError):
            client.send(bytes([byte]))
        assert time.monotonic() - begun < seconds_max, "it is not ended"
        pulse.wait(IDLE_MS / 8000)
    raise AssertionError("it was taken to its end")


def go_on(others, number):
    """Both devices write and sync."""
    ledger, *devices = others
    for device in devices:
        ledger.put(device, f"{device.path.name} {number}", "while others are slow")
        device.sync()
        ledger.note_acknowledged(device)


def test_a_head_byte_by_byte_is_ended_and_others_are_served(server, others):
    with connect(server) as slow:
        lasted = []
        data = head(server, 10).replace(b"Host: x", b"Host: " + b"x" * 4000)
        thread = threading.Thread(target=lambda: lasted.append(trickle(slow, data, IDLE_MS / 1000 + SLACK_SECONDS)))
        thread.start()
        for number in range(5):
            go_on(others, number)
        thread.join()
        assert IDLE_MS / 1000 / 2 < lasted[0], "it was ended too soon"
    others[0].assert_recovered(*others[1:])


def test_a_body_byte_by_byte_is_ended_and_others_are_served(server, others):
    with connect(server) as slow:
        slow.sendall(head(server, 1_000_000))
        lasted = []
        thread = threading.Thread(
            target=lambda: lasted.append(trickle(slow, bytes(100_000), BODY_MS / 1000 + SLACK_SECONDS))
        )
        thread.start()
        for number in range(5):
            go_on(others, number)
        thread.join()
        assert IDLE_MS / 1000 < lasted[0], "what moves is not idle"
    others[0].assert_recovered(*others[1:])


def test_an_answer_that_nobody_takes_is_ended(server, others):
    ledger, one, two = others
    ledger.fill(one, "many", 30_000)
    one.sync()
    proxy = FaultyProxy(server)
    two.query("SELECT cloudsync_network_init(?)", proxy.connection())
    two.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    proxy.fault = lambda exchange, request: False
    two.error("SELECT cloudsync_network_sync()")
    # The first request asks for everything. It is made again and again, over connections with the smallest of windows.
    first = proxy.requests[-1]
    proxy.heal()
    before = open_sockets(server)
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(first * 64)
            slow.append(client)
        until(lambda: open_sockets(server) >= before + len(slow))
        go_on((ledger, one, two), 1)

        def is_left():
            # One byte now and then is no progress.
            for client in slow:
                with contextlib.suppress(OSError):
                    client.recv(1, socket.MSG_DONTWAIT)
            return open_sockets(server) <= before

        until(is_left)
    ledger.assert_recovered(one, two)
    proxy.close()


def open_sockets(server):
    """How many sockets the server has open: what the system still sends by itself is not the server's any more."""
    count = 0
    for file in pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(file).startswith("socket:")
    return count


def test_forty_hanging_uploads_do_not_hold_up_others(server, others):
    """Forty callers with a good key announce the largest body, send a little of it, and then nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(connect(server))
            client.sendall(head(server, 60 << 20) + b"slowly")
        others[1].query("SELECT cloudsync_set('network_request_ms', 2000)")
        for number in range(10):
            go_on(others, number)
    others[0].assert_recovered(*others[1:])


def test_uploads_that_hang_full_of_bytes_give_way(program, tmp_path, device):
    """Callers with a good key fill all the room for bodies, and then send nothing more."""
    server = Server(program, tmp_path / "patient")
    ledger, one, two = recovering(server, device, "one", "two")
    block = bytes(1 << 20)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(9)]
        for client in clients:
            client.sendall(head(server, 68 << 20))
        sending = list(clients)
        # Round by round, until no more is taken of anybody.
        while sending and time.monotonic() - begun < SLACK_SECONDS:
            for client in list(sending):
                client.settimeout(0.2)
                try:
                    client.sendall(block)
                except OSError:
                    sending.remove(client)
        begun = time.monotonic()
        go_on((ledger, one, two), 1)
        assert time.monotonic() - begun < 5, "it waited for the slow ones"
    ledger.assert_recovered(one, two)
    server.kill()


@pytest.mark.parametrize("phase", ["connected", "in the head", "in the body", "waiting for the answer", "afterwards"])
def test_a_device_that_vanished_without_a_word_is_given_up(server, others, phase):
    """The network has swallowed the end of the connection: the server sees it open and silent."""
    ledger, one, two = others
    proxy = FaultyProxy(server)
    one.query("SELECT cloudsync_network_init(?)", proxy.connection())
    one.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    one.sync()
    left = Swallowing(phase)
    proxy.fault = left
    ledger.put(one, "before", "it vanished")
    one.error("SELECT cloudsync_network_sync()")
    proxy.heal()
    # Whatever became of that round, the next one goes on at once and not when the old connection ends.
    ledger.put(one, "after", "it came back")
    one.sync()
    ledger.note_acknowledged(one)
    go_on(others, 1)
    until(lambda: is_ended(left.upstream))
    ledger.assert_recovered(one, two)
    proxy.close()


@pytest.mark.parametrize("side", ["device", "server"])
def test_a_side_that_says_no_more_but_listens(server, others, side):
    """Half of the connection is closed: what the device still sends, or what the server still answers, finds no ear."""
    ledger, one, two = others
    proxy = FaultyProxy(server)
    one.query("SELECT cloudsync_network_init(?)", proxy.connection())
    one.query("SELECT cloudsync_network_set_apikey(?)", server.key)

    def half_closed(exchange, request):
        if side == "server":
            exchange.client.shutdown(socket.SHUT_WR)
            exchange.forward(request)
            return exchange.hang()
        with connect(server) as upstream:
            upstream.sendall(request)
            upstream.shutdown(socket.SHUT_WR)
            while data := upstream.recv(65536):
                exchange.send(data)
        return False

    one.query("SELECT cloudsync_set('network_answer_ms', 1000)")
    for number in range(3):
        ledger.put(one, f"half {number}", "closed")
        proxy.fault = half_closed
        with contextlib.suppress(Exception):
            one.sync()
        proxy.heal()
        go_on(others, number)
    ledger.assert_recovered(one, two)
    proxy.close()
