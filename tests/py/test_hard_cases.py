"""Where sync goes wrong elsewhere: one test for each way, over the shipped library, files and a real server."""

import json
import shutil
import sqlite3

import pytest

from devices import LIBRARY_ERRORS, Device, assert_same, sync_until_still
from test_merge import let_time_pass

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);"


def carry(sender, *receivers):
    """Everything that one device knows, by hand."""
    payload = sender.value("SELECT cloudsync_payload_encode()")
    for receiver in receivers:
        receiver.value("SELECT cloudsync_payload_apply(?)", payload)


def waiting(device):
    return device.query("SELECT tbl, reason FROM cloudsync_quarantine")


def test_01_composite_keys_declared_in_another_order(server, device):
    schema = "CREATE TABLE seats (tenant TEXT, at INTEGER, room TEXT, v TEXT, PRIMARY KEY (room, at, tenant));"
    a, b = (device(name, server, schema, ["seats"]) for name in "ab")
    a.script("INSERT INTO seats VALUES ('acme', 1, 'blue', 'x'), ('acme', 2, 'blue', 'y'), ('blue', 1, 'acme', 'z')")
    sync_until_still(a, b)
    assert sorted(b.query("SELECT * FROM seats")) == [
        ("acme", 1, "blue", "x"),
        ("acme", 2, "blue", "y"),
        ("blue", 1, "acme", "z"),
    ]
    b.script("UPDATE seats SET v = 'moved' WHERE room = 'blue' AND at = 2; DELETE FROM seats WHERE tenant = 'blue'")
    sync_until_still(a, b)
    assert_same("seats", a, b)
    assert sorted(a.query("SELECT room, at, tenant, v FROM seats")) == [
        ("blue", 1, "acme", "x"),
        ("blue", 2, "acme", "moved"),
    ]


def test_02_a_unique_collision_overwrites_no_other_row(server, device):
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, email TEXT UNIQUE, name TEXT);"
    a, b = (device(name, server, schema, ["users"]) for name in "ab")
    a.script("INSERT INTO users VALUES ('1', 'x@example.com', 'Ann')")
    b.script("INSERT INTO users VALUES ('2', 'x@example.com', 'Bob'), ('3', 'y@example.com', 'Cid')")
    sync_until_still(a, b)
    assert_same("users", a, b)
    found = a.query("SELECT * FROM users ORDER BY id")
    assert found == [("1", "x@example.com", "Ann"), ("3", "y@example.com", "Cid")]
    [(table, reason)] = b.query("SELECT tbl, reason FROM cloudsync_rejected")
    assert table == "users" and "UNIQUE" in reason
    b.script("INSERT INTO users VALUES ('2', 'z@example.com', 'Bob')")
    sync_until_still(a, b)
    assert_same("users", a, b)
    assert a.value("SELECT name FROM users WHERE id = '2'") == "Bob"


def test_02_a_unique_collision_by_file_waits_with_its_reason(device):
    schema = "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, email TEXT UNIQUE, name TEXT);"
    a, b = (device(name, None, schema, ["users"]) for name in "ab")
    a.script("INSERT INTO users VALUES ('1', 'x@example.com', 'Ann'), ('3', 'y@example.com', 'Cid')")
    b.script("INSERT INTO users VALUES ('2', 'x@example.com', 'Bob')")
    carry(a, b)
    assert b.query("SELECT id, name FROM users ORDER BY id") == [("2", "Bob"), ("3", "Cid")]
    [(table, reason)] = waiting(b)
    assert table == "users" and "UNIQUE" in reason
    b.script("UPDATE users SET email = 'bob@example.com' WHERE id = '2'")
    carry(a, b)
    assert waiting(b) == []
    assert b.query("SELECT id, name FROM users ORDER BY id") == [("1", "Ann"), ("2", "Bob"), ("3", "Cid")]


