"""Automatic sync: a thread of the app's own process that nobody has to think of."""

import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from devices import BINDINGS
from recovery import until

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT)"
# Where a listener is there, this is not needed; where none is, it keeps the tests short.
INTERVAL_MS = 200


def threads():
    """Names of the threads of this process that are ours."""
    names = []
    for task in pathlib.Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:
            pass  # It has ended meanwhile.
    return sorted(name for name in names if name.startswith("cloudsync-") and name != "cloudsync-http")


def auto(device):
    return device.status()["auto"]


def switch_on(device):
    device.query("SELECT cloudsync_network_auto(?)", INTERVAL_MS)


def add(device, key, body="x"):
    device.query("INSERT INTO notes VALUES (?, ?)", key, body)


def has(device, key):
    return device.query("SELECT 1 FROM notes WHERE id = ?", key) == [(1,)]


def arrives(device, key):
    until(lambda: has(device, key), f"the row {key}")


@pytest.fixture
def auto_device(device, server):
    """Opens a device that syncs by itself, in WAL mode unless told otherwise."""

    def open_device(name, mode="wal", **more):
        opened = device(name, **more)
        opened.query(f"PRAGMA journal_mode = {mode}")
        opened.query("PRAGMA busy_timeout = 10000")
        opened.script(SCHEMA)
        opened.init("notes")
        opened.connect(server)
        switch_on(opened)
        return opened

    return open_device


@pytest.fixture
def binding():
    """One library of the host's; what differs between them is tested in the first test."""
    return BINDINGS["sqlite3"]


# A script in another process: `open_device` gives a connection, `wait_for` waits for a row.
PRELUDE = """
import json, os, sqlite3, sys, threading, time
path, library, connection, key = sys.argv[1:5]
def open_device():
    conn = sqlite3.connect(path, isolation_level=None, timeout=30)
    conn.enable_load_extension(True)
    conn.load_extension(library)
    return conn
def status(conn):
    return json.loads(conn.execute("SELECT cloudsync_network_status()").fetchone()[0])["auto"]
def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        threading.Event().wait(0.005)
def start(conn):
    conn.execute("SELECT cloudsync_network_set_apikey(?)", (key,))
    conn.execute("SELECT cloudsync_network_auto(200)")
def add(conn, key):
    conn.execute("INSERT INTO notes VALUES (?, 'x')", (key,))
def wait_for(conn, key):
    until(lambda: conn.execute("SELECT 1 FROM notes WHERE id = ?", (key,)).fetchone())
"""


def run_script(device, server, library, script, **more):
    """Starts a script in another process, on the file of a device."""
    arguments = [device.path, library, server.connection, server.key]
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


def succeeds(process):
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("name", BINDINGS)
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_commits_arrive_by_themselves(auto_device, name, mode):
    one, two = (auto_device(which, mode, binding=BINDINGS[name]) for which in ("one", "two"))
    until(lambda: auto(one)["state"] == auto(two)["state"] == "listening", "a listener")
    add(one, "a")
    arrives(two, "a")
    two.query("UPDATE notes SET body = 'y'")
    until(lambda: one.query("SELECT body FROM notes") == [("y",)])
    one.query("DELETE FROM notes")
    until(lambda: two.query("SELECT * FROM notes") == [])
    status = json.loads(two.value("SELECT cloudsync_status()"))["auto"]
    assert status["on"] and status["interval_ms"] == INTERVAL_MS and status["last_error"] is None, status


def test_a_change_of_the_journal_mode_is_followed(auto_device):
    one, two = auto_device("one", "delete"), auto_device("two")
    add(one, "a")
    arrives(two, "a")
    # Any look of the thread may be in the way of the change for a moment.
    until(lambda: _try(one.conn, "PRAGMA journal_mode = wal"))
    assert one.value("PRAGMA journal_mode") == "wal"
    add(one, "b")
    arrives(two, "b")


def test_commits_of_other_processes_are_sent(auto_device, shell):
    one, two = auto_device("one"), auto_device("two")
    # The shell waits for nobody unless it is told to, and the first sync may be writing.
    insert = "INSERT INTO notes VALUES ('shell', 'x')"
    subprocess.run([shell, "-cmd", ".timeout 10000", one.path, insert], check=True, timeout=60)
    arrives(two, "shell")


