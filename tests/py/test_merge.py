"""What becomes of concurrent edits."""

import time

import pytest

from devices import assert_same, sync_until_still

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT, stars INTEGER NOT NULL DEFAULT 0);"


@pytest.fixture
def pair(server, device):
    """Two devices that hold the same row."""
    a, b = (device(name, server, SCHEMA, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('n', 'title', 'body', 0)")
    sync_until_still(a, b)
    return a, b


def let_time_pass():
    """Waits until the clock that stamps edits has moved on: edits in one millisecond are a tie."""
    start = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 < start + 3:
        pass


def test_different_columns_both_stay(pair):
    a, b = pair
    a.script("UPDATE notes SET title = 'from A'")
    b.script("UPDATE notes SET body = 'from B'")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT * FROM notes") == [("n", "from A", "from B", 0)]


@pytest.mark.parametrize("later", ["from B", "", "0", None], ids=["text", "empty", "smaller", "null"])
@pytest.mark.parametrize("later_syncs_first", [False, True])
def test_in_one_column_the_later_edit_wins(pair, later, later_syncs_first):
    a, b = pair
    # More revisions must not beat a newer one.
    for number in range(5):
        a.query("UPDATE notes SET title = ?", f"from A {number}")
    let_time_pass()
    b.query("UPDATE notes SET title = ?", later)
    sync_until_still(*([b, a] if later_syncs_first else [a, b]))
    assert_same("notes", a, b)
    assert a.value("SELECT title FROM notes") == later


def test_equal_edits_are_no_conflict(pair):
    a, b = pair
    a.script("UPDATE notes SET title = 'same'")
    b.script("UPDATE notes SET title = 'same'")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.value("SELECT title FROM notes") == "same"


def test_a_delete_beats_a_concurrent_update(pair):
    a, b = pair
    a.script("DELETE FROM notes")
    let_time_pass()
    b.script("UPDATE notes SET title = 'too late'")
    sync_until_still(a, b)
    assert a.rows("notes") == b.rows("notes") == []


def test_a_row_that_is_deleted_and_inserted_again_lives(pair):
    a, b = pair
    a.script("DELETE FROM notes")
    sync_until_still(a, b)
    assert b.rows("notes") == []
    b.script("INSERT INTO notes (id, title) VALUES ('n', 'back')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT * FROM notes") == [("n", "back", None, 0)]
    a.script("DELETE FROM notes; INSERT INTO notes (id, body) VALUES ('n', 'at once')")
    sync_until_still(a, b)
    assert a.query("SELECT * FROM notes") == b.query("SELECT * FROM notes") == [("n", None, "at once", 0)]


def test_a_key_that_was_deleted_elsewhere_can_be_inserted_by_who_never_knew_it(server, device):
    notes = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)"
    a, b, c = (device(name, server, notes, ["notes"]) for name in "abc")
    b.sync()
    b.script("INSERT INTO notes VALUES ('about', 'before', 'offline')")
    a.script("INSERT INTO notes VALUES ('about', 'first', 'gone'), ('home', 'first', 'gone')")
    a.sync()
    a.script("DELETE FROM notes")
    a.sync()
    c.script("INSERT INTO notes VALUES ('home', 'after', 'never synced')")
    for late in (b, c):
        late.sync()
        assert len(late.rows("notes")) >= 1
        late.script("UPDATE notes SET title = 'edited' WHERE title IN ('before', 'after')")
    sync_until_still(a, b, c)
    assert_same("notes", a, b, c)
    assert a.query("SELECT * FROM notes ORDER BY id") == [
        ("about", "edited", "offline"),
        ("home", "edited", "never synced"),
    ]
    for late in (b, c):
        assert late.value("SELECT count(*) FROM cloudsync_conflicts") == 0
        assert late.value("SELECT count(*) FROM cloudsync_rejected") == 0
    a.script("DELETE FROM notes")
    sync_until_still(a, b, c)
    assert b.rows("notes") == c.rows("notes") == []


def test_insert_or_replace_replaces_the_whole_row(pair):
    a, b = pair
    a.script("INSERT OR REPLACE INTO notes (id, title) VALUES ('n', 'replaced')")
    sync_until_still(a, b)
    assert a.query("SELECT * FROM notes") == b.query("SELECT * FROM notes") == [("n", "replaced", None, 0)]


def test_yesterdays_replace_does_not_beat_todays_update(pair):
    a, b = pair
    a.script("INSERT OR REPLACE INTO notes VALUES ('n', 'replaced', 'body', 0)")
    let_time_pass()
    b.script("UPDATE notes SET title = 'updated'")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.value("SELECT title FROM notes") == "updated"


def test_rows_thrown_out_by_replace_are_gone_everywhere(server, device):
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, email TEXT UNIQUE COLLATE NOCASE);"
    a, b = (device(name, server, schema, ["users"]) for name in "ab")
    a.script("INSERT INTO users VALUES ('1', 'x@y'), ('2', 'z@y')")
    sync_until_still(a, b)
    a.script("INSERT OR REPLACE INTO users VALUES ('3', 'X@Y')")
    sync_until_still(a, b)
    assert a.query("SELECT id FROM users ORDER BY id") == [("2",), ("3",)]
    assert_same("users", a, b)
    b.script("UPDATE OR REPLACE users SET email = 'x@y' WHERE id = '2'")
    sync_until_still(a, b)
    assert a.query("SELECT * FROM users") == b.query("SELECT * FROM users") == [("2", "x@y")]


