"""The server as its owner meets it: one folder, one port, ordinary files."""

import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from devices import assert_same, sync_until_still
from recovery import recovering

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT);"

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


def refused(program, data, address):
    """Starts a server that cannot start; gives the line that it leaves."""
    done = subprocess.run(
        [program, "serve", "--dev", "my_database", "--data-dir", data, "--addr", address],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode not in (0, 101), done.stderr
    [line] = done.stderr.strip().splitlines()
    return line


def test_two_servers_on_one_folder(server, program, binding):
    assert str(server.data) in refused(program, server.data, "127.0.0.1:0")


def test_a_port_that_is_used(server, program, tmp_path, binding):
    assert f"127.0.0.1:{server.port}" in refused(program, tmp_path / "other", f"127.0.0.1:{server.port}")


def test_a_folder_that_cannot_be_written(program, tmp_path, binding):
    # Below a file nobody can create a folder, not even root.
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in refused(program, file / "data", "127.0.0.1:0")


def test_the_key_is_not_stored(server, device):
    """But for the one that `serve --dev` shows again, in a file that only its user can read."""
    a = device("a", server, SCHEMA, ["t"])
    a.sync()
    for file in server.data.rglob("*"):
        if file.name == "dev-key":
            assert file.stat().st_mode & 0o077 == 0
        elif file.is_file():
            assert server.key.encode() not in file.read_bytes(), file
    for file in a.path.parent.glob("a.db*"):
        assert server.key.encode() not in file.read_bytes(), file


def test_rows_written_on_the_server_by_a_plain_tool_arrive(server, device):
    a = device("a", server, SCHEMA, ["t"])
    a.script("INSERT INTO t VALUES ('1', 'from A'), ('2', 'to delete')")
    a.sync()
    [path] = server.run("db", "path", server.database).splitlines()
    with sqlite3.connect(path, timeout=30) as conn:
        assert conn.execute("SELECT v FROM t WHERE id = '1'").fetchall() == [("from A",)]
        conn.execute("INSERT INTO t VALUES ('3', 'from the server')")
        conn.execute("UPDATE t SET v = 'edited on the server' WHERE id = '1'")
        conn.execute("DELETE FROM t WHERE id = '2'")
    conn.close()
    assert a.sync() == 3
    assert a.query("SELECT * FROM t ORDER BY id") == [("1", "edited on the server"), ("3", "from the server")]


def test_a_schema_that_differs_is_named(server, device):
    a = device("a", server, SCHEMA, ["t"])
    a.script("INSERT INTO t VALUES ('1', 'x')")
    a.sync()
    b = device("b", server, "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER);", ["t"])
    b.script("INSERT INTO t VALUES ('2', 2)")
    text = b.error("SELECT cloudsync_network_sync()")
    for expected in ("t", "v", "TEXT", "INTEGER"):
        assert expected in text
    assert b.query("SELECT * FROM t") == [("2", 2)]
    assert b.has_unsent() == 1
    c = device("c", server, SCHEMA, ["t"])
    sync_until_still(a, c)
    assert_same("t", a, c)


def test_an_idle_sync_writes_nothing(server, device):
    """Neither on the device nor on the server."""
    a = device("a", server, SCHEMA, ["t"])
    a.script("PRAGMA journal_mode = WAL; INSERT INTO t VALUES ('1', 'row')")
    sync_until_still(a)
    database = Path(server.run("db", "path", server.database).strip())
    # Shared memory (-shm) holds locks and is no file content.
    files = [file for path in (a.path, database) for file in (path, Path(f"{path}-wal"))]
    before = [file.read_bytes() if file.exists() else None for file in files]
    for _ in range(3):
        assert a.sync() == 0
    assert [file.read_bytes() if file.exists() else None for file in files] == before


def test_a_level_of_the_log_that_does_not_exist(program, tmp_path, binding):
    done = subprocess.run(
        [program, "serve", "--log", "loud", "--data-dir", tmp_path / "other", "--addr", "127.0.0.1:0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert "loud" in line and "debug" in line


def test_many_tables_join_at_once(server, device):
    # Work that grows with the square of the tables would take minutes, and the device would give up first.
    names = [f"t{number}" for number in range(1000)]
    schema = "BEGIN;" + "".join(f"CREATE TABLE {name} (id TEXT PRIMARY KEY NOT NULL, v TEXT);" for name in names)
    a, b = (device(name, server, schema + "COMMIT;") for name in "ab")
    started = time.monotonic()
    for each in (a, b):
        each.init("*")
    a.script("BEGIN;" + "".join(f"INSERT INTO {name} VALUES ('1', '{name}');" for name in names) + "COMMIT;")
    assert a.sync() == 0
    assert b.sync() == len(names)
    assert time.monotonic() - started < 60
    for name in names[::100]:
        assert_same(name, a, b)
    a.script("ALTER TABLE t7 ADD COLUMN w TEXT; UPDATE t7 SET w = 'new'")
    b.script("ALTER TABLE t7 ADD COLUMN w TEXT")
    sync_until_still(a, b)
    assert b.query("SELECT * FROM t7") == [("1", "t7", "new")]


@pytest.mark.parametrize("made_again", [True, False])
def test_a_table_dropped_on_the_server_comes_back_from_the_devices(server, device, made_again):
    """Dropping a table is not deleting its rows, here as on devices."""
    a, b = (device(name, server, SCHEMA, ["t"]) for name in "ab")
    a.script("INSERT INTO t VALUES ('1', 'x'), ('2', 'y'), ('deleted', '')")
    sync_until_still(a, b)
    b.script("DELETE FROM t WHERE id = 'deleted'")
    sync_until_still(a, b)
    [path] = server.run("db", "path", server.database).splitlines()
    with sqlite3.connect(path, timeout=30) as conn:
        conn.execute("DROP TABLE t")
        if made_again:
            conn.execute(SCHEMA)
    conn.close()
    b.script("INSERT INTO t VALUES ('3', 'z')")
    sync_until_still(b, a)
    c = device("c", server, SCHEMA, ["t"])
    sync_until_still(c)
    assert_same("t", a, b, c)
    assert c.value("SELECT count(*) FROM t") == 3


@pytest.mark.parametrize("what", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_database_that_is_removed_or_replaced_under_the_server(server, device, what, how):
    """Nothing is acknowledged that would be in a file without a name, until the owner has put it right."""
    ledger, a, b = recovering(server, device, "a", "b")
    ledger.put(a, "before", "acknowledged")
    a.sync()
    ledger.note_acknowledged(a)
    file = server.data / "databases" / f"{server.database}.db{what}"
    aside = server.data / "aside"
    file.rename(aside)
    if how == "replaced":
        shutil.copy(aside, file)
    ledger.put(a, "while it was gone", "x")
    for attempt in range(3):
        assert "HTTP 500" in a.error("SELECT cloudsync_network_sync()")
        assert "HTTP 500" in b.error("SELECT cloudsync_network_check_changes()")
        assert a.has_unsent() == 1
        if attempt == 1:
            # What was read meanwhile may have been anything: a restart is asked for.
            aside.rename(file)
    server.kill()
    server.restart()
    ledger.assert_recovered(a, b)
