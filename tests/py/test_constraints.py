"""A server table of its owner's with constraints: one bad row is refused, told, mended; nobody is ever stuck."""

import json
import sqlite3

import pytest

from devices import assert_same, sync_until_still
from servers import CuttingProxy

OWNERS = """
CREATE TABLE accounts (
  id TEXT PRIMARY KEY NOT NULL, email TEXT UNIQUE, balance INTEGER CHECK (balance >= 0), note TEXT
);
CREATE TABLE payments (
  id TEXT PRIMARY KEY NOT NULL, account TEXT REFERENCES accounts, amount INTEGER NOT NULL
);
CREATE TRIGGER sundays BEFORE INSERT ON payments WHEN NEW.amount = 777
BEGIN SELECT RAISE(ABORT, 'no lucky numbers'); END;
"""
# What the app brings along has no constraints but its keys.
APPS = """
CREATE TABLE accounts (id TEXT PRIMARY KEY NOT NULL, email TEXT, balance INTEGER, note TEXT);
CREATE TABLE payments (id TEXT PRIMARY KEY NOT NULL, account TEXT, amount INTEGER);
"""
TABLES = ["accounts", "payments"]


def owner(server, sql):
    """Runs SQL on the server's file with a plain tool."""
    [path] = server.run("db", "path", server.database).splitlines()
    with sqlite3.connect(path, timeout=30) as conn:
        conn.executescript(sql)
        rows = conn.execute("SELECT count(*) FROM sqlite_master WHERE name = 'cloudsync_quarantine'").fetchall()
        waiting = conn.execute("SELECT count(*) FROM cloudsync_quarantine").fetchall() if rows[0][0] else [(0,)]
    conn.close()
    return waiting[0][0]


@pytest.fixture
def pair(server, device):
    """Two devices that sync with the owner's tables, which hold two accounts."""
    owner(server, OWNERS)
    for table in TABLES:
        server.run("table", "enable", server.database, table)
    a, b = (device(name, server, APPS, TABLES) for name in "ab")
    a.script("INSERT INTO accounts VALUES ('1', 'one@x', 100, ''), ('2', 'two@x', 0, '')")
    sync_until_still(a, b)
    return a, b


def rejected(device):
    return device.query("SELECT tbl, cloudsync_pk_decode(pk, 0), reason, \"row\" FROM cloudsync_rejected ORDER BY id")


def assert_settled(server, *devices):
    sync_until_still(*devices)
    for table in TABLES:
        assert_same(table, *devices)
    for device in devices:
        assert device.value("SELECT count(*) FROM cloudsync_quarantine") == 0
        assert device.integrity() == "ok"
    assert owner(server, "") == 0