def test_two_processes_on_one_file_do_not_fight(auto_device, server, library):
    one, two = auto_device("one"), auto_device("two")
    script = """
        conn = open_device()
        start(conn)
        for number in range(20):
            add(conn, f"theirs {number}")
        wait_for(conn, "ours 19")
        until(lambda: status(conn)["state"] in ("listening", "polling"))
        assert status(conn)["last_error"] is None, status(conn)
    """
    other = run_script(one, server, library, script)
    for number in range(20):
        add(one, f"ours {number}")
    succeeds(other)
    until(lambda: two.value("SELECT count(*) FROM notes") == 40, "forty rows")
    until(lambda: not one.has_unsent())
    assert one.rows("notes") == two.rows("notes")
    assert one.integrity() == "ok"


def test_it_is_offline_while_the_server_is_away_and_comes_back(auto_device, server):
    one, two = auto_device("one"), auto_device("two")
    until(lambda: auto(one)["state"] == "listening")
    server.kill()
    add(one, "a")
    status = until(lambda: auto(one)["state"] == "offline" and auto(one))
    assert status["next_try_at"] and "cannot reach the server" in status["last_error"], status
    server.restart()
    arrives(two, "a")
    until(lambda: auto(one)["state"] == "listening" and auto(one)["last_error"] is None)


def test_it_ends_with_the_last_connection_that_asked(auto_device, device, server):
    assert threads() == []
    one = auto_device("one")
    again = device("one")
    again.connect(server)
    until(lambda: threads() == ["cloudsync-auto", "cloudsync-event"], "one pair of threads")
    one.close()
    # A listener that begins anew may overlap with the one before for a moment.
    until(lambda: threads() == ["cloudsync-auto", "cloudsync-event"], "the threads that the other connection asked for")
    add(again, "a")
    until(lambda: not again.has_unsent())
    again.close()
    until(lambda: threads() == [], "the end of the threads")


def test_a_host_that_closes_is_not_held_up_by_a_server_that_hangs(auto_device, server):
    one = auto_device("one")
    until(lambda: auto(one)["state"] == "listening")
    server.process.send_signal(signal.SIGSTOP)
    try:
        add(one, "a")
        until(lambda: auto(one)["state"] == "syncing")
        begun = time.monotonic()
        one.close()
        assert time.monotonic() - begun < 2
        until(lambda: threads() == [], "the end of the threads")
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_zero_stops_it_for_good_and_everywhere(auto_device, device, server, library):
    one = auto_device("one")
    until(lambda: auto(one)["state"] == "listening")
    succeeds(run_script(one, server, library, "open_device().execute('SELECT cloudsync_network_auto(0)')"))
    until(lambda: threads() == [], "the end of the threads")
    assert auto(one) == {"on": False, "state": "off"}
    one.close()
    again = device("one")
    again.connect(server)
    assert threads() == [] and auto(again)["state"] == "off"
    switch_on(again)
    until(lambda: auto(again)["state"] == "listening")
    again.query("SELECT cloudsync_network_auto(0)")
    until(lambda: threads() == [])


def test_after_a_restart_it_waits_for_the_key(auto_device, device, server):
    one, two = auto_device("one"), auto_device("two")
    one.close()
    again = device("one")
    status = auto(again)
    assert status["state"] == "waiting for credentials" and "set_apikey" in status["remedy"], status
    until(lambda: threads() == ["cloudsync-auto", "cloudsync-event"], "those of the other device only")
    add(again, "a")
    again.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    arrives(two, "a")
    again.close()
    files = again.path.parent.glob("one.db*")
    assert not any(server.key.encode() in file.read_bytes() for file in files), "the key is on the disk"


def files_with_the_key(device, server):
    return [file for file in device.path.parent.glob("*.db*") if server.key.encode() in file.read_bytes()]


def test_a_key_that_the_app_wants_kept_is_there_after_a_restart(auto_device, device, server):
    one, two = auto_device("one"), auto_device("two")
    one.query("SELECT cloudsync_set('network_keep_key', 1)")
    assert files_with_the_key(one, server)
    one.close()
    again = device("one")
    add(again, "a")
    # Nothing but a look at the status tells the library of the connection.
    until(lambda: auto(again)["state"] == "listening")
    arrives(two, "a")
    add(two, "b")
    arrives(again, "b")
    again.query("SELECT cloudsync_set('network_keep_key', 0)")
    again.close()
    assert not files_with_the_key(again, server)
    again = device("one")
    assert auto(again)["state"] == "waiting for credentials"


