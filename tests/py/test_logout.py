"""Logout, with the shipped library, a server, and two of its keys."""

import pytest

from devices import assert_same, sync_until_still

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT);"
LOGOUT = "SELECT cloudsync_network_logout()"


def bytes_of(device):
    folder = device.path.parent
    return b"".join(path.read_bytes() for path in folder.glob(device.path.name + "*"))


def second_key(server):
    return server.run("key", "create", "--database", server.database).strip().splitlines()[-1]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_logout_empties_the_file_and_deletes_nothing_elsewhere(server, device, mode):
    a, b = (device(name, schema=f"PRAGMA journal_mode = {mode}; {SCHEMA}", tables=["notes"]) for name in "ab")
    a.connect(server)
    b.connect(server)
    a.query("INSERT INTO notes VALUES ('1', 'my-private-one'), ('2', 'my-private-two')")
    sync_until_still(a, b)
    site = a.value("SELECT cloudsync_siteid()")
    assert b"my-private" in bytes_of(a)
    assert a.value(LOGOUT) == 2
    assert a.query("SELECT * FROM notes") == []
    assert b"my-private" not in bytes_of(a)
    assert a.value("SELECT cloudsync_siteid()") != site
    assert a.has_unsent() == 0
    # The key is gone, and the server is known.
    assert "key" in a.error("SELECT cloudsync_network_sync()")
    assert b.sync() == 0 and len(b.query("SELECT * FROM notes")) == 2
    a.query("SELECT cloudsync_network_set_apikey(?)", second_key(server))
    assert a.sync() == 2
    a.query("UPDATE notes SET title = 'new' WHERE id = '1'")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.integrity() == "ok"


def test_unsent_changes_and_transactions_refuse(server, device):
    a, b = (device(name, server, SCHEMA, ["notes"]) for name in "ab")
    a.query("INSERT INTO notes VALUES ('1', 'unsent')")
    error = a.error(LOGOUT)
    assert "1 table has unsent changes" in error and "cloudsync_network_logout(1)" in error
    a.query("BEGIN")
    assert "commit first" in a.error("SELECT cloudsync_network_logout(1)")
    a.query("COMMIT")
    assert a.query("SELECT id FROM notes") == [("1",)]
    assert a.value("SELECT cloudsync_network_logout(1)") == 1
    a.connect(server)
    sync_until_still(a, b)
    assert a.query("SELECT * FROM notes") == b.query("SELECT * FROM notes") == []


def test_logging_out_of_nothing_forgets_the_key(server, device):
    a = device("a", server, SCHEMA)
    assert a.value(LOGOUT) == 0
    a.init("notes")
    assert "key" in a.error("SELECT cloudsync_network_sync()")


def test_a_logout_ends_automatic_sync_and_one_that_is_refused_does_not(server, device):
    a = device("a", server, SCHEMA, ["notes"])
    a.query("INSERT INTO notes VALUES ('1', 'one')")
    a.sync()
    a.query("SELECT cloudsync_network_auto(60000)")
    a.query("BEGIN")
    a.error("SELECT cloudsync_network_logout(1)")
    a.query("COMMIT")
    assert a.value("SELECT value FROM cloudsync_settings WHERE key = 'auto_interval_ms'") == 60000
    assert a.value("SELECT cloudsync_network_logout(1)") == 1
    assert a.query("SELECT value FROM cloudsync_settings WHERE key = 'auto_interval_ms'") == []
    a.query("SELECT cloudsync_network_set_apikey(?)", second_key(server))
    assert a.sync() == 1
