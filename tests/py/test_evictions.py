"""What a user may no longer see: it goes from the device's file, and the scrub leaves nothing of it, with the shipped files."""

import json
import shutil
import time

import pytest

from devices import LIBRARY_ERRORS

DEADLINE_SECONDS = 40
SCHEMA = """
CREATE TABLE members (project TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (project, user));
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);
"""
MEMBER = "EXISTS (SELECT 1 FROM members AS m WHERE m.project = notes.project AND m.user = auth_userid())"
ROWS = 400


def run_sql(server, tmp_path, text):
    path = tmp_path / "statements.sql"
    path.write_text(text)
    return server.run("db", "sql", server.database, path)


@pytest.fixture
def team(server, tmp_path):
    """A server with projects of which alice sees two."""
    run_sql(server, tmp_path, SCHEMA)
    for table in ("members", "notes"):
        server.run("table", "enable", server.database, table)
    server.run("policy", "set", server.database, "members", "--select", "user = auth_userid()")
    server.run(
        *("policy", "set", server.database, "notes", "--select", MEMBER, "--insert", MEMBER, "--update", MEMBER)
    )
    rows = ", ".join(
        f"('{project}-key-{number}', '{project}', 'body-{project}-{number}-{'x' * (number % 50)}')"
        for project in ("mine", "lost")
        for number in range(ROWS)
    )
    run_sql(
        server,
        tmp_path,
        f"INSERT INTO members VALUES ('mine', 'alice'), ('lost', 'alice'); INSERT INTO notes VALUES {rows};",
    )
    server.token = server.run("token", "create", server.database, "alice").strip()
    return server


@pytest.fixture
def alice(team, device):
    def open_alice(mode):
        opened = device("alice", schema=f"PRAGMA journal_mode = {mode}; {SCHEMA}", tables=["members", "notes"])
        opened.query("SELECT cloudsync_network_init(?)", team.connection)
        opened.query("SELECT cloudsync_network_set_token(?)", team.token)
        assert opened.sync() == 2 * ROWS + 2
        # Edits, a value that loses against an edit of the owner's, and pages that split.
        opened.query("UPDATE notes SET body = body || ' edited here' WHERE id LIKE '%7'")
        opened.sync()
        opened.query("UPDATE notes SET body = body || 'y' WHERE project = 'lost'")
        opened.sync()
        assert b"body-lost-" in bytes_of(opened) and b"lost-key-" in bytes_of(opened)
        return opened

    return open_alice


def bytes_of(device):
    """All that lies on the disk of a device: the file, its WAL and journal."""
    folder = device.path.parent
    return b"".join(path.read_bytes() for path in folder.glob(device.path.name + "*"))


def lose(team, tmp_path):
    run_sql(team, tmp_path, "DELETE FROM members WHERE project = 'lost'")


def is_scrub_due(device):
    return json.loads(device.value("SELECT cloudsync_status()"))["scrub_due"]


def assert_gone(device):
    assert device.query("SELECT count(*), min(project), max(project) FROM notes") == [(ROWS, "mine", "mine")]
    left = bytes_of(device)
    assert b"body-mine-" in left
    assert b"body-lost-" not in left and b"lost-key-" not in left
    assert device.integrity() == "ok"
    for waiting in ("inbox", "quarantine", "conflicts", "rejected"):
        assert device.query(f"SELECT * FROM cloudsync_{waiting}") == [], waiting


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_rows_lost_by_a_membership_leave_nothing_in_the_file(team, alice, tmp_path, mode):
    device = alice(mode)
    lose(team, tmp_path)
    device.sync()
    # Nobody was in the way, so the sync has cleaned up behind itself.
    assert not is_scrub_due(device)
    assert_gone(device)
    # And they come back whole.
    run_sql(team, tmp_path, "INSERT INTO members VALUES ('lost', 'alice')")
    device.sync()
    assert device.value("SELECT count(*) FROM notes WHERE body LIKE 'body-lost-%'") == ROWS


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_rows_that_were_hidden_and_then_deleted_leave_nothing_in_the_file(team, alice, tmp_path, mode):
    device = alice(mode)
    lose(team, tmp_path)
    run_sql(team, tmp_path, "DELETE FROM notes WHERE project = 'lost'")
    device.sync()
    assert not is_scrub_due(device)
    assert device.query("SELECT count(*), min(project), max(project) FROM notes") == [(ROWS, "mine", "mine")]
    left = bytes_of(device)
    assert b"body-mine-" in left and b"body-lost-" not in left
    # The next deletions wait: for them alone the file is not written again on the same day.
    run_sql(team, tmp_path, "DELETE FROM notes WHERE id = 'mine-key-1'")
    device.sync()
    assert is_scrub_due(device)