@pytest.mark.parametrize(
    ("schema", "mend"),
    [
        ("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT CHECK (body <> 'bad'));", None),
        ("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT, CHECK (title IS NOT body));", None),
        (
            NOTES + "CREATE TRIGGER no BEFORE INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END;",
            "DROP TRIGGER no",
        ),
        (
            NOTES + "CREATE TRIGGER no AFTER INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
            "DROP TRIGGER no",
        ),
    ],
    ids=["check", "table check", "trigger", "rollback"],
)
def test_03_one_row_that_is_refused_blocks_no_other(server, device, schema, mend):
    a = device("a", server, NOTES, ["notes"])
    b = device("b", server, schema, ["notes"])
    a.script("INSERT INTO notes VALUES ('1', 'ok', 'good'), ('2', 'bad', 'bad'), ('3', 'ok', 'good')")
    a.sync()
    b.sync()
    assert b.query("SELECT id FROM notes ORDER BY id") == [("1",), ("3",)]
    assert len(waiting(b)) == 1
    a.script("INSERT INTO notes VALUES ('4', 'later', 'good')")
    b.script("INSERT INTO notes VALUES ('5', 'from b', 'good')")
    a.sync(), b.sync(), a.sync()
    assert b.query("SELECT id FROM notes ORDER BY id") == [("1",), ("3",), ("4",), ("5",)]
    assert a.value("SELECT count(*) FROM notes") == 5
    if mend:
        b.script(mend)
    else:
        a.script("UPDATE notes SET title = 'mended', body = 'fine' WHERE id = '2'")
    sync_until_still(a, b)
    b.sync()
    assert_same("notes", a, b)
    assert waiting(b) == []


def test_03_a_row_that_waits_comes_in_when_its_way_is_free(server, device):
    a = device("a", server, NOTES, ["notes"])
    b = device("b", server, NOTES + "CREATE UNIQUE INDEX one_title ON notes (title);", ["notes"])
    b.script("INSERT INTO notes VALUES ('1', 'same', 'of b')")
    sync_until_still(b, a)
    a.script("INSERT INTO notes VALUES ('2', 'same', 'of a')")
    a.sync(), b.sync()
    assert b.query("SELECT id FROM notes") == [("1",)] and len(waiting(b)) == 1
    b.script("UPDATE notes SET title = 'another' WHERE id = '1'")
    sync_until_still(b, a)
    assert waiting(b) == []
    assert_same("notes", a, b)


def test_03_a_fresh_device_with_foreign_keys_on_starts(server, device):
    schema = """
    CREATE TABLE authors (id TEXT PRIMARY KEY NOT NULL, boss TEXT REFERENCES authors(id));
    CREATE TABLE books (id TEXT PRIMARY KEY NOT NULL, author TEXT NOT NULL REFERENCES authors(id) ON DELETE CASCADE);
    """
    # The children's table comes first on both sides.
    a = device("a", server, "PRAGMA foreign_keys = ON;" + schema, ["books", "authors"])
    a.script("INSERT INTO authors VALUES ('z', NULL), ('a', 'z'), ('b', 'a')")
    a.script("INSERT INTO books SELECT 'book ' || value, 'b' FROM json_each('[1,2,3,4,5,6,7,8,9]')")
    a.sync()
    b = device("b", server, "PRAGMA foreign_keys = ON;" + schema, ["books", "authors"])
    sync_until_still(a, b)
    for table in ["authors", "books"]:
        assert_same(table, a, b)
    assert b.value("SELECT count(*) FROM books") == 9
    assert waiting(b) == [] and b.query("PRAGMA foreign_key_check") == []


