"""Triggers of the app's own: what they do outside of synced tables happens on every device, what they write to synced
tables is the author's alone."""

import sqlite3

from devices import BINDINGS, assert_same, sync_until_still

NOTES = """
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT, updated_at TEXT);
CREATE TABLE totals (id TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL DEFAULT 0);
CREATE TABLE audit (id TEXT PRIMARY KEY NOT NULL, what TEXT);
CREATE TABLE trash (id TEXT PRIMARY KEY NOT NULL, title TEXT);
"""
TRIGGERS = """
CREATE TABLE IF NOT EXISTS log (what TEXT);
CREATE TRIGGER came AFTER INSERT ON notes BEGIN
  UPDATE totals SET n = n + 1 WHERE id = 'notes';
  INSERT INTO audit(id, what) VALUES (lower(hex(randomblob(16))), 'came ' || NEW.id);
  INSERT INTO log VALUES ('came ' || NEW.id);
END;
CREATE TRIGGER touched AFTER UPDATE OF title, body ON notes BEGIN
  UPDATE notes SET updated_at = hex(randomblob(8)) WHERE id = NEW.id;
  INSERT INTO audit(id, what) VALUES (lower(hex(randomblob(16))), 'touched ' || NEW.id);
  INSERT INTO log VALUES ('touched ' || NEW.id);
END;
CREATE TRIGGER went AFTER DELETE ON notes BEGIN
  UPDATE totals SET n = n - 1 WHERE id = 'notes';
  INSERT INTO trash(id, title) VALUES (OLD.id, OLD.title);
  INSERT INTO log VALUES ('went ' || OLD.id);
END;
"""
SEARCH = """
CREATE VIRTUAL TABLE search USING fts5(title, body, content = 'notes');
CREATE TRIGGER search_i AFTER INSERT ON notes BEGIN
  INSERT INTO search(rowid, title, body) VALUES (NEW.rowid, NEW.title, NEW.body);
END;
CREATE TRIGGER search_d AFTER DELETE ON notes BEGIN
  INSERT INTO search(search, rowid, title, body) VALUES ('delete', OLD.rowid, OLD.title, OLD.body);
END;
CREATE TRIGGER search_u AFTER UPDATE ON notes BEGIN
  INSERT INTO search(search, rowid, title, body) VALUES ('delete', OLD.rowid, OLD.title, OLD.body);
  INSERT INTO search(rowid, title, body) VALUES (NEW.rowid, NEW.title, NEW.body);
END;
"""
SYNCED = ["notes", "totals", "audit", "trash"]
TEMPORARY = "SELECT name FROM temp.sqlite_master"


def assert_all_same(*devices):
    for table in SYNCED:
        assert_same(table, *devices)
    for device in devices:
        assert device.query(TEMPORARY) == []
        assert device.integrity() == "ok"


def write(a, b):
    """Three notes by one device; an edit and a deletion by another."""
    a.script("INSERT INTO totals (id) VALUES ('notes')")
    a.script("INSERT INTO notes (id, title) VALUES ('1', 'one'), ('2', 'two'), ('3', 'three')")
    sync_until_still(a, b)
    b.script("UPDATE notes SET title = 'zwei' WHERE id = '2'; DELETE FROM notes WHERE id = '3'")


def test_what_triggers_write_to_synced_tables_is_not_doubled(server, device):
    a, b, c = (device(name, server, NOTES + TRIGGERS, SYNCED) for name in "abc")
    write(a, b)
    sync_until_still(a, b, c)
    assert_all_same(a, b, c)
    assert c.value("SELECT n FROM totals") == 2
    assert c.query("SELECT what FROM audit ORDER BY what") == [
        (what,) for what in ["came 1", "came 2", "came 3", "touched 2"]
    ]
    assert c.query("SELECT id FROM trash") == [("3",)]
    assert a.query("SELECT what FROM log ORDER BY what") == [
        (what,) for what in ["came 1", "came 2", "came 3", "touched 2", "went 3"]
    ]
    assert c.query("SELECT what FROM log ORDER BY what") == [("came 1",), ("came 2",)]


def test_the_owners_triggers_on_the_server_are_under_the_same_rule(server, device):
    a, b = (device(name, server, NOTES, SYNCED) for name in "ab")
    a.sync()
    [path] = [path for path in server.data.rglob("*.db") if path.name != "control.db"]
    owner = device(str(path.with_suffix("")), extension=False)
    owner.script(TRIGGERS)
    write(a, b)
    sync_until_still(a, b)
    assert_same("notes", a, b, owner)
    assert_same("totals", a, b, owner)
    # The devices have no such triggers: nobody is the author of an effect.
    assert a.query("SELECT n FROM totals") == [(0,)]
    assert owner.query("SELECT count(*) FROM audit") == [(0,)]
    assert owner.value("SELECT count(*) FROM log WHERE what LIKE 'came%'") == 3
    # What the owner writes has its effects, which travel.
    owner.script("INSERT INTO notes (id, title) VALUES ('o', 'by the owner')")
    sync_until_still(a, b)
    for table in SYNCED:
        assert_same(table, a, b, owner)
    assert a.value("SELECT n FROM totals") == 1
    assert a.query("SELECT what FROM audit") == [("came o",)]