def test_concurrent_inserts_of_one_key_converge(server, device):
    a, b = (device(name, server, SCHEMA, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('same', 'A', 'A', 1)")
    let_time_pass()
    b.script("INSERT INTO notes VALUES ('same', 'B', 'B', 2)")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT * FROM notes") == [("same", "B", "B", 2)]


def test_what_is_rolled_back_is_not_sent(pair):
    a, b = pair
    a.script("BEGIN; UPDATE notes SET title = 'never'; INSERT INTO notes (id) VALUES ('never'); ROLLBACK")
    a.script("SAVEPOINT s; UPDATE notes SET body = 'never'; ROLLBACK TO s; UPDATE notes SET stars = 1; RELEASE s")
    sync_until_still(a, b)
    assert b.query("SELECT * FROM notes") == [("n", "title", "body", 1)]


def test_a_change_of_case_alone_is_a_change(server, device):
    schema = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT COLLATE NOCASE, u);"
    a, b = (device(name, server, schema, ["t"]) for name in "ab")
    a.script("INSERT INTO t VALUES ('1', 'abc', 1)")
    sync_until_still(a, b)
    a.script("UPDATE t SET v = 'ABC'")
    a.script("UPDATE t SET u = 1.0")
    sync_until_still(a, b)
    assert_same("t", a, b)
    assert b.query("SELECT v, typeof(u) FROM t") == [("ABC", "real")]


def test_edits_without_the_extension_sync(pair, device):
    a, b = pair
    plain = device("a", extension=False)
    plain.script(
        "UPDATE notes SET title = 'by a plain tool'; INSERT INTO notes (id) VALUES ('p');"
        "INSERT INTO notes (id, title) VALUES ('q', 'short life'); DELETE FROM notes WHERE id = 'q';"
    )
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT id, title FROM notes ORDER BY id") == [("n", "by a plain tool"), ("p", None)]


def test_edits_in_the_plain_shell_sync(pair, shell):
    import subprocess

    a, b = pair
    sql = "UPDATE notes SET body = 'by the shell'; DELETE FROM notes WHERE id = 'none';"
    subprocess.run([shell, "-bail", a.path, sql], check=True, stdin=subprocess.DEVNULL, timeout=60)
    sync_until_still(a, b)
    assert b.value("SELECT body FROM notes") == "by the shell"


def test_a_row_that_the_receiver_refuses_waits_and_blocks_nothing(server, device):
    a = device("a", server, "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER);", ["t"])
    b = device("b", server, "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v INTEGER);", ["t"])
    a.script("INSERT INTO t VALUES ('0', 0)")
    sync_until_still(a, b)
    # A rule that only one device has: its app's own trigger.
    b.script("CREATE TRIGGER small BEFORE INSERT ON t WHEN NEW.v > 9 BEGIN SELECT RAISE(ABORT, 'too large'); END")
    a.script("INSERT INTO t VALUES ('1', 1), ('2', 20), ('3', 3)")
    a.sync()
    b.sync()
    assert b.query("SELECT id FROM t ORDER BY id") == [("0",), ("1",), ("3",)]
    assert b.value("SELECT count(*) FROM cloudsync_quarantine") == 1
    a.script("INSERT INTO t VALUES ('4', 4)")
    a.sync()
    assert b.sync() >= 1
    b.script("DROP TRIGGER small")
    a.script("UPDATE t SET v = 5 WHERE id = '4'")
    a.sync()
    b.sync()
    assert_same("t", a, b)
    assert b.value("SELECT count(*) FROM cloudsync_quarantine") == 0


def test_disabled_tables_do_not_track(pair):
    a, b = pair
    a.query("SELECT cloudsync_disable('notes')")
    assert a.value("SELECT cloudsync_is_enabled('notes')") == 0
    a.script("UPDATE notes SET title = 'local only'")
    a.query("SELECT cloudsync_enable('notes')")
    assert a.value("SELECT cloudsync_is_enabled('notes')") == 1
    a.script("UPDATE notes SET body = 'sent'")
    sync_until_still(a, b)
    assert b.query("SELECT title, body FROM notes") == [("title", "sent")]


def test_cleanup_leaves_the_data_and_nothing_else(pair):
    a, b = pair
    a.query("SELECT cloudsync_cleanup('notes')")
    assert a.query("SELECT * FROM notes") == [("n", "title", "body", 0)]
    names = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'notes'"
    assert a.query(names) == []
    b.script("UPDATE notes SET title = 'newer'")
    b.sync()
    a.init("notes")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.value("SELECT title FROM notes") == "newer"


def test_fetching_everything_again_is_harmless(pair):
    a, b = pair
    a.script("UPDATE notes SET title = 'unsent'")
    b.script("INSERT INTO notes (id) VALUES ('more')")
    b.sync()
    a.query("SELECT cloudsync_network_reset_sync_version()")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT id, title FROM notes ORDER BY id") == [("more", None), ("n", "unsent")]