BAD = {
    "UNIQUE": ("INSERT INTO accounts VALUES ('bad', 'one@x', 1, '')", "accounts", "UNIQUE constraint failed: accounts.email"),
    "CHECK": ("INSERT INTO accounts VALUES ('bad', 'bad@x', -1, '')", "accounts", "CHECK constraint failed"),
    "NOT NULL": ("INSERT INTO payments VALUES ('bad', '1', NULL)", "payments", "NOT NULL constraint failed: payments.amount"),
    "FOREIGN KEY": ("INSERT INTO payments VALUES ('bad', 'nobody', 5)", "payments", "FOREIGN KEY constraint failed"),
    "RAISE": ("INSERT INTO payments VALUES ('bad', '1', 777)", "payments", "no lucky numbers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_row_is_refused_and_all_others_go_on(pair, server, kind):
    a, b = pair
    insert, table, reason = BAD[kind]
    a.script("INSERT INTO accounts VALUES ('3', 'three@x', 3, '')")
    a.script(insert)
    a.script("INSERT INTO payments VALUES ('ok', '3', 5); UPDATE accounts SET note = 'edited' WHERE id = '1'")
    a.sync()
    assert a.status()["rejected"] == 1
    [(tbl, key, why, row)] = rejected(a)
    assert (tbl, key) == (table, "bad") and reason in why
    assert json.loads(row)["id"] == "bad"
    assert a.value(f"SELECT count(*) FROM {table} WHERE id = 'bad'") == 0
    status = json.loads(a.value("SELECT cloudsync_status()"))
    assert status["rejected"] == 1 and status["last_round"]["rejected"] == 1 and not status["unsent"]
    assert_settled(server, a, b)
    assert b.query("SELECT id FROM payments") == [("ok",)]
    assert b.value("SELECT note FROM accounts WHERE id = '1'") == "edited"
    # Mended, it is a row like any other.
    mended = {"accounts": "('bad', 'mended@x', 1, '')", "payments": "('bad', '1', 6)"}[table]
    a.script(f"INSERT INTO {table} VALUES {mended}")
    a.sync()
    assert a.status()["rejected"] == 0
    assert_settled(server, a, b)
    assert b.value(f"SELECT count(*) FROM {table} WHERE id = 'bad'") == 1


def test_a_refused_edit_gives_way_and_the_next_one_syncs(pair, server):
    a, b = pair
    a.script("UPDATE accounts SET balance = -5, note = 'overdrawn' WHERE id = '1'")
    a.sync()
    assert a.query("SELECT balance, note FROM accounts WHERE id = '1'") == [(100, "")]
    assert json.loads(rejected(a)[0][3])["balance"] == -5
    a.script("UPDATE accounts SET balance = 5 WHERE id = '1'")
    b.script("UPDATE accounts SET note = 'by b' WHERE id = '1'")
    assert_settled(server, a, b)
    assert a.query("SELECT balance, note FROM accounts WHERE id = '1'") == [(5, "by b")]


def test_half_of_a_transaction(pair, server):
    """A transaction is not a unit of acceptance: each row is judged by itself, and both devices agree."""
    a, b = pair
    a.script(
        "BEGIN; UPDATE accounts SET balance = balance - 150 WHERE id = '1';"
        "UPDATE accounts SET balance = balance + 150 WHERE id = '2'; COMMIT"
    )
    a.sync()
    assert [row[1] for row in rejected(a)] == ["1"]
    assert_settled(server, a, b)
    assert b.query("SELECT id, balance FROM accounts ORDER BY id") == [("1", 100), ("2", 150)]


def test_the_server_is_killed_between_commit_and_answer(pair, server):
    a, b = pair
    for _ in range(2):
        proxy = CuttingProxy(server, "down", 0, on_cut=server.kill)
        a.query("SELECT cloudsync_network_init(?)", proxy.connection())
        a.query("SELECT cloudsync_network_set_apikey(?)", server.key)
        a.script("UPDATE accounts SET email = 'one@x' WHERE id = '2'; UPDATE accounts SET note = note || 'x'")
        a.error("SELECT cloudsync_network_sync()")
        assert proxy.was_cut.is_set()
        proxy.close()
        server.restart()
        before = len(rejected(a))
        a.connect(server)
        a.sync()
        assert len(rejected(a)) == before + 1
        assert_settled(server, a, b)
    assert a.query("SELECT id, email FROM accounts ORDER BY id") == [("1", "one@x"), ("2", "two@x")]


def test_a_fresh_device_with_foreign_keys_on_starts(pair, server, device):
    a, b = pair
    a.script(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) "
        "INSERT INTO payments SELECT 'p' || i, 'new', i FROM n; INSERT INTO accounts VALUES ('new', 'new@x', 0, '')"
    )
    a.sync()
    # 777 is not taken.
    assert len(rejected(a)) == 1
    # Children are asked for first.
    schema = """
    CREATE TABLE payments (id TEXT PRIMARY KEY NOT NULL, account TEXT REFERENCES accounts, amount INTEGER);
    CREATE TABLE accounts (id TEXT PRIMARY KEY NOT NULL, email TEXT, balance INTEGER, note TEXT);
    """
    c = device("c", server)
    c.script("PRAGMA foreign_keys = ON")
    c.script(schema)
    for table in ["payments", "accounts"]:
        c.init(table)
    c.connect(server)
    c.sync()
    assert c.query("PRAGMA foreign_key_check") == []
    assert c.value("PRAGMA foreign_keys") == 1
    assert_settled(server, a, b, c)
    assert c.value("SELECT count(*) FROM payments") == 29_999


def test_two_devices_want_one_value(pair, server):
    a, b = pair
    a.script("INSERT INTO accounts VALUES ('a', 'same@x', 1, 'by a')")
    b.script("INSERT INTO accounts VALUES ('b', 'same@x', 1, 'by b')")
    a.sync()
    b.sync()
    assert rejected(a) == [] and [row[1] for row in rejected(b)] == ["b"]
    assert_settled(server, a, b)
    a.script("UPDATE accounts SET email = 'free@x' WHERE id = 'a'")
    a.sync()
    b.sync()
    b.script("INSERT INTO accounts VALUES ('b', 'same@x', 1, 'once more')")
    assert_settled(server, a, b)
    assert len(rejected(b)) == 1
    assert a.value("SELECT note FROM accounts WHERE email = 'same@x'") == "once more"