@pytest.mark.parametrize("reader", ["statement", "connection", "transaction"])
def test_a_reader_puts_the_scrub_off_and_the_next_sync_makes_it(team, alice, tmp_path, reader):
    device = alice("wal")
    lose(team, tmp_path)
    # A statement of the app that is not at its end, on this connection or another one of the same library: two libraries
    # of SQLite in one process do not know of each other's locks.
    conn = device.conn if reader == "statement" else device.binding.open(device.path)
    if reader == "transaction":
        conn.execute("BEGIN")
    cursor = conn.execute("SELECT id FROM notes ORDER BY id")
    first = next(iter(cursor))[0]
    assert first == "lost-key-0"
    try:
        device.sync()
    except LIBRARY_ERRORS as error:
        # Nothing is written under a statement that reads on the same connection in some hosts.
        assert reader == "statement", error
    assert is_scrub_due(device)
    if reader != "statement":
        # Whoever reads goes on with what it began with.
        assert next(iter(cursor))[0] == "lost-key-1"
    assert b"body-lost-" in bytes_of(device)
    cursor.close()
    if reader != "statement":
        conn.close()
    device.sync()
    assert not is_scrub_due(device)
    assert_gone(device)


def test_automatic_sync_evicts_and_scrubs_while_the_app_is_idle(team, alice, tmp_path):
    device = alice("wal")
    device.query("SELECT cloudsync_network_auto(30000)")
    second = device.binding.open(device.path)
    assert device.binding.query(second, "SELECT count(*) FROM notes", ()) == [(2 * ROWS,)]
    lose(team, tmp_path)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while device.value("SELECT count(*) FROM notes") != ROWS or is_scrub_due(device):
        assert time.monotonic() < deadline, device.value("SELECT cloudsync_status()")
        time.sleep(0.05)
    device.query("SELECT cloudsync_network_auto(0)")
    assert_gone(device)
    # The other connection, which was open all the while, sees the same.
    assert device.binding.query(second, "SELECT count(*) FROM notes", ()) == [(ROWS,)]
    second.close()


def test_an_edit_of_a_lost_row_is_kept_for_its_author_and_nothing_else_of_it(team, alice, tmp_path):
    device = alice("wal")
    lose(team, tmp_path)
    device.query("UPDATE notes SET body = 'my own words' WHERE id = 'lost-key-3'")
    device.sync()
    kept = device.query("SELECT tbl, \"row\" FROM cloudsync_rejected")
    assert [table for table, _ in kept] == ["notes"]
    assert json.loads(kept[0][1])["body"] == "my own words"
    device.sync()
    left = bytes_of(device)
    assert b"body-lost-" not in left and b"lost-key-4" not in left


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_a_copy_that_cannot_be_compared_fetches_everything_and_what_does_not_come_goes(team, alice, device, tmp_path):
    original = alice("delete")
    shutil.copy(original.path, tmp_path / "copy.db")
    # Tables are compared only where they have the same columns.
    run_sql(team, tmp_path, "ALTER TABLE notes ADD COLUMN later TEXT")
    lose(team, tmp_path)
    original.sync()
    copy = device("copy")
    # The app has forgotten whose file it was: the token is given anew.
    copy.query("SELECT cloudsync_network_init(?)", team.connection)
    copy.query("SELECT cloudsync_network_set_token(?)", team.token)
    copy.query("INSERT INTO notes VALUES ('mine-key-of-the-copy', 'mine', 'body-mine-of-the-copy')")
    for _ in range(3):
        copy.sync()
    status = json.loads(copy.value("SELECT cloudsync_status()"))
    assert status["parted"] and not status["reconciling"] and not status["unsent"]
    assert copy.query("SELECT count(*), min(project), max(project) FROM notes") == [(ROWS + 1, "mine", "mine")]
    assert original.sync() == 1
    assert original.query("SELECT * FROM notes ORDER BY id") == copy.query("SELECT * FROM notes ORDER BY id")
    assert not is_scrub_due(copy)
    left = bytes_of(copy)
    assert b"body-mine-" in left and b"body-lost-" not in left and b"lost-key-" not in left
