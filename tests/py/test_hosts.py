"""The app keeps its hooks, its connections and its way of closing."""

import ctypes
import gc
import pathlib
import subprocess
import sys

import apsw
import pytest

from devices import BINDINGS, Device, assert_same, sync_until_still
from recovery import until

# What may be lost with each connection: the smallest thing that a connection has of its own is larger.
LEAK_BYTES = 100
SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT);"

WRITER = """
import sqlite3, sys
path, library, connection, key, name, count = sys.argv[1:]
conn = sqlite3.connect(path, isolation_level=None, timeout=30)
conn.enable_load_extension(True)
conn.load_extension(library)
conn.execute("SELECT cloudsync_network_init(?)", (connection,)).fetchall()
conn.execute("SELECT cloudsync_network_set_apikey(?)", (key,)).fetchall()
for number in range(int(count)):
    conn.execute("INSERT INTO t VALUES (?, ?)", (f"{name}-{number}", name))
    conn.execute("SELECT cloudsync_network_sync()").fetchall()
    print(number, flush=True)
"""


@pytest.mark.parametrize("binding", ["apsw"], indirect=True)
def test_hooks_of_the_app_keep_working(server, device):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    commits, updates, asked = [], [], []
    a.conn.set_commit_hook(lambda: commits.append(1) or False)
    a.conn.set_update_hook(lambda kind, database, table, rowid: updates.append(table))
    a.conn.authorizer = lambda *question: asked.append(question[0]) or apsw.SQLITE_OK
    a.script("INSERT INTO t VALUES ('1', 'local')")
    assert commits and "t" in updates and asked
    b.script("INSERT INTO t VALUES ('2', 'remote')")
    b.sync()
    commits.clear(), updates.clear(), asked.clear()
    assert a.sync() == 1
    assert commits and "t" in updates, "what arrives goes through the app's own hooks"
    commits.clear(), updates.clear()
    a.script("UPDATE t SET v = 'still'")
    assert commits and updates.count("t") == 2
    a.conn.set_commit_hook(None)
    a.conn.set_update_hook(None)
    a.conn.authorizer = None
    sync_until_still(a, b)
    assert_same("t", a, b)


@pytest.mark.parametrize("binding", ["apsw"], indirect=True)
def test_a_commit_hook_that_refuses_leaves_everything_whole(server, device):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    b.script("INSERT INTO t VALUES ('1', 'remote')")
    b.sync()
    a.conn.set_commit_hook(lambda: True)
    a.error("SELECT cloudsync_network_sync()")
    assert a.rows("t") == []
    a.conn.set_commit_hook(None)
    sync_until_still(a, b)
    assert_same("t", a, b)


def test_closing_without_terminate(server, device):
    a = device("a", server, SCHEMA, ["t"])
    a.script("INSERT INTO t VALUES ('1', 'x')")
    a.sync()
    a.close()
    again = device("a", server)
    assert again.value("SELECT v FROM t") == "x"
    assert again.integrity() == "ok"
    assert again.sync() == 0


