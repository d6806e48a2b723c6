"""What two devices write at the same time: the loser finds its value in `cloudsync_conflicts`, and nobody else does."""

import json

import pytest

from devices import assert_same, sync_until_still

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT)"
JOURNAL = "SELECT kind, col_name, col_value FROM cloudsync_conflicts ORDER BY id"


@pytest.fixture
def pair(server, device):
    a, b = (device(name, server, NOTES, ["notes"]) for name in "ab")
    a.script("INSERT INTO notes VALUES ('n', 'title', 'body')")
    sync_until_still(a, b)
    return a, b


def counted(device):
    """The journal's length by either status, of the last sync and in all."""
    return device.status()["conflicts"], json.loads(device.value("SELECT cloudsync_status()"))["conflicts"]


def test_an_edit_that_loses_is_kept_where_it_was_made(pair):
    a, b = pair
    # Stamps are by the wall clock: the later statement is the later edit.
    b.script("UPDATE notes SET title = 'by b'")
    a.script("UPDATE notes SET title = 'by a'")
    a.sync()
    b.sync()
    assert counted(b) == (1, 1)
    sync_until_still(a, b)
    assert_same("notes", a, b)
    [loser, winner] = sorted([a, b], key=lambda device: device.query(JOURNAL) == [])
    lost = "by b" if winner is a else "by a"
    assert loser.query(JOURNAL) == [("overwritten", "title", lost)]
    assert winner.query(JOURNAL) == []
    [row] = loser.query("SELECT tbl, site_id, winner_site_id, winner_time >= time, at > 0 FROM cloudsync_conflicts")
    ids = [device.value("SELECT cloudsync_siteid()") for device in (loser, winner)]
    assert row == ("notes", *ids, 1, 1)
    assert loser.value("SELECT cloudsync_pk_decode(pk, 0) FROM cloudsync_conflicts") == "n"
    assert counted(loser) == (0, 1)


def test_an_edit_that_was_sent_and_not_seen_is_kept(pair):
    a, b = pair
    b.script("UPDATE notes SET title = 'by b'")
    b.sync()
    a.script("UPDATE notes SET title = 'by a'")
    a.sync()
    b.sync()
    assert b.query(JOURNAL) == [("overwritten", "title", "by b")]
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query(JOURNAL) == []


def test_an_edit_that_was_pushed_after_the_other_is_kept(pair):
    a, b = pair
    b.script("UPDATE notes SET title = 'by b'")
    # Stamped now, by a call that takes notes in; sent after the other's.
    b.query("SELECT cloudsync_payload_encode(0)")
    a.script("UPDATE notes SET title = 'by a'")
    a.sync()
    b.query("SELECT cloudsync_network_send_changes()")
    assert b.has_unsent() == 0
    b.query("SELECT cloudsync_network_check_changes()")
    assert b.query(JOURNAL) == [("overwritten", "title", "by b")]
    sync_until_still(a, b)
    assert_same("notes", a, b)


def test_an_edit_on_top_of_what_was_seen_is_no_conflict(pair):
    a, b = pair
    for round in range(3):
        for one, other in ((a, b), (b, a)):
            one.script(f"UPDATE notes SET title = 'round {round} by {one.path.stem}', body = {round}")
            one.sync()
            other.sync()
    a.script("DELETE FROM notes")
    sync_until_still(a, b)
    assert (a.query(JOURNAL), b.query(JOURNAL)) == ([], [])
    assert counted(a) == counted(b) == (0, 0)


@pytest.mark.parametrize("sent", [False, True])
def test_a_row_deleted_elsewhere_can_be_put_back(pair, sent):
    a, b = pair
    b.script("UPDATE notes SET title = 'worked on'")
    if sent:
        b.sync()
    a.script("DELETE FROM notes")
    a.sync()
    b.sync()
    assert b.query("SELECT * FROM notes") == []
    assert b.query(JOURNAL) == [("deleted", "title", "worked on"), ("deleted", "body", "body")]
    b.script(
        "INSERT INTO notes SELECT cloudsync_pk_decode(pk, 0), max(col_value) FILTER (WHERE col_name = 'title'),"
        " max(col_value) FILTER (WHERE col_name = 'body') FROM cloudsync_conflicts GROUP BY pk"
    )
    sync_until_still(a, b)
    assert_same("notes", a, b)
    assert a.query("SELECT * FROM notes") == [("n", "worked on", "body")]


def test_two_insertions_under_one_key(pair):
    a, b = pair
    for device in pair:
        name = device.path.stem
        device.script(f"INSERT INTO notes VALUES ('k', 'by {name}', 'same')")
    sync_until_still(a, b)
    assert_same("notes", a, b)
    [loser, winner] = sorted(pair, key=lambda device: device.query(JOURNAL) == [])
    assert loser.query(JOURNAL) == [("overwritten", "title", f"by {loser.path.stem}")]
    assert winner.query(JOURNAL) == []


def test_three_devices(server, device):
    devices = [device(name, server, NOTES, ["notes"]) for name in "abc"]
    devices[0].script("INSERT INTO notes VALUES ('n', 'title', 'body')")
    sync_until_still(*devices)
    for at, each in enumerate(devices):
        each.script(f"UPDATE notes SET title = 'by {at}'")
    sync_until_still(*devices)
    assert_same("notes", *devices)
    title = devices[0].value("SELECT title FROM notes")
    for at, each in enumerate(devices):
        own = [] if title == f"by {at}" else [("overwritten", "title", f"by {at}")]
        assert each.query(JOURNAL) == own


def test_what_the_owner_wrote_on_the_server_and_lost(server, device, pair):
    a, b = pair
    [path] = [path for path in server.data.rglob("*.db") if path.name != "control.db"]
    owner = device(str(path.with_suffix("")), extension=False)
    owner.script("UPDATE notes SET title = 'by the owner'")
    # The server takes it in with the next turn, of whomever.
    a.sync()
    b.script("UPDATE notes SET title = 'by b'")
    sync_until_still(a, b)
    assert_same("notes", a, b, owner)
    assert owner.query(JOURNAL) == [("overwritten", "title", "by the owner")]
    assert (a.query(JOURNAL), b.query(JOURNAL)) == ([], [])


def test_a_file_makes_conflicts_of_what_was_not_sent(pair, tmp_path):
    a, b = pair
    b.script("UPDATE notes SET title = 'sent'")
    b.sync()
    b.script("UPDATE notes SET body = 'not sent'")
    b.query("SELECT cloudsync_payload_encode(0)")
    a.script("UPDATE notes SET title = 'by a', body = 'by a'")
    file = str(tmp_path / "changes.bin")
    a.query("SELECT cloudsync_payload_save(?)", file)
    b.query("SELECT cloudsync_payload_load(?)", file)
    assert b.query(JOURNAL) == [("overwritten", "body", "not sent")]
    sync_until_still(a, b)
    assert_same("notes", a, b)


def test_the_journal_goes_with_the_table(pair):
    a, b = pair
    b.script("UPDATE notes SET title = 'by b'")
    b.query("SELECT cloudsync_payload_encode(0)")
    a.script("UPDATE notes SET title = 'by a'")
    sync_until_still(a, b)
    assert len(b.query(JOURNAL)) == 1
    b.query("SELECT cloudsync_cleanup('notes')")
    assert b.query(JOURNAL) == []