@pytest.mark.parametrize("end", ["SELECT cloudsync_network_logout(1)", "SELECT cloudsync_network_cleanup()"])
def test_a_kept_key_goes_with_its_user_and_its_server(auto_device, device, server, end):
    one = auto_device("one")
    one.query("SELECT cloudsync_set('network_keep_key', 1)")
    assert files_with_the_key(one, server)
    until(lambda: auto(one)["state"] == "listening")
    one.query(end)
    one.close()
    assert not files_with_the_key(one, server)
    # What was there keeps nobody from writing another one.
    again = device("one")
    again.connect(server)
    assert files_with_the_key(again, server)


def test_a_refused_key_waits_for_another(auto_device, server):
    one, two = auto_device("one"), auto_device("two")
    until(lambda: auto(one)["state"] == "listening")
    key = server.run("key", "create").strip()
    one.query("SELECT cloudsync_network_set_apikey(?)", key)
    until(lambda: auto(one)["state"] == "listening")
    server.run("key", "revoke", key[:12])
    add(one, "a")
    status = until(lambda: auto(one)["state"] == "waiting for credentials" and auto(one))
    assert "refused the key" in status["last_error"], status
    one.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    arrives(two, "a")


def test_what_cannot_sync_by_itself_says_why(device, server, binding, library, tmp_path):
    call = "SELECT cloudsync_network_auto(1000)"
    for path in (":memory:", ""):
        memory = type(device("x"))(binding, path, library)
        memory.script(SCHEMA)
        memory.init("notes")
        memory.connect(server)
        assert "in memory or a temporary one cannot sync by itself" in memory.error(call)
        memory.close()
    one = device("one", schema=SCHEMA, tables=["notes"])
    assert "no server is known" in one.error(call)
    one.connect(server)
    one.query("BEGIN")
    assert "commit first" in one.error(call)
    one.query("ROLLBACK")
    for wrong in (-1, "x", None, 86_400_001):
        assert "interval_ms" in one.error("SELECT cloudsync_network_auto(?)", wrong)
    one.query("PRAGMA locking_mode = EXCLUSIVE")
    one.query("INSERT INTO notes VALUES ('a', 'x')")
    assert "PRAGMA locking_mode = NORMAL" in one.error(call)
    assert threads() == [] and auto(one)["state"] == "off"


def test_a_process_may_exit_at_any_time(auto_device, server, library):
    one = auto_device("one")
    starting = "conn = open_device(); start(conn)"
    succeeds(run_script(one, server, library, starting))
    writing = starting + "; until(lambda: status(conn)['state'] == 'listening'); add(conn, 'a')"
    succeeds(run_script(one, server, library, writing))
    server.process.send_signal(signal.SIGSTOP)
    try:
        hanging = starting + "; until(lambda: status(conn)['state'] == 'syncing')"
        begun = time.monotonic()
        succeeds(run_script(one, server, library, hanging))
        assert time.monotonic() - begun < 10, "it waited for the server"
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_a_killed_process_leaves_a_file_that_goes_on(auto_device, device, server, library):
    two = auto_device("two")
    one = device("one", server=server, schema=SCHEMA, tables=["notes"])
    one.query("PRAGMA journal_mode = wal")
    script = """
        conn = open_device()
        start(conn)
        for number in range(100000):
            add(conn, str(number))
            if number == 20:
                print("ready", flush=True)
    """
    killed = run_script(one, server, library, script)
    assert killed.stdout.readline() == "ready\n"
    killed.kill()
    killed.wait()
    assert one.integrity() == "ok"
    switch_on(one)
    until(lambda: not one.has_unsent())
    until(lambda: two.rows("notes") == one.rows("notes"), "equal rows")