def test_04_columns_are_added_and_renamed_by_any_tool(server, device):
    a, b = (device(name, server, NOTES, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('1', 'one', 'body')")
    sync_until_still(a, b)
    plain = sqlite3.connect(a.path, isolation_level=None)
    plain.execute("ALTER TABLE notes ADD COLUMN stars INTEGER NOT NULL DEFAULT 3")
    plain.execute("UPDATE notes SET stars = 5, title = 'both'")
    plain.execute("ALTER TABLE notes RENAME COLUMN body TO content")
    plain.execute("UPDATE notes SET content = 'new content'")
    plain.close()
    a.sync()
    b.script("ALTER TABLE notes ADD COLUMN stars INTEGER NOT NULL DEFAULT 3; ALTER TABLE notes RENAME COLUMN body TO content")
    sync_until_still(a, b)
    assert a.query("SELECT * FROM notes") == [("1", "both", "new content", 5)]
    assert_same("notes", a, b)


@pytest.mark.parametrize("verb", ["INSERT OR REPLACE INTO notes VALUES ('2', 'same', 'new')", "UPDATE OR REPLACE notes SET title = 'same' WHERE id = '2'"])
def test_06_rows_thrown_out_by_replace_do_not_live_on(server, device, verb):
    schema = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT UNIQUE, body TEXT);"
    a, b = (device(name, server, schema, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('1', 'same', 'old'), ('2', 'other', 'new')")
    sync_until_still(a, b)
    a.script(verb)
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT id FROM notes") == [("2",)]


def test_07_an_init_that_was_rolled_back_can_be_done_again(server, device):
    a, b = device("a", None, NOTES), device("b", server, NOTES, ["notes"])
    a.script("BEGIN; SAVEPOINT s")
    rolled_back = a.init("notes")
    a.script("INSERT INTO notes VALUES ('gone', 'x', 'y'); ROLLBACK TO s; ROLLBACK")
    site = a.init("notes")
    assert site and a.value("SELECT lower(hex(cloudsync_siteid()))") == site.replace("-", "").lower()
    assert rolled_back
    a.connect(server)
    a.script("INSERT INTO notes VALUES ('1', 'sent', 'after')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT id FROM notes") == [("1",)]


def test_08_a_change_from_the_far_future_is_refused_and_harms_nothing(server, device):
    a, b, liar = (device(name, None, NOTES, ["notes"]) for name in ["a", "b", "liar"])
    liar.script("INSERT INTO notes VALUES ('1', 'future', 'future'); UPDATE cloudsync_log SET at = julianday('2999-01-01')")
    payload = liar.value("SELECT cloudsync_payload_encode()")
    error = a.error("SELECT cloudsync_payload_apply(?)", payload)
    assert "ahead" in error and "clock" in error
    assert a.rows("notes") == []
    for each in [a, b]:
        each.connect(server)
    a.script("INSERT INTO notes VALUES ('1', 'mine', 'mine')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT title FROM notes") == [("mine",)]


def test_09_every_damaged_byte_of_a_payload_is_noticed(device):
    a, b = (device(name, None, NOTES, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('1', 'one', 'two'), ('2', NULL, x'00ff')")
    payload = bytes(a.value("SELECT cloudsync_payload_encode()"))
    version = b.value("SELECT cloudsync_db_version()")
    for at in range(len(payload)):
        damaged = payload[:at] + bytes([payload[at] ^ 0x10]) + payload[at + 1 :]
        b.error("SELECT cloudsync_payload_apply(?)", damaged)
    for length in range(len(payload)):
        b.error("SELECT cloudsync_payload_apply(?)", payload[:length])
    assert b.rows("notes") == [] and b.value("SELECT cloudsync_db_version()") == version
    assert b.value("SELECT cloudsync_payload_apply(?)", payload) == 2
    assert_same("notes", a, b)


def test_10_a_copied_file_does_not_go_on_under_the_same_site(server, device, binding, library):
    a, other = (device(name, server, NOTES, ["notes"]) for name in ["a", "other"])
    a.script("INSERT INTO notes VALUES ('1', 'before', 'copy')")
    a.sync()
    a.query("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(a.path, a.path.with_name("copy.db"))
    copy = device("copy", server)
    for name, each in [("a", a), ("copy", copy)]:
        each.script(f"INSERT INTO notes VALUES ('{name}', 'by', '{name}'); UPDATE notes SET body = body || ' {name}' WHERE id = '1'")
    sync_until_still(a, copy, other)
    assert a.value("SELECT hex(cloudsync_siteid())") != copy.value("SELECT hex(cloudsync_siteid())")
    assert_same("notes", a, copy, other)
    assert other.query("SELECT id FROM notes ORDER BY id") == [("1",), ("a",), ("copy",)]


def test_11_no_argument_and_null_take_no_host_down(device):
    a = device("a", None, NOTES, ["notes"])
    functions = [name for (name,) in a.query("SELECT DISTINCT name FROM pragma_function_list WHERE name LIKE 'cloudsync%'")]
    assert len(functions) > 25
    for name in functions:
        for arguments in ["", "NULL", "NULL, NULL", "NULL, NULL, NULL", "x'00'", "-1", "'', '', ''", "9e999"]:
            try:
                a.query(f"SELECT {name}({arguments})")
            except LIBRARY_ERRORS as error:
                assert str(error).strip()
    assert a.integrity() == "ok"


@pytest.mark.parametrize("value", ["0", "", None, "a"])
def test_12_the_later_edit_wins_whatever_its_value(server, device, value):
    a, b = (device(name, server, NOTES, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('1', 'zzz', '')")
    sync_until_still(a, b)
    for number in range(20):
        a.query("UPDATE notes SET title = ?", f"zzz {number}")
        a.query("SELECT cloudsync_payload_encode()")
    let_time_pass()
    b.query("UPDATE notes SET title = ?", value)
    sync_until_still(a, b)
    assert a.value("SELECT title FROM notes") == b.value("SELECT title FROM notes") == value


def test_14_metadata_stays_small(device):
    a, plain = device("a", None, NOTES), device("plain", None, NOTES, extension=False)
    a.init("notes")
    a.query("SELECT cloudsync_set('history_ms', 1)")
    rows = [(a.value("SELECT cloudsync_uuid()"), f"title {number}", "body") for number in range(3000)]
    values = "json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')"
    for each in [a, plain]:
        each.query(f"INSERT INTO notes SELECT {values} FROM json_each(?)", json.dumps(rows))

    def size():
        a.value("SELECT cloudsync_db_version()"), a.query("SELECT cloudsync_payload_encode(1)")
        a.query("PRAGMA wal_checkpoint(TRUNCATE)"), plain.query("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        return a.value(pages) - plain.value(pages)

    after_insert = size()
    assert after_insert < 80 * len(rows) + 100_000
    for number in range(1_000):
        a.query("UPDATE notes SET body = ? WHERE id = ?", f"b{number}", rows[number % 5][0])
        a.query("SELECT count(*) FROM cloudsync_changes WHERE version > 9e15")
    assert size() < after_insert + 40_000
    assert a.value("SELECT count(*) FROM cloudsync_entries") < 700


def test_16_a_refused_write_does_not_stay_looking_accepted(server, device):
    database = server.run("db", "path", server.database).strip()
    with sqlite3.connect(database, timeout=30) as owner:
        owner.execute("CREATE TABLE orders (id TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL DEFAULT 0 CHECK (n < 100))")
    owner.close()
    server.run("table", "enable", server.database, "orders")
    schema = "CREATE TABLE orders (id TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL DEFAULT 0);"
    a, b = (device(name, server, schema, ["orders"]) for name in "ab")
    a.script("INSERT INTO orders VALUES ('1', 1), ('2', 200), ('3', 3)")
    sync_until_still(a, b)
    assert a.query("SELECT * FROM orders ORDER BY id") == [("1", 1), ("3", 3)]
    assert_same("orders", a, b)
    a.script("UPDATE orders SET n = 500 WHERE id = '1'; UPDATE orders SET n = 30 WHERE id = '3'")
    sync_until_still(a, b)
    assert a.query("SELECT * FROM orders ORDER BY id") == [("1", 1), ("3", 30)]
    assert_same("orders", a, b)
    reasons = a.query("SELECT reason FROM cloudsync_rejected ORDER BY id")
    assert len(reasons) == 2 and all("CHECK" in reason for (reason,) in reasons)
    a.script("UPDATE orders SET n = 50 WHERE id = '1'")
    sync_until_still(a, b)
    assert_same("orders", a, b)
    assert b.value("SELECT n FROM orders WHERE id = '1'") == 50


def test_16_a_trigger_of_the_server_that_rolls_back_stops_nobody(server, device):
    database = server.run("db", "path", server.database).strip()
    with sqlite3.connect(database, timeout=30) as owner:
        owner.execute(NOTES.rstrip(";"))
        owner.execute("CREATE TRIGGER no BEFORE INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'never'); END")
    owner.close()
    server.run("table", "enable", server.database, "notes")
    a, b = (device(name, server, NOTES, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('1', 'ok', 'good'), ('2', 'bad', 'bad'), ('3', 'ok', 'good')")
    b.script("INSERT INTO notes VALUES ('4', 'ok', 'good')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT id FROM notes ORDER BY id") == [("1",), ("3",), ("4",)]
    assert "never" in a.value("SELECT reason FROM cloudsync_rejected")


def test_17_writes_without_the_library_work_and_sync(server, device):
    a, b = (device(name, server, NOTES, ["notes"]) for name in "ab")
    plain = sqlite3.connect(a.path, isolation_level=None)
    plain.execute("PRAGMA trusted_schema = OFF")
    plain.execute("INSERT INTO notes VALUES ('1', 'plain', 'x'), ('2', 'plain', 'y')")
    plain.execute("UPDATE notes SET id = '3' WHERE id = '2'")
    plain.execute("INSERT INTO notes VALUES ('1', 'z', 'z') ON CONFLICT DO UPDATE SET title = 'upserted'")
    plain.close()
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert b.query("SELECT * FROM notes ORDER BY id") == [("1", "upserted", "x"), ("3", "plain", "y")]


def test_18_values_that_are_hard_to_tell_apart_converge(server, device):
    schema = """
    CREATE TABLE odd (k, v, PRIMARY KEY (k));
    CREATE TABLE names (name TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v);
    """
    a, b = (device(name, server, schema, ["odd", "names"]) for name in "ab")
    a.query("INSERT INTO odd VALUES (1, ?), (2, ?), ('t', CAST(x'610062' AS TEXT)), (x'01', x'')", -0.0, 1)
    b.query("INSERT INTO odd VALUES (1.0, ?), (2, ?), ('u', ?)", 0.0, 1.0, "a\0b")
    a.script("INSERT INTO names VALUES ('Ab', 'a')")
    b.script("INSERT INTO names VALUES ('aB', 'b')")
    sync_until_still(a, b)
    for table in ["odd", "names"]:
        assert_same(table, a, b)
    assert a.value("SELECT count(*) FROM names") == 1
    assert a.value("SELECT count(*) FROM odd") == 5


def test_19_concurrent_inserts_under_one_key_are_the_same_everywhere(server, device):
    a, b, c = (device(name, server, NOTES, ["notes"]) for name in "abc")
    a.script("INSERT INTO notes VALUES ('1', 'title a', 'body a')")
    let_time_pass()
    b.script("INSERT INTO notes VALUES ('1', 'title b', 'body b')")
    sync_until_still(b, a, c)
    assert_same("notes", a, b, c)
    assert c.query("SELECT * FROM notes") == [("1", "title b", "body b")]


def test_20_the_host_closes_without_a_word(device):
    a = device("a", None, NOTES, ["notes"])
    a.script("INSERT INTO notes VALUES ('1', 'x', 'y')")
    a.query("SELECT cloudsync_payload_encode()")
    a.query("SELECT count(*) FROM cloudsync_changes")
    json.loads(a.value("SELECT cloudsync_status()"))
    # `sqlite3_close` refuses while a statement is open; Python's module would then leak the file.
    a.close()
    again = sqlite3.connect(a.path, isolation_level=None)
    again.execute("PRAGMA locking_mode = EXCLUSIVE")
    again.execute("PRAGMA journal_mode = DELETE")
    assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


def test_05_filters_wipe_nothing_and_leak_nothing(server, device):
    a, b = (device(name, server, NOTES, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('old', 'public', 'x'), ('gone', 'public', 'x'), ('edited', 'public', 'x')")
    sync_until_still(a, b)
    b.script("DELETE FROM notes WHERE id = 'gone'; UPDATE notes SET body = 'newest' WHERE id = 'edited'")
    a.query("SELECT cloudsync_set_filter('notes', 'title IS NOT ''secret''')")
    a.script("INSERT INTO notes VALUES ('1', 'secret', 'diary'), ('2', 'public', 'hello'), ('3', 'public', 'bye')")
    sync_until_still(a, b)
    assert b.query("SELECT id FROM notes ORDER BY id") == [("2",), ("3",), ("edited",), ("old",)]
    a.script("UPDATE notes SET title = 'public', body = 'whole' WHERE id = '1'")
    a.script("UPDATE notes SET title = 'secret', body = 'hidden' WHERE id = '3'")
    sync_until_still(a, b)
    assert b.query("SELECT * FROM notes WHERE id IN ('1', '3')") == [("1", "public", "whole")]
    assert a.value("SELECT body FROM notes WHERE id = '3'") == "hidden"
    a.query("SELECT cloudsync_clear_filter('notes')")
    sync_until_still(a, b)
    assert "gone" not in [id for (id,) in b.query("SELECT id FROM notes")]
    assert a.value("SELECT body FROM notes WHERE id = 'edited'") == "newest"
    database = server.run("db", "path", server.database).strip()
    with sqlite3.connect(database, timeout=30) as owner:
        assert owner.execute("SELECT count(*) FROM notes WHERE body = 'diary'").fetchone() == (0,)
    owner.close()


@pytest.mark.parametrize("algorithm", ["dws", "aws", "gos"])
def test_13_other_algorithms_converge_and_come_to_rest(server, device, algorithm):
    a, b, c = (device(name, server, NOTES) for name in "abc")
    for each in [a, b, c]:
        each.init("notes", algorithm)
    a.script("INSERT INTO notes VALUES ('1', 'one', x'00ff'), ('2', 'two', NULL)")
    sync_until_still(a, b, c)
    if algorithm == "gos":
        assert "notes" in a.error("DELETE FROM notes WHERE id = '1'")
        a.script("INSERT OR REPLACE INTO notes VALUES ('1', 'replaced', 'x')")
    else:
        a.script("DELETE FROM notes WHERE id = '1'")
        let_time_pass()
        b.script("UPDATE notes SET title = 'concurrent' WHERE id = '1'")
    sync_until_still(a, b, c)
    assert_same("notes", a, b, c)
    found = c.query("SELECT title, hex(body) FROM notes WHERE id = '1'")
    expected = {"dws": [], "aws": [("concurrent", "00FF")], "gos": [("replaced", "78")]}
    assert found == expected[algorithm]
    for each in [a, b, c]:
        assert each.sync() == 0 and each.status()["sent"] == 0
