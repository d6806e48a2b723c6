"""Backups taken while devices sync, and what devices make of a server that was restored from one."""

import sqlite3
import threading
import time

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL DEFAULT '', n INTEGER)"
WAIT_SECONDS_MAX = 30


def settle(*devices):
    for _ in range(4):
        for device in devices:
            device.sync()


def plain(device):
    return device.query("SELECT id, v, n FROM t ORDER BY id")


def rows(server):
    path = server.run("db", "path", server.database).strip()
    conn = sqlite3.connect(path)
    try:
        return conn.execute("SELECT id, v, n FROM t ORDER BY id").fetchall()
    finally:
        conn.close()


def test_a_restored_database_gets_back_what_devices_hold(server, device, tmp_path):
    one, two, gone = (device(name, server, SCHEMA, ["t"]) for name in ("one", "two", "gone"))
    one.query("INSERT INTO t VALUES ('kept', 'old', 1), ('edited', 'old', 1), ('deleted', 'old', 1)")
    settle(one, two, gone)
    copy = tmp_path / "copy.db"
    server.run("db", "backup", server.database, copy)
    # After the backup: an insert, an edit and a deletion by a device that never comes back, known to others.
    gone.query("INSERT INTO t VALUES ('new', 'of gone', 2)")
    gone.query("UPDATE t SET v = 'edited' WHERE id = 'edited'")
    gone.query("DELETE FROM t WHERE id = 'deleted'")
    settle(gone, one, two)
    gone.close()
    before = plain(one)
    # Not sent yet when the server is restored.
    two.query("INSERT INTO t VALUES ('unsent', 'of two', 3)")
    server.run("db", "restore", server.database, copy, "--while-serving")
    assert [row[0] for row in rows(server)] == ["deleted", "edited", "kept"]
    settle(one, two)
    expected = sorted([*before, ("unsent", "of two", 3)])
    assert plain(one) == plain(two) == expected
    assert rows(server) == expected
    late = device("late", server, SCHEMA, ["t"])
    settle(late)
    assert plain(late) == expected
    assert one.has_unsent() == two.has_unsent() == 0


def test_automatic_sync_goes_on_across_a_restore(server, device, tmp_path):
    one, two = (device(name, server, SCHEMA, ["t"]) for name in ("one", "two"))
    one.query("INSERT INTO t VALUES ('first', 'x', 1)")
    settle(one, two)
    copy = tmp_path / "copy.db"
    server.run("db", "backup", server.database, copy)
    for each in (one, two):
        each.query("SELECT cloudsync_network_auto(1000)")
    one.query("INSERT INTO t VALUES ('second', 'x', 2)")
    server.run("db", "restore", server.database, copy, "--while-serving")
    one.query("INSERT INTO t VALUES ('third', 'x', 3)")
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while len(two.rows("t")) != 3 or len(rows(server)) != 3:
        assert time.monotonic() < deadline, (two.rows("t"), rows(server))
        time.sleep(0.05)
    for each in (one, two):
        each.query("SELECT cloudsync_network_auto(0)")


def test_a_backup_under_load_is_whole_and_begins_another_database(server, device, tmp_path):
    one = device("one", server, SCHEMA, ["t"])
    one.query("INSERT INTO t VALUES ('0', 'x', 0)")
    one.sync()
    stop, copies = threading.Event(), [tmp_path / f"copy{number}.db" for number in range(3)]
    failures = []

    def take():
        try:
            for copy in copies:
                server.run("db", "backup", server.database, copy)
        except Exception as error:  # Told by the main thread.
            failures.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=take)
    thread.start()
    count = 0
    while not stop.is_set():
        # A batch is one commit on the server: a copy has all of it or nothing.
        one.script("BEGIN")
        for number in range(100):
            one.query("INSERT INTO t VALUES (?, hex(randomblob(500)), ?)", f"{count}-{number}", count)
        one.script("COMMIT")
        one.sync()
        count += 1
    thread.join()
    assert not failures
    for copy in copies:
        conn = sqlite3.connect(copy)
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counts = conn.execute("SELECT count(*) FROM t WHERE id <> '0' GROUP BY n").fetchall()
        assert set(counts) <= {(100,)}
        held = conn.execute("SELECT count(*) FROM t").fetchone()[0]
        conn.close()
    server.run("db", "restore", "another", copies[-1], "--while-serving")
    other = device("other", None, SCHEMA, ["t"])
    other.query("SELECT cloudsync_network_init(?)", f"cloudsync://127.0.0.1:{server.port}/another")
    other.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    settle(other)
    assert len(other.rows("t")) == held