def test_a_forked_child_has_threads_of_its_own(auto_device, server, library):
    two = auto_device("two")
    one = auto_device("one")
    one.close()
    script = """
        # SQLite's own rule: connections do not go through a fork, so the parent's is of another file.
        original, path = path, path + ".parent"
        parent = open_device()
        parent.execute("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT)")
        parent.execute("SELECT cloudsync_init('notes')")
        parent.execute("SELECT cloudsync_network_init(?)", (connection,))
        start(parent)
        until(lambda: status(parent)["state"] == "listening")
        child = os.fork()
        if child == 0:
            # The parent's threads are not here, and nothing waits for them.
            assert status(parent)["state"] == "waiting for credentials", status(parent)
            path = original
            conn = open_device()
            start(conn)
            add(conn, "child")
            until(lambda: status(conn)["state"] == "listening")
            wait_for(conn, "parent")
            conn.close()
            os._exit(0)
        wait_for(parent, "child")
        add(parent, "parent")
        _, code = os.waitpid(child, 0)
        assert code == 0, code
        assert status(parent)["state"] == "listening"
        parent.close()
    """
    succeeds(run_script(one, server, library, script))
    arrives(two, "child")
    arrives(two, "parent")


def test_a_file_that_is_removed_ends_it(auto_device):
    one = auto_device("one")
    until(lambda: auto(one)["state"] == "listening")
    for file in one.path.parent.glob("one.db*"):
        file.unlink()
    until(lambda: threads() == [], "the end of the threads")


def test_an_app_that_does_not_wait_for_locks_gets_on(auto_device):
    one, two = auto_device("one"), auto_device("two")
    hasty = sqlite3.connect(one.path, isolation_level=None, timeout=0)
    for number in range(200):
        # Our transactions are short: a lock that is held for long would be seen as many failures in a row.
        until(lambda: _try(hasty, f"INSERT INTO notes VALUES ('{number}', 'x')"))
    hasty.close()
    until(lambda: two.value("SELECT count(*) FROM notes") == 200)


# Longest time between two looks at a lock that counts as waiting for it.
LOOK_SECONDS_MAX = 0.05


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_large_first_download_locks_out_no_app_for_long(auto_device, device, server, mode):
    full = device("full")
    full.script(SCHEMA)
    full.init("notes")
    full.connect(server)
    full.script(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
        "INSERT INTO notes SELECT printf('%08d', i), 'body of ' || i FROM n"
    )
    full.sync()
    empty = auto_device("empty", mode)
    hasty = sqlite3.connect(empty.path, isolation_level=None, timeout=0)
    longest, waited, failures, attempts, last = 0.0, 0.0, 0, 0, time.monotonic()
    pulse = threading.Event()
    # The status is a reader, which may wait itself.
    while attempts % 50 or auto(empty)["syncs"] == 0:
        attempts += 1
        # While nobody looks the lock may be free: on a busy machine this process, too, has to wait for its turn.
        waited += min(time.monotonic() - last, LOOK_SECONDS_MAX)
        last = time.monotonic()
        if _try(hasty, "BEGIN IMMEDIATE"):
            # Without a WAL a reader may hold up the end of it, even of a transaction that wrote nothing.
            until(lambda: _try(hasty, "COMMIT"))
            longest, waited = max(longest, waited), 0.0
        else:
            failures += 1
        pulse.wait(0.001)
    hasty.close()
    print(f"{mode}: {attempts} attempts, {failures} failed, longest wait {longest * 1000:.0f} ms")
    # About 200 ms, also beside a load of 9 on 2 cores. One commit of all would take seconds.
    assert attempts > 20 and longest < 1
    assert empty.value("SELECT count(*) FROM notes") == 200_000


def test_syncs_without_news_write_nothing(auto_device, server):
    one = auto_device("one")
    until(lambda: auto(one)["state"] == "listening" and not one.has_unsent())

    def files():
        found = {path: path.stat() for path in one.path.parent.glob("one.db*") if path.suffix != ".db-shm"}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}

    before = files()
    for _ in range(3):
        syncs = auto(one)["syncs"]
        # A key that is set makes it sync at once.
        one.query("SELECT cloudsync_network_set_apikey(?)", server.key)
        until(lambda: auto(one)["syncs"] > syncs, "one more sync")
    assert files() == before


def _try(conn, sql):
    try:
        conn.execute(sql)
    except sqlite3.OperationalError as error:
        assert "locked" in str(error), error
        return False
    return True
