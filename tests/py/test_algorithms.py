"""The algorithms of tables: how rows live and die on two devices and a server."""

import sqlite3

import pytest

from devices import assert_same, sync_until_still
from test_merge import let_time_pass

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body BLOB, score REAL, gone TEXT);"
ROW = "INSERT INTO notes VALUES ('n', 'title', x'00ff', -0.0, NULL)"


@pytest.fixture
def pair_of(server, device):
    """Makes two devices whose table merges by an algorithm, and that hold the same row."""

    def make(algorithm, schema=SCHEMA, table="notes", row=ROW):
        devices = [device(name, server, schema) for name in "ab"]
        for each in devices:
            each.init(table, algorithm)
        devices[0].script(row)
        sync_until_still(*devices)
        assert_same(table, *devices)
        return devices

    return make


def edit_and_delete(a, b):
    """B deletes the row; A, who does not know, edits it later."""
    b.script("DELETE FROM notes")
    let_time_pass()
    a.script("UPDATE notes SET title = 'edited'")


@pytest.mark.parametrize("editor_syncs_first", [False, True])
def test_dws_a_deletion_wins_over_an_edit(pair_of, editor_syncs_first):
    a, b = pair_of("dws")
    edit_and_delete(a, b)
    sync_until_still(*([a, b] if editor_syncs_first else [b, a]))
    assert a.rows("notes") == b.rows("notes") == []
    b.script("INSERT INTO notes (id, title) VALUES ('n', 'again')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT title, body FROM notes") == [("again", None)]


def test_dws_an_insertion_that_has_not_seen_the_last_deletion_loses(pair_of):
    a, b = pair_of("dws")
    a.script("DELETE FROM notes")
    # A deletion is stamped when it is first looked at.
    a.query("SELECT cloudsync_payload_encode()")
    let_time_pass()
    b.script("DELETE FROM notes")
    b.query("SELECT cloudsync_payload_encode()")
    let_time_pass()
    a.script(ROW)
    sync_until_still(a, b)
    assert a.rows("notes") == b.rows("notes") == []


@pytest.mark.parametrize("editor_syncs_first", [False, True])
def test_aws_an_edit_that_the_deletion_had_not_seen_brings_the_row_back_whole(pair_of, editor_syncs_first):
    a, b = pair_of("aws")
    edit_and_delete(a, b)
    sync_until_still(*([a, b] if editor_syncs_first else [b, a]))
    assert_same("notes", a, b)
    expected = [("n", "edited", b"\x00\xff", 0.0, None)]
    assert a.query("SELECT * FROM notes") == b.query("SELECT * FROM notes") == expected


def test_aws_a_deletion_takes_what_it_had_seen(pair_of):
    a, b = pair_of("aws")
    a.script("UPDATE notes SET title = 'seen'")
    sync_until_still(a, b)
    b.script("DELETE FROM notes")
    sync_until_still(a, b)
    assert a.rows("notes") == b.rows("notes") == []
    a.script("INSERT INTO notes (id) VALUES ('n')")
    sync_until_still(a, b)
    assert b.query("SELECT id, title FROM notes") == [("n", None)]


def test_aws_a_device_that_joins_later_can_bring_the_row_back(pair_of, server, device):
    a, b = pair_of("aws")
    b.script("DELETE FROM notes")
    b.sync()
    c = device("c", server, SCHEMA)
    c.init("notes", "aws")
    c.sync()
    assert c.rows("notes") == []
    let_time_pass()
    a.script("UPDATE notes SET score = 1.5")
    sync_until_still(a, b, c)
    assert_same("notes", a, b, c)
    assert c.query("SELECT title, score FROM notes") == [("title", 1.5)]


def test_aws_deletions_by_a_plain_tool_keep_the_values(pair_of, device):
    a, b = pair_of("aws")
    plain = device("b", extension=False)
    plain.script("DELETE FROM notes")
    let_time_pass()
    a.script("UPDATE notes SET title = 'edited'")
    sync_until_still(b, a)
    assert_same("notes", a, b)
    assert b.query("SELECT title, body FROM notes") == [("edited", b"\x00\xff")]


def test_gos_rows_cannot_be_deleted(pair_of, device):
    a, b = pair_of("gos")
    for tool in (a, device("a", extension=False)):
        for sql in ("DELETE FROM notes", "UPDATE notes SET id = 'other'"):
            error = tool.error(sql)
            assert "cloudsync:" in error and 'grow-only table "notes"' in error
    a.script("INSERT OR REPLACE INTO notes (id, title) VALUES ('n', 'replaced')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT id, title, body FROM notes") == [("n", "replaced", None)]
    a.query("SELECT cloudsync_cleanup('notes')")
    a.script("DELETE FROM notes")


def test_gos_rows_thrown_out_by_replace_stay_for_everybody(pair_of):
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE);"
    a, b = pair_of("gos", schema, "users", "INSERT INTO users VALUES ('1', 'x@y')")
    b.script("INSERT OR REPLACE INTO users VALUES ('2', 'x@y')")
    sync_until_still(b, a)
    assert_same("users", a, b)
    # The server had the first one, and refuses another one with its address.
    assert a.query("SELECT id FROM users") == [("1",)]
    assert b.value("SELECT count(*) FROM cloudsync_rejected") == 1
    b.script("INSERT INTO users VALUES ('2', 'z@y')")
    sync_until_still(b, a)
    assert a.query("SELECT id FROM users ORDER BY id") == [("1",), ("2",)]


