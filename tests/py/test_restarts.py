"""Servers that die in every phase, and devices that sync by themselves while server and network come and go."""

import random

import pytest

from crash.dying import dying
from devices import LIBRARY_ERRORS
from faults import FaultyProxy, answer
from recovery import recovering, until

# Three chunks.
ROWS, WIDTH = 650, 4000
AWAY = [
    answer("503 Service Unavailable", ["Retry-After: 0"]),
    answer("429 Too Many Requests"),
    answer("200 OK", ["Content-Type: text/html"], b"<html>Welcome to the hotel</html>"),
    answer("502 Bad Gateway", [], b"<html>bad gateway</html>"),
]

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


@pytest.fixture
def near_and_far(server, device):
    """A device behind a proxy, one that reaches the server directly, the ledger, and the proxy."""
    ledger, near, far = recovering(server, device, "near", "far")
    proxy = FaultyProxy(server)
    near.query("SELECT cloudsync_network_init(?)", proxy.connection())
    near.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    for device in (near, far):
        device.query("PRAGMA journal_mode = wal")
        device.query("PRAGMA busy_timeout = 10000")
    yield ledger, near, far, proxy
    proxy.close()


# The first chunk, the second, and the final one that commits; each brings a chunk of the download, too.
PLACES = [(number, "in the answer", 0.0) for number in (1, 2, 3)]
PLACES += [(number, "in the request", 0.0) for number in (2, 3)]
PLACES += [(3, "at work", seconds) for seconds in (0.002, 0.02, 0.06)]


def test_the_server_dies_in_every_turn_of_a_large_exchange(server, near_and_far):
    ledger, near, far, proxy = near_and_far
    near.sync()
    for number, place in enumerate(PLACES):
        ledger.fill(far, f"far {number}", ROWS, WIDTH)
        far.sync()
        ledger.note_acknowledged(far)
        ledger.fill(near, f"near {number}", ROWS, WIDTH)
        proxy.fault = dying(server, proxy, *place)
        with pytest.raises(LIBRARY_ERRORS):
            near.sync()
        proxy.heal()
        ledger.assert_acknowledged()
        near.sync()
        ledger.note_acknowledged(near)
    ledger.assert_recovered(near, far)


def switch_on(*devices):
    for device in devices:
        device.query("SELECT cloudsync_network_auto(200)")


def comes_back(ledger, *devices):
    """All devices get in step by themselves; then everything else is looked at."""
    first, *others = devices

    def is_in_step():
        rows = first.query("SELECT id, v FROM t ORDER BY id")
        return (
            len(rows) == len(ledger.writes)
            and not any(device.has_unsent() for device in devices)
            and all(other.query("SELECT id, v FROM t ORDER BY id") == rows for other in others)
        )

    until(is_in_step, "being in step")
    until(lambda: all(device.status()["auto"]["last_error"] is None for device in devices), "all well")
    for device in devices:
        device.query("SELECT cloudsync_network_auto(0)")
    ledger.assert_recovered(*devices)


def test_automatic_sync_comes_back_when_the_server_dies_again_and_again(server, near_and_far):
    ledger, near, far, proxy = near_and_far
    switch_on(near, far)
    chance = random.Random(3)
    for number in range(8):
        for step in range(chance.randrange(1, 6)):
            for device in (near, far):
                ledger.put(device, f"{device.path.name} {number} {step}", "before the kill")
        if number % 3 == 2:
            ledger.fill(near, f"large {number}", ROWS, WIDTH)
        server.kill()
        ledger.put(near, f"near {number}", "while it is away")
        server.restart()
    comes_back(ledger, near, far)


def test_automatic_sync_comes_back_from_a_network_that_does_everything(server, near_and_far):
    """Loss, resets, storms, portals and strangers, for turns and events alike."""
    ledger, near, far, proxy = near_and_far
    switch_on(near, far)
    chance = random.Random(5)

    def anything(exchange, request):
        kind = chance.randrange(5)
        if kind == 0:
            return False
        if kind == 1 and request.startswith(b"POST "):
            exchange.forward(request)
            return False
        if kind == 2:
            exchange.send(chance.choice(AWAY))
            return None
        if request.startswith(b"GET "):
            return proxy.stream(exchange.client, request) or False
        exchange.send(exchange.forward(request))
        return None

    for number in range(30):
        proxy.fault = anything if number % 10 != 9 else None
        if number % 4 == 0:
            proxy.cut_streams()
        for device in (near, far):
            ledger.put(device, f"{device.path.name} {number}", "x")
            ledger.put(device, "both", f"{device.path.name} {number}")
        until(lambda: not far.has_unsent())
    proxy.heal()
    comes_back(ledger, near, far)


def test_automatic_sync_comes_back_from_connections_that_hang(server, near_and_far):
    """As after a change of networks: what was open stays silent, and new connections work."""
    ledger, near, far, proxy = near_and_far
    near.query("SELECT cloudsync_set('network_answer_ms', 500)")
    switch_on(near, far)
    until(lambda: near.status()["auto"]["state"] == "listening")
    for number in range(3):
        proxy.fault = lambda exchange, request: exchange.hang()
        proxy.cut_streams()
        ledger.put(near, f"near {number}", "into the void")
        ledger.put(far, f"far {number}", "meanwhile")
        until(lambda: near.status()["auto"]["state"] == "offline")
        proxy.heal()
        until(lambda: not near.has_unsent())
    comes_back(ledger, near, far)