def test_terminate_and_going_on(server, device):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    a.script("INSERT INTO t VALUES ('1', 'x')")
    a.query("SELECT cloudsync_terminate()")
    a.query("SELECT cloudsync_terminate()")
    a.script("INSERT INTO t VALUES ('2', 'y')")
    a.connect(server)
    sync_until_still(a, b)
    assert_same("t", a, b)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_two_connections_on_one_file(server, device, journal_mode):
    first = device("a")
    first.query(f"PRAGMA journal_mode = {journal_mode}")
    first.script(SCHEMA)
    first.init("t")
    first.connect(server)
    second = device("a", server)
    b = device("b", server, SCHEMA, ["t"])
    for number in range(10):
        for name, one in (("first", first), ("second", second)):
            one.query("INSERT INTO t VALUES (?, ?)", f"{name}-{number}", name)
            one.sync()
    sync_until_still(first, b, second)
    assert_same("t", first, second, b)
    assert b.value("SELECT count(*) FROM t") == 20
    assert first.value("SELECT cloudsync_siteid()") == second.value("SELECT cloudsync_siteid()")


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_two_processes_on_one_file(server, device, library):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    a.query("PRAGMA journal_mode = wal")
    command = [sys.executable, "-c", WRITER, a.path, library, server.connection, server.key]
    writers = [
        subprocess.Popen([*command, name, "15"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    for writer in writers:
        _, complaint = writer.communicate(timeout=120)
        assert writer.returncode == 0, complaint
    sync_until_still(a, b)
    assert_same("t", a, b)
    assert b.value("SELECT count(*) FROM t") == 30
    assert a.integrity() == "ok"


def test_hosts_with_different_sqlite_share_one_file(server, device):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    for number, binding in enumerate(list(BINDINGS.values()) * 2):
        a.close()
        a = device("a", server, binding=binding)
        a.query("INSERT INTO t VALUES (?, ?)", str(number), binding.name)
        a.sync()
    sync_until_still(a, b)
    assert_same("t", a, b)
    assert b.value("SELECT count(*) FROM t") == 4


def test_network_functions_inside_a_transaction_ask_to_commit_first(server, device):
    a = device("a", server, SCHEMA, ["t"])
    a.script("BEGIN; INSERT INTO t VALUES ('1', 'x')")
    for call in ("sync", "send_changes", "check_changes"):
        assert "commit first" in a.error(f"SELECT cloudsync_network_{call}()")
    a.script("COMMIT")
    assert a.sync() == 0
    assert a.has_unsent() == 0


def test_untrusted_schemas_work(server, device):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    for one in (a, b):
        one.query("PRAGMA trusted_schema = OFF")
    a.script("INSERT INTO t VALUES ('1', 'x'); UPDATE t SET v = 'y'")
    sync_until_still(a, b)
    assert_same("t", a, b)


def test_a_read_only_file_says_so(device, library, binding):
    a = device("a", schema=SCHEMA, tables=["t"])
    a.script("INSERT INTO t VALUES ('1', 'x')")
    a.close()
    again = device("a")
    again.query("PRAGMA query_only = ON")
    again.value("SELECT cloudsync_version()")
    again.error("SELECT cloudsync_init('other')")
    assert again.value("SELECT v FROM t") == "x"


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_a_full_disk_loses_nothing(server, device):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    b.query("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
            "INSERT INTO t SELECT 'b' || i, hex(randomblob(100)) FROM n")
    b.sync()
    a.script("INSERT INTO t VALUES ('1', 'mine')")
    a.query(f"PRAGMA max_page_count = {a.value('PRAGMA page_count') + 10}")
    for _ in range(2):
        assert "full" in a.error("SELECT cloudsync_network_sync()")
        assert not a.conn.in_transaction
        assert a.query("SELECT id FROM t") == [("1",)]
        assert a.integrity() == "ok"
    a.query("PRAGMA max_page_count = 100000")
    sync_until_still(a, b)
    assert_same("t", a, b)
    assert a.value("SELECT count(*) FROM t") == 5001


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_databases_in_other_encodings(server, device, encoding):
    a = device("a", server, f"PRAGMA encoding = '{encoding}';" + SCHEMA, ["t"])
    b = device("b", server, SCHEMA, ["t"])
    assert a.value("PRAGMA encoding") == encoding
    a.query("INSERT INTO t VALUES (?, ?)", "\u00e4\U0001f600", "with\0nul \uffff")
    b.query("INSERT INTO t VALUES (?, ?)", "\ue000", "\U0001f600")
    a.query("INSERT INTO t VALUES (?, ?)", "gone", "")
    sync_until_still(a, b)
    b.query("UPDATE t SET v = v || '!'")
    b.query("DELETE FROM t WHERE id = 'gone'")
    sync_until_still(a, b)
    rows = [device.query("SELECT id, v, typeof(v) FROM t ORDER BY id COLLATE BINARY") for device in (a, b)]
    assert sorted(rows[0]) == sorted(rows[1])
    assert len(rows[0]) == 2 and a.integrity() == b.integrity() == "ok"


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_a_copy_by_the_backup_api_goes_on_beside_the_original(server, device, tmp_path):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    a.script("INSERT INTO t VALUES ('1', 'x'), ('2', 'x')")
    sync_until_still(a, b)
    a.script("INSERT INTO t VALUES ('unsent', 'a'); UPDATE t SET v = 'unsent' WHERE id = '1'")
    copy = device("copy", extension=False)
    a.conn.backup(copy.conn)
    copy.close()
    copy = device("copy", server)
    for number in range(4):
        a.query("INSERT INTO t VALUES (?, 'a')", f"a{number}")
        copy.query("INSERT INTO t VALUES (?, 'copy')", f"copy{number}")
        (a if number % 2 else copy).sync()
        (copy if number % 2 else a).sync()
    sync_until_still(a, b, copy, rounds_max=10)
    assert_same("t", a, b, copy)
    assert a.value("SELECT count(*) FROM t") == 11
    assert a.value("SELECT cloudsync_siteid()") != copy.value("SELECT cloudsync_siteid()")


class Allocated(ctypes.Structure):
    """What `mallinfo2` of the C library tells."""

    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]


def held():
    """What this process holds: bytes that were allocated and not given back, open files, threads."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Allocated
    gc.collect()
    told, own = mallinfo2(), pathlib.Path("/proc/self")
    return told.uordblks + told.hblkhd, len(list((own / "fd").iterdir())), len(list((own / "task").iterdir()))


def assert_nothing_leaks(open_once, opens):
    for _ in range(opens // 10):
        open_once()
    before = held()
    for _ in range(opens):
        open_once()
    # A thread that ends takes a moment to be gone.
    until(lambda: held()[1:] <= before[1:], f"files and threads are those of before: {before}")
    assert held()[0] - before[0] < opens * LEAK_BYTES, "memory is lost with each connection"


def test_a_thousand_opens_leak_nothing(binding, library, tmp_path):
    path = tmp_path / "app.db"

    def open_once():
        device = Device(binding, path, library)
        device.query("PRAGMA synchronous = OFF")
        device.value("SELECT cloudsync_uuid()")
        device.value("SELECT length(cloudsync_status())")
        device.query("INSERT OR REPLACE INTO t VALUES ('1', 1)")
        device.value("SELECT length(cloudsync_payload_encode())")
        device.error("SELECT cloudsync_payload_apply(x'00')")
        device.close()

    device = Device(binding, path, library)
    device.script("CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v)")
    device.init("t")
    device.close()
    assert_nothing_leaks(open_once, 1000)


def test_opens_with_automatic_sync_leave_no_thread_and_no_socket(binding, library, server, tmp_path):
    path = tmp_path / "app.db"

    def open_once():
        device = Device(binding, path, library)
        device.connect(server)
        device.query("SELECT cloudsync_network_auto(1000)")
        device.sync()
        device.close()

    device = Device(binding, path, library)
    device.script(SCHEMA)
    device.init("t")
    device.close()
    assert_nothing_leaks(open_once, 200)