def test_gos_rows_that_replace_threw_out_on_the_server_are_kept_aside_everywhere(pair_of, server):
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE);"
    a, b = pair_of("gos", schema, "users", "INSERT INTO users VALUES ('1', 'x@y')")
    [path] = server.run("db", "path", server.database).splitlines()
    with sqlite3.connect(path, timeout=30) as conn:
        conn.execute("INSERT OR REPLACE INTO users VALUES ('2', 'x@y')")
    conn.close()
    sync_until_still(a, b)
    for each in (a, b):
        assert each.query("SELECT id FROM users") == [("2",)]
        assert each.value("SELECT count(*) FROM cloudsync_rejected") == 1


def test_devices_with_different_algorithms_are_told_so(pair_of, server, device):
    pair_of("aws")
    c = device("c", server, SCHEMA)
    c.init("notes", "dws")
    error = c.error("SELECT cloudsync_network_sync()")
    assert "notes" in error and "algorithm" in error and "aws" in error and "dws" in error


@pytest.mark.parametrize("algorithm", ["dws", "aws", "gos"])
def test_the_servers_table_is_switched_on_with_an_algorithm(server, device, algorithm):
    [path] = server.run("db", "path", server.database).splitlines()
    with sqlite3.connect(path, timeout=30) as conn:
        conn.execute(SCHEMA)
        conn.execute(ROW)
    conn.close()
    server.run("table", "enable", server.database, "notes", "--algorithm", algorithm)
    assert algorithm in server.run("table", "list", server.database)
    a = device("a", server, SCHEMA)
    a.init("notes", algorithm)
    sync_until_still(a)
    assert a.query("SELECT id, title FROM notes") == [("n", "title")]
    # What happens there by plain SQL follows the algorithm, too.
    with sqlite3.connect(path, timeout=30, isolation_level=None) as conn:
        if algorithm == "gos":
            with pytest.raises(sqlite3.IntegrityError, match="grow-only"):
                conn.execute("DELETE FROM notes")
        else:
            conn.execute("DELETE FROM notes")
    conn.close()
    let_time_pass()
    a.script("UPDATE notes SET title = 'edited'")
    sync_until_still(a)
    left = {"dws": [], "aws": [("n", "edited")], "gos": [("n", "edited")]}[algorithm]
    assert a.query("SELECT id, title FROM notes") == left
    with sqlite3.connect(path, timeout=30) as conn:
        assert conn.execute("SELECT id, title FROM notes").fetchall() == left
    conn.close()


def test_aws_a_refused_row_gives_way_to_the_dead_one_that_the_server_keeps(pair_of, server, device):
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE, name TEXT);"
    rows = "INSERT INTO users VALUES ('1', 'x@y', 'one'), ('2', 'y@y', 'two')"
    a, b = pair_of("aws", schema, "users", rows)
    c = device("c", server, schema)
    c.init("users", "aws")
    c.sync()
    b.script("DELETE FROM users WHERE id = '2'")
    b.sync()
    a.script("UPDATE users SET mail = 'w@y' WHERE id = '1'")
    a.sync()
    b.script("INSERT INTO users VALUES ('2', 'w@y', 'refused')")
    sync_until_still(b, a)
    assert_same("users", a, b)
    assert b.query("SELECT id, mail FROM users") == [("1", "w@y")]
    assert b.value("SELECT count(*) FROM cloudsync_rejected") == 1
    # What the deletion had not seen brings back what the server kept, also where another row was refused.
    let_time_pass()
    c.script("UPDATE users SET name = 'edited' WHERE id = '2'")
    sync_until_still(c, b, a)
    assert_same("users", a, b, c)
    assert b.query("SELECT * FROM users WHERE id = '2'") == [("2", "y@y", "edited")]


@pytest.mark.parametrize("algorithm", ["dws", "aws"])
def test_a_refused_edit_is_undone_and_the_row_lives_on(pair_of, server, device, algorithm):
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE, name TEXT);"
    rows = "INSERT INTO users VALUES ('1', 'x@y', 'one'), ('2', 'y@y', 'two')"
    a, b = pair_of(algorithm, schema, "users", rows)
    # The row has been dead before.
    a.script("DELETE FROM users WHERE id = '2'")
    sync_until_still(a, b)
    a.script("INSERT INTO users VALUES ('2', 'y@y', 'again')")
    sync_until_still(a, b)
    a.script("UPDATE users SET mail = 'z@y' WHERE id = '1'")
    b.script("UPDATE users SET mail = 'z@y', name = 'lost' WHERE id = '2'")
    sync_until_still(a, b)
    assert_same("users", a, b)
    assert b.query("SELECT * FROM users ORDER BY id") == [("1", "z@y", "one"), ("2", "y@y", "again")]
    b.script("UPDATE users SET name = 'kept' WHERE id = '2'; DELETE FROM users WHERE id = '1'")
    sync_until_still(b, a)
    assert_same("users", a, b)
    assert a.query("SELECT * FROM users") == [("2", "y@y", "kept")]
