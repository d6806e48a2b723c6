"""Tables change while they sync: by tools that know nothing of us, and by the bracket."""

import itertools
import json
import sqlite3
import subprocess

import pytest

from devices import assert_same, sync_until_still

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);"


def tool(device, sql):
    """Runs SQL as another program does that has never heard of us."""
    conn = sqlite3.connect(device.path, timeout=30, isolation_level=None)
    try:
        conn.executescript(sql)
    finally:
        conn.close()


@pytest.fixture
def pair(server, device):
    """Two devices that hold the same rows."""
    a, b = (device(name, server, NOTES, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('1', 't', 'b'), ('2', 't', 'b'), ('3', 't', 'b')")
    sync_until_still(a, b)
    return a, b


def test_a_column_is_added_by_any_tool(pair):
    a, b = pair
    version = a.value("SELECT cloudsync_db_version()")
    for one in pair:
        tool(one, "ALTER TABLE notes ADD COLUMN stars INTEGER NOT NULL DEFAULT 3; ALTER TABLE notes ADD COLUMN tag TEXT")
    # A change of the schema is no change of rows.
    assert (a.sync(), a.status()["sent"], a.value("SELECT cloudsync_db_version()")) == (0, 0, version)
    tool(a, "UPDATE notes SET stars = 5, title = 'both' WHERE id = '1'; UPDATE notes SET tag = 'x' WHERE id = '2'")
    a.script("UPDATE notes SET stars = stars + 1 WHERE id = '1'; INSERT INTO notes VALUES ('4', 'n', 'n', 1, 'y')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT id, title, stars, tag FROM notes ORDER BY id") == [
        ("1", "both", 6, None), ("2", "t", 3, "x"), ("3", "t", 3, None), ("4", "n", 1, "y"),
    ]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
def test_devices_with_three_versions_of_a_schema(server, device, order):
    # To version 2 a column is added; in version 3 another one is dropped.
    devices = {name: device(name, server, NOTES, ["notes"]) for name in "abc"}
    everyone = list(devices.values())
    devices["a"].script("INSERT INTO notes VALUES ('1', 't', 'b'), ('2', 't', 'b'), ('3', 't', 'b')")
    sync_until_still(*everyone)
    for number, name in enumerate(order):
        one = devices[name]
        if number > 0:
            tool(one, "ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'none'")
        if number > 1:
            one.query("SELECT cloudsync_begin_alter('notes')")
            tool(one, "ALTER TABLE notes DROP COLUMN body")
            one.query("SELECT cloudsync_commit_alter('notes')")
            one.script(f"UPDATE notes SET extra = 'by v3' WHERE id = '3'")
        one.script(f"UPDATE notes SET title = title || '{name}' WHERE id = '{number + 1}'")
        one.script(f"INSERT INTO notes (id, title) VALUES ('new {name}', '{name}')")
        sync_until_still(*everyone)
    v1, v2, v3 = (devices[name] for name in order)
    shared = [one.query("SELECT id, title FROM notes ORDER BY id") for one in everyone]
    assert shared[0] == shared[1] == shared[2]
    assert len(shared[0]) == 6 and shared[0][2] == ("3", "t" + order[2])
    assert v1.query("SELECT body FROM notes ORDER BY id") == v2.query("SELECT body FROM notes ORDER BY id")
    extra = "SELECT id, extra FROM notes ORDER BY id"
    assert v2.query(extra) == v3.query(extra)
    assert ("3", "by v3") in v2.query(extra)
    # All come to the last version.
    tool(v1, "ALTER TABLE notes ADD COLUMN extra TEXT DEFAULT 'none'")
    for one in (v1, v2):
        one.query("SELECT cloudsync_begin_alter('notes')")
        one.script("ALTER TABLE notes DROP COLUMN body")
        one.query("SELECT cloudsync_commit_alter('notes')")
    v1.script("UPDATE notes SET extra = 'by v1' WHERE id = '1'")
    sync_until_still(*everyone)
    assert_same("notes", *everyone)
    assert v3.value("SELECT extra FROM notes WHERE id = '1'") == "by v1"


def test_devices_rename_one_after_the_other(server, device, pair):
    a, b = pair
    tool(a, "ALTER TABLE notes RENAME COLUMN title TO headline")
    a.script("UPDATE notes SET headline = 'by a' WHERE id = '1'")
    sync_until_still(a, b)
    # A new device has the new name from the beginning.
    c = device("c", server, NOTES.replace("title", "headline"), ["notes"])
    sync_until_still(a, b, c)
    assert_same("notes", a, c)
    b.script("UPDATE notes SET title = 'by b' WHERE id = '2'")
    sync_until_still(a, b, c)
    assert b.query("SELECT title FROM notes ORDER BY id") == [("t",), ("by b",), ("t",)]
    tool(b, "ALTER TABLE notes RENAME COLUMN title TO headline")
    sync_until_still(b, a, c)
    assert_same("notes", a, b, c)
    assert a.query("SELECT headline FROM notes ORDER BY id") == [("by a",), ("by b",), ("t",)]
    # Offered once, and not for ever.
    assert (a.sync(), a.status()["sent"]) == (0, 0)


def test_a_rename_stamps_nothing(pair):
    a, b = pair
    before = a.query("SELECT tbl, pk, time, site_id, cl FROM cloudsync_changes ORDER BY pk, time, col_name")
    for one in pair:
        one.query("SELECT cloudsync_begin_alter('notes')")
        one.script("ALTER TABLE notes RENAME COLUMN title TO headline")
        one.query("SELECT cloudsync_commit_alter('notes')")
    sync_until_still(a, b)
    assert a.query("SELECT tbl, pk, time, site_id, cl FROM cloudsync_changes ORDER BY pk, time, col_name") == before
    assert_same("notes", a, b)


def test_a_table_is_renamed_by_any_tool(pair):
    a, b = pair
    for one in pair:
        tool(one, "ALTER TABLE notes RENAME TO articles")
    a.script("UPDATE articles SET title = 'by a' WHERE id = '1'; DELETE FROM articles WHERE id = '2'")
    sync_until_still(a, b)
    assert_same("articles", a, b)
    assert b.query("SELECT id, title FROM articles ORDER BY id") == [("1", "by a"), ("3", "t")]


def test_a_rebuild_by_the_shell_is_found_and_compared(pair, shell):
    a, b = pair
    b.script("UPDATE notes SET title = 'by b' WHERE id = '2'")
    b.sync()
    script = (
        "CREATE TABLE copy (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT, extra TEXT);"
        "INSERT INTO copy SELECT id, title, iif(id = '1', 'a rebuilt ' || body, body), NULL FROM notes WHERE id <> '3';"
        "INSERT INTO copy VALUES ('4', 'came', 'unseen', 'x'); DROP TABLE notes; ALTER TABLE copy RENAME TO notes;"
    )
    subprocess.run([shell, a.path], input=script, text=True, check=True)
    sync_until_still(a, b)
    rows = a.query("SELECT id, title, body FROM notes ORDER BY id")
    assert rows == b.query("SELECT id, title, body FROM notes ORDER BY id")
    # What went unseen is fetched, and not deleted for everybody.
    assert rows == [("1", "t", "a rebuilt b"), ("2", "by b", "b"), ("3", "t", "b"), ("4", "came", "unseen")]
    tool(b, "ALTER TABLE notes ADD COLUMN extra TEXT")
    sync_until_still(a, b)
    assert_same("notes", a, b)


def test_the_bracket_may_be_used_from_several_connections(pair, device, shell, binding):
    a, b = pair
    assert a.value("SELECT cloudsync_begin_alter('notes')") is None
    a.close()
    subprocess.run([shell, a.path], input="ALTER TABLE notes DROP COLUMN body;", text=True, check=True)
    again = device("a")
    assert json.loads(again.value("SELECT cloudsync_status()"))["altering"] == ["notes"]
    assert "cloudsync_commit_alter('notes')" in again.error("SELECT cloudsync_payload_encode()")
    again.value("SELECT cloudsync_commit_alter('notes')")
    again.script("UPDATE notes SET title = 'after' WHERE id = '1'")
    assert json.loads(again.value("SELECT cloudsync_status()"))["altering"] == []
    payload = again.value("SELECT cloudsync_payload_encode()")
    assert b.value("SELECT cloudsync_payload_apply(?)", payload) == 1
    assert b.query("SELECT * FROM notes WHERE id = '1'") == [("1", "after", "b")]


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_the_owner_alters_the_table_on_the_server(server, pair, library):
    a, b = pair
    [path] = server.run("db", "path", server.database).splitlines()
    with sqlite3.connect(path, timeout=30, isolation_level=None) as conn:
        conn.enable_load_extension(True)
        conn.load_extension(str(library))
        conn.execute("SELECT cloudsync_begin_alter('notes')")
        a.script("UPDATE notes SET title = 'by a' WHERE id = '1'")
        assert "busy" in a.error("SELECT cloudsync_network_sync()")
        conn.execute("ALTER TABLE notes ADD COLUMN extra TEXT")
        conn.execute("UPDATE notes SET body = 'by the owner' WHERE id = '2'")
        conn.execute("DELETE FROM notes WHERE id = '3'")
        conn.execute("SELECT cloudsync_commit_alter('notes')")
    conn.close()
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT * FROM notes ORDER BY id") == [("1", "by a", "b"), ("2", "t", "by the owner")]


def test_a_column_dropped_without_the_bracket(pair):
    a, b = pair
    assert "call cloudsync_begin_alter first" in a.error("ALTER TABLE notes DROP COLUMN body")
    tool(a, "PRAGMA legacy_alter_table = ON; ALTER TABLE notes DROP COLUMN body")
    assert "no such column" in a.error("UPDATE notes SET title = 'fails'")
    a.sync()
    a.script("UPDATE notes SET title = 'mended' WHERE id = '1'")
    sync_until_still(a, b)
    assert b.query("SELECT * FROM notes ORDER BY id") == [("1", "mended", "b"), ("2", "t", "b"), ("3", "t", "b")]


def test_a_table_made_again_is_fetched_and_never_deletes(pair):
    a, b = pair
    a.script("BEGIN; DROP TABLE notes; ROLLBACK")
    assert a.sync() == 0
    a.script("DROP TABLE notes")
    assert a.sync() == 0
    a.script("CREATE TABLE notes (extra TEXT DEFAULT 'd', title TEXT, id TEXT PRIMARY KEY NOT NULL)")
    a.script("INSERT INTO notes (id, title) VALUES ('4', 'new')")
    sync_until_still(a, b)
    rows = [("1", "t"), ("2", "t"), ("3", "t"), ("4", "new")]
    for one in pair:
        assert one.query("SELECT id, title FROM notes ORDER BY id") == rows
    # A dropped table in a transaction that is rolled back, with a turn in between.
    a.script("BEGIN; DROP TABLE notes; CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL)")
    assert "commit" in a.error("SELECT cloudsync_network_sync()")
    a.script("ROLLBACK; UPDATE notes SET title = 'after' WHERE id = '1'")
    sync_until_still(a, b)
    assert b.value("SELECT title FROM notes WHERE id = '1'") == "after"


def test_cascades_of_a_dropped_parent_are_real_deletions(server, device):
    schema = (
        "PRAGMA foreign_keys = ON; CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL);"
        "CREATE TABLE items (id TEXT PRIMARY KEY NOT NULL, list TEXT REFERENCES lists(id) ON DELETE CASCADE);"
    )
    a, b = (device(name, server, schema, ["lists", "items"]) for name in "ab")
    a.script("INSERT INTO lists VALUES ('l'); INSERT INTO items VALUES ('1', 'l'), ('2', NULL)")
    sync_until_still(a, b)
    warning = a.value("SELECT cloudsync_begin_alter('lists')")
    assert "foreign_keys is ON" in warning and '"items"' in warning
    a.script("DROP TABLE lists; CREATE TABLE lists (id TEXT PRIMARY KEY NOT NULL)")
    a.value("SELECT cloudsync_commit_alter('lists')")
    assert a.query("SELECT id FROM items") == [("2",)]
    sync_until_still(a, b)
    # The list itself was lost with the table and comes back; what SQLite did to its items was captured.
    for one in (a, b):
        assert one.query("SELECT id FROM lists") == [("l",)]
        assert one.query("SELECT id FROM items") == [("2",)]


def test_cleanup_and_init_bring_nothing_back(pair):
    a, b = pair
    a.value("SELECT cloudsync_cleanup('notes')")
    a.script("UPDATE notes SET title = 'untracked', body = 'untracked'; INSERT INTO notes VALUES ('4', 'own', 'own')")
    b.script("DELETE FROM notes WHERE id = '1'; UPDATE notes SET title = 'newer' WHERE id = '2'")
    b.sync()
    a.init("notes")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT * FROM notes ORDER BY id") == [("2", "newer", "b"), ("3", "t", "b"), ("4", "own", "own")]
    a.script("UPDATE notes SET title = 'tracked' WHERE id = '3'")
    sync_until_still(a, b)
    assert b.value("SELECT title FROM notes WHERE id = '3'") == "tracked"


@pytest.mark.parametrize("begin, back", [("BEGIN", "ROLLBACK"), ("SAVEPOINT s", "ROLLBACK TO s; RELEASE s")])
def test_whatever_is_rolled_back_can_be_done_again(pair, begin, back):
    a, b = pair
    steps = [
        ["SELECT cloudsync_cleanup('notes')", "SELECT cloudsync_init('notes')"],
        ["SELECT cloudsync_cleanup('*')"],
        ["SELECT cloudsync_disable('notes')"],
        ["SELECT cloudsync_disable('notes')", "SELECT cloudsync_enable('notes')"],
        ["SELECT cloudsync_set('busy_ms', 77)"],
        ["SELECT cloudsync_begin_alter('notes')"],
        ["SELECT cloudsync_begin_alter('notes')", "ALTER TABLE notes RENAME body TO b",
         "SELECT cloudsync_commit_alter('notes')"],
        ["ALTER TABLE notes RENAME body TO b", "SELECT cloudsync_status()"],
        ["CREATE TABLE more (id TEXT PRIMARY KEY NOT NULL)", "SELECT cloudsync_init('more')",
         "INSERT INTO more VALUES ('x')"],
    ]
    site = a.value("SELECT cloudsync_siteid()")
    for number, step in enumerate(steps):
        a.script(begin)
        for sql in [*step, "INSERT INTO notes (id) VALUES ('undone')"]:
            a.query(sql)
        a.script(f"{back}; UPDATE notes SET title = 'after {number}' WHERE id = '1'")
        b.script(f"UPDATE notes SET body = 'after {number}' WHERE id = '1'")
        assert a.value("SELECT cloudsync_siteid()") == site
        sync_until_still(a, b)
        assert_same("notes", a, b)
        assert b.query("SELECT * FROM notes WHERE id = '1'") == [("1", f"after {number}", f"after {number}")]
    assert a.value("SELECT cloudsync_get('busy_ms')") == "5000"
    a.query("SELECT cloudsync_begin_alter('notes')")
    a.script(f"{begin}; ALTER TABLE notes RENAME body TO b")
    a.query("SELECT cloudsync_commit_alter('notes')")
    a.script(back)
    a.query("SELECT cloudsync_commit_alter('notes')")
    sync_until_still(a, b)
    assert_same("notes", a, b)


@pytest.mark.parametrize("other, names", [
    (NOTES.replace("body TEXT", "body INTEGER"), ["body TEXT", "body INTEGER"]),
    (NOTES.replace("body TEXT", "body TEXT COLLATE NOCASE"), ["COLLATE NOCASE"]),
    (NOTES.replace("id TEXT PRIMARY KEY NOT NULL", "id TEXT, k TEXT PRIMARY KEY NOT NULL"), ["primary key"]),
], ids=["type", "collation", "key"])
def test_what_means_other_bytes_is_refused_with_both_definitions(server, pair, device, other, names):
    c = device("c", server, other, ["notes"])
    error = c.error("SELECT cloudsync_network_sync()")
    for name in ['"notes"', *names]:
        assert name in error


def test_what_comes_before_its_table_is_kept(server, device):
    a = device("a", server, "CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, name TEXT);" + NOTES, ["notes", "tags"])
    b = device("b", server, NOTES.replace(", body TEXT", ""), ["notes"])
    a.script("INSERT INTO notes VALUES ('1', 't', 'b'); INSERT INTO tags VALUES ('1', 'red'), ('2', 'blue')")
    sync_until_still(a, b)
    a.script("UPDATE notes SET body = 'later'; DELETE FROM tags WHERE id = '1'")
    sync_until_still(a, b)
    assert json.loads(b.value("SELECT cloudsync_status()"))["kept_bytes"] > 0
    tool(b, "ALTER TABLE notes ADD COLUMN body TEXT; CREATE TABLE tags (id TEXT PRIMARY KEY NOT NULL, name TEXT)")
    b.init("tags")
    # Without the server, and without asking it again.
    assert b.query("SELECT * FROM notes") == [("1", "t", "later")]
    assert b.query("SELECT * FROM tags") == [("2", "blue")]
    assert json.loads(b.value("SELECT cloudsync_status()"))["kept_bytes"] == 0
    assert b.sync() == 0
    assert_same("notes", a, b)
    assert_same("tags", a, b)


def test_many_columns_and_one(server, device):
    columns = ", ".join(f"c{number} TEXT" for number in range(499))
    schema = f"CREATE TABLE wide (id TEXT PRIMARY KEY NOT NULL, {columns}); CREATE TABLE thin (id TEXT PRIMARY KEY NOT NULL);"
    a, b = (device(name, server, schema, ["wide", "thin"]) for name in "ab")
    a.script("INSERT INTO wide (id, c0, c100, c498) VALUES ('1', 'a', 'b', 'c'); INSERT INTO thin VALUES ('1'), ('2')")
    sync_until_still(a, b)
    for one in (a, b):
        tool(one, "ALTER TABLE wide RENAME COLUMN c100 TO hundred; ALTER TABLE wide ADD COLUMN c499 TEXT DEFAULT 'd';"
                  "ALTER TABLE thin RENAME COLUMN id TO name; ALTER TABLE thin ADD COLUMN more TEXT")
    # Names of keys are compared, so the server must be told as well.
    [path] = server.run("db", "path", server.database).splitlines()
    with sqlite3.connect(path, timeout=30) as conn:
        conn.execute("ALTER TABLE thin RENAME COLUMN id TO name")
    conn.close()
    a.script("UPDATE wide SET hundred = 'x', c498 = 'y', c499 = 'z'; UPDATE thin SET more = 'm' WHERE name = '1'")
    b.script("DELETE FROM thin WHERE name = '2'")
    sync_until_still(a, b)
    assert_same("wide", a, b)
    assert_same("thin", a, b)
    assert b.query("SELECT c0, hundred, c498, c499 FROM wide") == [("a", "x", "y", "z")]
    assert b.query("SELECT * FROM thin") == [("1", "m")]
