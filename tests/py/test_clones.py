"""Copies of a database file, and backups: two files never go on under one site id, and nothing is lost."""

import json
import os
import shutil
import sqlite3

import pytest

from devices import assert_same, sync_until_still

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT);"

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


def site(device):
    return device.value("SELECT hex(cloudsync_siteid())")


def why(device):
    parted = json.loads(device.value("SELECT cloudsync_status()"))["parted"]
    return parted and parted["why"]


def tells_files(folder):
    """Whether the file system says when a file was made, as most do."""
    return os.popen(f"stat -c %W '{folder}'").read().strip() not in ("", "0", "-")


@pytest.fixture
def original(device, tmp_path):
    if not tells_files(tmp_path):
        pytest.fail("the file system of the tests does not say when files were made")
    a = device("a", None, SCHEMA, ["t"])
    a.query("INSERT INTO t VALUES ('1', 'before')")
    a.query("SELECT count(*) FROM cloudsync_changes")
    return a


def exchange(a, b, folder):
    """Each loads what the other one saved."""
    for source, target in ((a, b), (b, a)):
        source.query("SELECT cloudsync_payload_save(?)", str(folder / "changes.bin"))
        target.query("SELECT cloudsync_payload_load(?)", str(folder / "changes.bin"))


def write_both(a, b):
    for name, one in (("a", a), ("b", b)):
        one.query("INSERT INTO t VALUES (?1, 'of ' || ?1)", name)
        one.query("UPDATE t SET v = ?1 WHERE id = '1'", name)


def assert_all_there(a, b):
    assert_same("t", a, b)
    assert [row[0] for row in a.query("SELECT id FROM t ORDER BY id")] == ["1", "a", "b"]
    assert a.integrity() == b.integrity() == "ok"


def test_a_copied_file_by_payload_files(original, device, tmp_path):
    a = original
    before = site(a)
    shutil.copy(a.path, tmp_path / "b.db")
    b = device("b")
    assert site(b) != before and site(a) == before
    assert "copied" in why(b) and why(a) is None
    write_both(a, b)
    exchange(a, b, tmp_path)
    exchange(a, b, tmp_path)
    assert_all_there(a, b)


def test_a_copied_file_through_a_server(original, device, server, tmp_path):
    a = original
    a.connect(server)
    a.sync()
    a.query("UPDATE t SET v = 'unsent'")
    a.query("SELECT count(*) FROM cloudsync_changes")
    before = site(a)
    shutil.copy(a.path, tmp_path / "b.db")
    b = device("b", server)
    write_both(a, b)
    sync_until_still(a, b)
    assert_all_there(a, b)
    assert site(a) == before != site(b)


def test_a_renamed_file_keeps_its_site(original, device, tmp_path):
    a = original
    before = site(a)
    a.script("VACUUM; PRAGMA journal_mode = WAL; VACUUM; PRAGMA journal_mode = DELETE;")
    a.query("UPDATE t SET v = 'x'")
    assert site(a) == before
    a.close()
    os.rename(a.path, tmp_path / "moved.db")
    moved = device("moved")
    moved.query("UPDATE t SET v = 'y'")
    moved.query("SELECT cloudsync_payload_encode()")
    assert site(moved) == before
    assert why(moved) is None


def test_a_copy_by_the_backup_api_and_by_vacuum_into(original, device, tmp_path):
    a = original
    before = site(a)
    with sqlite3.connect(tmp_path / "b.db") as target:
        a.conn.backup(target)
    target.close()
    b = device("b")
    a.query("VACUUM INTO ?", str(tmp_path / "c.db"))
    c = device("c")
    assert len({before, site(b), site(c)}) == 3
    assert site(a) == before
    write_both(a, b)
    exchange(a, b, tmp_path)
    exchange(a, b, tmp_path)
    assert_all_there(a, b)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_backup_restored_over_the_file(original, device, server, tmp_path, in_place):
    a = original
    a.connect(server)
    a.sync()
    b = device("b", server, SCHEMA, ["t"])
    shutil.copy(a.path, tmp_path / "backup.db")
    a.query("INSERT INTO t VALUES ('a', 'after the backup')")
    a.sync()
    before = site(a)
    a.close()
    if in_place:
        shutil.copyfile(tmp_path / "backup.db", a.path)
    else:
        os.replace(tmp_path / "backup.db", a.path)
    a = device("a", server)
    a.query("INSERT INTO t VALUES ('b', 'of the restored one')")
    sync_until_still(a, b)
    assert_all_there(a, b)
    assert site(a) != before


def test_a_backup_restored_over_the_file_meets_its_future_in_a_payload(original, device, tmp_path):
    a = original
    b = device("b", None, SCHEMA, ["t"])
    shutil.copy(a.path, tmp_path / "backup.db")
    a.query("INSERT INTO t VALUES ('a', 'after the backup')")
    exchange(a, b, tmp_path)
    before = site(a)
    a.close()
    shutil.copyfile(tmp_path / "backup.db", a.path)
    a = device("a")
    assert site(a) == before
    exchange(a, b, tmp_path)
    assert site(a) != before
    a.query("INSERT INTO t VALUES ('b', 'of the restored one')")
    exchange(a, b, tmp_path)
    assert_all_there(a, b)


def test_a_database_in_memory_keeps_its_site(binding, library):
    from devices import Device

    a = Device(binding, ":memory:", library)
    a.script(SCHEMA)
    first = a.init("t").upper()
    a.query("INSERT INTO t VALUES ('1', 'x')")
    a.query("SELECT cloudsync_payload_encode()")
    assert site(a) == first
    a.close()