def test_a_search_index_with_external_content_stays_right(server, device):
    a = device("a", server, NOTES, SYNCED)
    b = device("b", server, NOTES + SEARCH + TRIGGERS, SYNCED)

    def assert_found(**hits):
        b.script("INSERT INTO search(search, rank) VALUES ('integrity-check', 1)")
        for word, count in hits.items():
            assert b.value("SELECT count(*) FROM search(?)", word) == count, word

    a.script("INSERT INTO notes (id, title, body) VALUES ('1', 'alpha', 'first'), ('2', 'beta', 'second')")
    sync_until_still(a, b)
    assert_found(alpha=1, second=1)
    a.script("UPDATE notes SET title = 'gamma' WHERE id = '1'; DELETE FROM notes WHERE id = '2'")
    sync_until_still(a, b)
    assert_found(alpha=0, gamma=1, beta=0, second=0)
    assert_all_same(a, b)


def test_payloads_by_hand_also_inside_a_transaction(device):
    a, b = (device(name, None, NOTES + TRIGGERS, SYNCED) for name in "ab")
    a.script("INSERT INTO totals (id) VALUES ('notes'); INSERT INTO notes (id, title) VALUES ('1', 'one')")
    payload = a.value("SELECT cloudsync_payload_encode(0)")
    b.script("PRAGMA foreign_keys = ON; BEGIN")
    b.query("SELECT cloudsync_payload_apply(?)", payload)
    b.script("ROLLBACK")
    assert b.value("SELECT count(*) FROM notes") == 0
    assert b.query(TEMPORARY) == []
    b.script("BEGIN")
    b.query("SELECT cloudsync_payload_apply(?)", payload)
    b.script("INSERT INTO notes (id, title) VALUES ('2', 'two'); COMMIT")
    assert b.value("SELECT n FROM totals") == 2
    assert b.query("SELECT what FROM audit ORDER BY 1") == [("came 1",), ("came 2",)]
    a.query("SELECT cloudsync_payload_apply(?)", b.value("SELECT cloudsync_payload_encode(0)"))
    assert_all_same(a, b)


def test_an_open_cursor_of_the_host_reads_on(server, device):
    a, b = (device(name, server, NOTES + TRIGGERS, SYNCED) for name in "ab")
    b.script("CREATE TABLE numbers (n)")
    b.script("INSERT INTO numbers VALUES (1), (2), (3)")
    a.script("INSERT INTO notes (id, title) VALUES ('1', 'one')")
    a.sync()
    cursor = b.conn.execute("SELECT n FROM numbers ORDER BY n")
    assert tuple(next(iter(cursor))) == (1,)
    b.sync()
    assert [row[0] for row in cursor] == [2, 3]
    sync_until_still(a, b)
    assert_all_same(a, b)


def test_an_authorizer_that_forbids_the_guards_is_told_what_to_allow(server, device):
    # The hook is set by the host's own means.
    standard = BINDINGS["sqlite3"]
    a, b = (device(name, server, NOTES + TRIGGERS, SYNCED, binding=standard) for name in "ab")
    a.script("INSERT INTO totals (id) VALUES ('notes'); INSERT INTO notes (id, title) VALUES ('1', 'one')")
    a.sync()
    forbidden = sqlite3.SQLITE_CREATE_TEMP_TRIGGER
    b.conn.set_authorizer(lambda what, *rest: sqlite3.SQLITE_DENY if what == forbidden else sqlite3.SQLITE_OK)
    error = b.error("SELECT cloudsync_network_sync()")
    assert "authorizer" in error and "temporary triggers" in error
    b.conn.set_authorizer(lambda *rest: sqlite3.SQLITE_OK)
    sync_until_still(a, b)
    assert_all_same(a, b)
    assert b.value("SELECT n FROM totals") == 1


def test_incremental_blob_io_is_not_noted_until_the_row_is_replaced(device):
    schema = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v BLOB)"
    a, b = (device(name, schema=schema, tables=["t"]) for name in "ab")
    a.script("INSERT INTO t VALUES ('1', x'000000')")
    a.value("SELECT length(cloudsync_payload_encode())")
    # Both libraries have it, with arguments of their own.
    if a.binding.name == "apsw":
        with a.conn.blob_open("main", "t", "v", 1, True) as blob:
            blob.write(b"abc")
    else:
        with a.conn.blobopen("t", "v", 1) as blob:
            blob.write(b"abc")
    assert a.value("SELECT v FROM t") == b"abc"
    assert a.value("SELECT count(*) FROM cloudsync_log") == 0
    a.script("REPLACE INTO t SELECT * FROM t WHERE id = '1'")
    b.query("SELECT cloudsync_payload_apply(?)", a.value("SELECT cloudsync_payload_encode()"))
    assert b.rows("t") == a.rows("t")
