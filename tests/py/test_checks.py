"""Damage that no change tells of: it is found by the syncs that find nothing else to do, repaired, and said."""

import json
import sqlite3
import subprocess

import pytest

from devices import assert_same, sync_until_still

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT, n INTEGER, b BLOB);"
ROWS = "INSERT INTO t VALUES ('a', 'one', 1, zeroblob(9)), ('b', 'two', 2, NULL), ('c', 'three', 3, NULL), ('d', 'four', 4, NULL);"
SYNCS_MAX = 3

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


def repairs(device):
    return json.loads(device.value("SELECT cloudsync_status()"))["repairs"]


def pair(device, server):
    a, b = (device(name, server, SCHEMA, ["t"]) for name in ("a", "b"))
    a.script(ROWS)
    sync_until_still(a, b)
    return a, b


def behind_the_triggers(shell, device, sql):
    """Runs SQL in the shell, without the library and with triggers off."""
    subprocess.run(
        [shell, str(device.path)],
        input=f".bail on\n.dbconfig enable_trigger off\n{sql};\n",
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )


def heal(device):
    """Syncs as a user does, until nothing is repaired any more."""
    for _ in range(SYNCS_MAX):
        device.sync()
        if device.status()["repaired"] == 0:
            return
    raise AssertionError(f"still repairing: {repairs(device)}")


@pytest.mark.parametrize(
    "damage, what",
    [
        ("UPDATE t SET v = 'X' WHERE id = 'b'", {"changed behind the triggers": 1}),
        ("DELETE FROM t WHERE id <> 'a'", {"deleted behind the triggers": 3}),
        ("INSERT INTO t(id, v) VALUES ('e', 'five')", {"inserted behind the triggers": 1}),
        ("DELETE FROM cloudsync_clocks WHERE instr(pk, x'62')", {"its clock was missing": 1}),
        ("DELETE FROM cloudsync_clocks; DELETE FROM t", {"missing here": 4}),
    ],
)
def test_damage_by_the_shell_with_triggers_off(server, device, shell, damage, what):
    a, b = pair(device, server)
    behind_the_triggers(shell, b, damage)
    heal(b)
    sync_until_still(a, b)
    assert_same("t", a, b)
    assert {damage["what"]: damage["rows"] for damage in repairs(b)["damages"]} == what
    assert b.status()["repairs"]["rows"] == sum(what.values())
    assert repairs(a) is None
    if "SET v" in damage:
        assert b.query("SELECT col_name, col_value, kind FROM cloudsync_conflicts") == [("v", "X", "repaired")]


def test_damage_by_writing_into_a_blob(server, device):
    a, b = pair(device, server)
    plain = sqlite3.connect(b.path)
    rowid = plain.execute("SELECT rowid FROM t WHERE id = 'a'").fetchone()[0]
    if not hasattr(plain, "blobopen"):
        pytest.fail("this Python cannot open BLOBs")
    with plain.blobopen("t", "b", rowid) as blob:
        blob.write(b"damage")
    plain.commit()
    plain.close()
    damaged = b.value("SELECT b FROM t WHERE id = 'a'")
    assert b.rows("t") != a.rows("t") and not b.has_unsent()
    heal(b)
    assert_same("t", a, b)
    assert {damage["what"]: damage["rows"] for damage in repairs(b)["damages"]} == {"changed behind the triggers": 1}
    assert b.query("SELECT col_name, col_value, kind FROM cloudsync_conflicts") == [("b", damaged, "repaired")]


def test_an_idle_sync_checks_and_writes_nothing(server, device):
    a, b = pair(device, server)
    before = b.path.stat().st_mtime_ns, b.path.read_bytes()
    for _ in range(3):
        assert b.sync() == 0
        # One turn that asks what is new, and one that checks.
        assert b.status()["turns"] == 2
    assert (b.path.stat().st_mtime_ns, b.path.read_bytes()) == before
    # A sync that has something to do is as small as ever.
    a.query("UPDATE t SET v = 'x' WHERE id = 'a'")
    a.sync()
    assert a.status()["turns"] == 1
    assert a.status()["bytes_sent"] + a.status()["bytes_received"] <= 200
    b.sync()
    assert b.status()["turns"] == 1


def test_a_reset_compares_everything(server, device, shell):
    a, b = pair(device, server)
    a.script(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "INSERT INTO t(id, v, n) SELECT 'row' || i, 'some text', i FROM n;"
    )
    sync_until_still(a, b)
    behind_the_triggers(shell, b, "UPDATE t SET v = 'X' WHERE n IN (7, 19999)")
    b.query("SELECT cloudsync_network_reset_sync_version()")
    b.sync()
    assert_same("t", a, b)
    status = b.status()
    assert status["repaired"] == 2
    # Two ranges of 256 rows, and digests of the rest.
    assert status["bytes_sent"] + status["bytes_received"] < 40_000, status
