"""Row filters, with the shipped library, a server, and programs that do not have the library."""

import re
import sqlite3

import pytest

from devices import assert_same, sync_until_still

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, public INTEGER);"


@pytest.fixture
def pair(server, device):
    return tuple(device(name, server, SCHEMA, ["notes"]) for name in "ab")


def ids(device):
    return [row[0] for row in device.query("SELECT id FROM notes ORDER BY id")]


def on_server(server):
    """Every byte of the server's folder that could hold a value."""
    return b"".join(path.read_bytes() for path in server.data.rglob("*") if path.is_file())


def test_only_rows_inside_leave_the_device(server, pair):
    a, b = pair
    assert a.value("SELECT cloudsync_set_filter('notes', 'public = 1')") == 1
    a.query("INSERT INTO notes VALUES ('1', 'shared', 1), ('2', 'my-private-text', 0), ('3', 'my-private-null', NULL)")
    sync_until_still(a, b)
    assert ids(b) == ["1"]
    a.query("UPDATE notes SET public = 0, title = 'my-private-again' WHERE id = '1'")
    a.query("UPDATE notes SET public = 1, title = 'shown' WHERE id = '2'")
    sync_until_still(a, b)
    assert ids(b) == ["2"]
    assert ids(a) == ["1", "2", "3"]
    assert b"my-private" not in on_server(server)
    assert b"shown" in on_server(server)
    assert a.value("SELECT cloudsync_clear_filter('notes')") == 1
    sync_until_still(a, b)
    assert_same("notes", a, b)


def test_setting_and_clearing_removes_nothing_and_lets_edits_win(pair):
    a, b = pair
    a.query("INSERT INTO notes VALUES ('1', 'one', 0), ('2', 'two', 0), ('3', 'three', 1)")
    sync_until_still(a, b)
    a.query("DELETE FROM notes WHERE id = '3'")
    sync_until_still(a, b)
    a.query("SELECT cloudsync_set_filter('notes', 'public = 1')")
    assert a.sync() == 0 and a.status()["sent"] == 0
    b.query("UPDATE notes SET title = 'newest' WHERE id = '1'")
    a.query("SELECT cloudsync_clear_filter('notes')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT title FROM notes ORDER BY id") == [("newest",), ("two",)]


def test_a_row_that_was_unsent_when_the_filter_came_is_sent_when_it_goes(pair):
    a, b = pair
    a.query("INSERT INTO notes VALUES ('1', 'one', 0)")
    a.query("SELECT cloudsync_db_version(), * FROM cloudsync_changes")
    a.query("SELECT cloudsync_set_filter('notes', 'public = 1')")
    sync_until_still(a, b)
    assert ids(b) == []
    a.query("SELECT cloudsync_clear_filter('notes')")
    sync_until_still(a, b)
    a.query("UPDATE notes SET title = 'edited'")
    sync_until_still(a, b)
    assert_same("notes", a, b)


def test_rows_of_others_that_stay_outside_are_not_sent_back(pair):
    a, b = pair
    a.query("SELECT cloudsync_set_filter('notes', 'title LIKE ''a%''')")
    b.query("INSERT INTO notes VALUES ('b', 'b', 1)")
    sync_until_still(a, b)
    assert ids(a) == ["b"]
    a.query("UPDATE notes SET title = 'mine alone'")
    sync_until_still(a, b)
    assert b.query("SELECT title FROM notes") == [("b",)]
    b.query("UPDATE notes SET title = 'b again'")
    sync_until_still(a, b)
    assert a.query("SELECT title FROM notes") == [("b again",)]
    assert a.query("SELECT col_value FROM cloudsync_conflicts") == [("mine alone",)]


def test_programs_without_the_library_write_under_the_filter(pair, device):
    a, b = pair
    a.query("SELECT cloudsync_set_filter('notes', 'public = ''1'' AND title <> ''x''')")
    plain = device("a", extension=False)
    plain.script(
        "INSERT INTO notes VALUES ('1', 'in', 1), ('2', 'out', 0), ('3', 'x', 1);"
        "UPDATE notes SET title = 'now in' WHERE id = '3';"
        "UPDATE notes SET public = 0 WHERE id = '1'; UPDATE notes SET public = 1 WHERE id = '1';"
    )
    sync_until_still(a, b)
    assert ids(b) == ["1", "3"]
    plain.script("DELETE FROM notes WHERE id = '3'; INSERT OR REPLACE INTO notes VALUES ('1', 'out', 0);")
    sync_until_still(a, b)
    assert ids(b) == []


def test_what_a_filter_may_say_and_where_it_is_shown(pair):
    a, _ = pair
    for expression, reason in [
        ("nobody = 1", 'no column "nobody"'),
        ("title = \"x\"", 'no column "x"'),
        ("random() < 0", "random()"),
        ("id IN (SELECT 1)", "subquery"),
        ("title > datetime('now')", "datetime()"),
        ("1; DROP TABLE notes", "character"),
        ("", "empty"),
    ]:
        error = a.error("SELECT cloudsync_set_filter('notes', ?)", expression)
        assert "cloudsync_set_filter" in error and reason in error, error
    assert "does not sync" in a.error("SELECT cloudsync_set_filter('other', '1')")
    assert "takes 2 arguments" in a.error("SELECT cloudsync_set_filter('notes')")
    a.query("SELECT cloudsync_set_filter('notes', 'public = 1')")
    assert re.search(r'"filter": ?"public = 1"', a.value("SELECT cloudsync_status()"))


def test_a_row_that_may_not_leave_the_server_stays_private(server, pair):
    a, b = pair
    a.query("SELECT cloudsync_set_filter('notes', 'public = 1')")
    a.query("INSERT INTO notes VALUES ('1', 'shared', 1)")
    sync_until_still(a, b)
    [path] = server.data.glob("databases/*.db")
    with sqlite3.connect(path, timeout=30) as owner:
        owner.execute("CREATE TRIGGER kept BEFORE DELETE ON notes BEGIN SELECT RAISE(ABORT, 'kept'); END")
    owner.close()
    a.query("UPDATE notes SET public = 0, title = 'mine alone'")
    sync_until_still(a, b)
    assert a.query("SELECT * FROM notes") == [("1", "mine alone", 0)]
    assert b.query("SELECT * FROM notes") == [("1", "shared", 1)]
    assert "kept" in a.value("SELECT reason FROM cloudsync_rejected")
    a.query("SELECT cloudsync_clear_filter('notes')")
    sync_until_still(a, b)
    assert b.query("SELECT * FROM notes") == [("1", "mine alone", 0)]
