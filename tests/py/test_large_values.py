"""Values of any size, and many rows: both sides' memory stays what it is, and a transfer goes on where it stopped."""

import hashlib
import pathlib
import sqlite3
import subprocess
import sys

import pytest

from devices import assert_same, sync_until_still
from faults import FaultyProxy, body_of

MB = 1_000_000
SCHEMA = "CREATE TABLE files (id TEXT PRIMARY KEY NOT NULL, name TEXT, content)"

# A device in a process of its own, whose memory can be looked at.
SYNC = """
import sqlite3, sys
path, library, connection, key = sys.argv[1:]
conn = sqlite3.connect(path, isolation_level=None)
conn.enable_load_extension(True)
conn.load_extension(library)
conn.execute("SELECT cloudsync_network_init(?)", (connection,)).fetchall()
conn.execute("SELECT cloudsync_network_set_apikey(?)", (key,)).fetchall()
conn.execute("SELECT cloudsync_network_sync()").fetchall()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def start_sync(device, library, server, connection=None):
    """Syncs a device's file in another process, which ends with its peak memory in KiB."""
    command = [sys.executable, "-c", SYNC, device.path, library, connection or server.connection, server.key]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def peak_mb(process):
    output, _ = process.communicate(timeout=170)
    assert process.returncode == 0
    return int(output) * 1024 / MB


def server_peak_mb(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / MB


def digest(device):
    """Of the only row's value."""
    with sqlite3.connect(device.path) as conn:
        [[content]] = conn.execute("SELECT content FROM files").fetchall()
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_a_blob_of_100_mb_goes_through_in_constant_memory(server, device, library):
    a, b = (device(name, server, SCHEMA, ["files"]) for name in "ab")
    for each in (a, b):
        each.sync()
    a.query("INSERT INTO files VALUES ('big', 'a name', randomblob(?))", 100 * MB)
    peaks = {}
    for name, each in (("sender", a), ("receiver", b)):
        peaks[name] = peak_mb(start_sync(each, library, server))
    peaks["server"] = server_peak_mb(server)
    print(f"peak memory for a BLOB of 100 MB, in MB: {peaks}")
    assert digest(a) == digest(b)
    # None of them ever had it whole: a Python process alone takes some 15 MB.
    assert max(peaks.values()) < 90, peaks
    # Another value of the row does not bring it along, and neither does a look for what is new.
    a.query("UPDATE files SET name = 'another name'")
    assert a.status()["sent"] <= 1
    sync_until_still(a, b)
    assert b.query("SELECT name, length(content) FROM files") == [("another name", 100 * MB)]
    assert b.integrity() == "ok"


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_a_killed_transfer_goes_on_where_it_stopped(server, device, library):
    a, b = (device(name, server, SCHEMA, ["files"]) for name in "ab")
    for each in (a, b):
        each.sync()
    a.query("INSERT INTO files VALUES ('big', 'a name', randomblob(?))", 8 * MB)
    proxy = FaultyProxy(server)
    connection = f"cloudsync://127.0.0.1:{proxy.port}/{server.database}"
    for each in (a, b):
        proxy.requests.clear()
        proxy.answers.clear()
        # First the device dies after the server took or made a chunk, then the server does before it answers.
        for turn, dies in ((3, "device"), (2, "server")):
            left = [turn]

            def fault(exchange, request):
                left[0] -= 1
                if left[0] == 0 and dies == "server":
                    server.kill()
                    server.restart()
                    return False
                exchange.send(exchange.forward(request))
                if left[0] == 0:
                    process.kill()
                    return False

            proxy.fault = fault
            process = start_sync(each, library, server, connection)
            process.wait(timeout=60)
            process.stdout.close()
        proxy.heal()
        peak_mb(start_sync(each, library, server, connection))
        moved = sum(len(body_of(message)) for message in proxy.requests + proxy.answers)
        assert 8 * MB < moved < 11 * MB, f"{moved} bytes for 8 MB: at most a chunk for each break"
    proxy.close()
    assert digest(a) == digest(b)
    for each in (a, b):
        each.connect(server)
    sync_until_still(a, b)
    assert_same("files", a, b)


def test_many_rows_go_through(server, device):
    schema = "CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, n INTEGER, r REAL, t TEXT, u TEXT)"
    a, b = (device(name, server, schema, ["items"]) for name in "ab")
    a.script(
        "INSERT INTO items WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000)"
        " SELECT printf('018f0000-0000-7000-8000-%012x', i), i, i / 7.0, 'item ' || i, NULL FROM n"
    )
    assert a.sync() == 0
    assert b.sync() == 250_000
    b.script("UPDATE items SET u = 'changed' WHERE n % 2")
    sync_until_still(b, a)
    sums = "SELECT count(*), sum(n), sum(r), sum(length(t)), count(u) FROM items"
    assert a.query(sums) == b.query(sums)
    assert a.value("SELECT count(u) FROM items") == 125_000
