"""The README's getting-started, and more devices than two."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from devices import assert_same, sync_until_still

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS my_data (id TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL DEFAULT '', "
    "created_at TEXT DEFAULT CURRENT_TIMESTAMP);"
)


def play(device, name):
    """The walkthrough as written, with another name in its texts."""
    device.script(SCHEMA)
    device.init("my_data")
    device.script(
        f"INSERT INTO my_data (id, value) VALUES (cloudsync_uuid(), 'Hello from device {name}!'), "
        f"(cloudsync_uuid(), 'Working offline is seamless! ({name})');"
        f"UPDATE my_data SET value = 'Updated: Hello from device {name}!' "
        f"WHERE value LIKE 'Hello from device {name}!';"
    )


def test_both_directions(server, device):
    a, b = device("a"), device("b")
    play(a, "A")
    a.connect(server)
    assert a.has_unsent() == 1
    assert a.sync() == 0
    assert a.has_unsent() == 0
    play(b, "B")
    b.connect(server)
    assert b.sync() == 2
    assert a.sync() == 2
    assert_same("my_data", a, b)
    assert a.value("SELECT count(*) FROM my_data") == 4
    assert a.sync() == 0 and b.sync() == 0
    a.query("SELECT cloudsync_terminate()")
    b.query("SELECT cloudsync_terminate()")


def test_a_table_that_is_empty_on_the_joining_device(server, device):
    a = device("a")
    play(a, "A")
    a.connect(server)
    a.sync()
    b = device("b", server, SCHEMA, ["my_data"])
    assert b.sync() == 2
    assert_same("my_data", a, b)


def test_rows_from_before_init_are_included(server, device):
    a = device("a", schema=SCHEMA)
    a.script("INSERT INTO my_data (id, value) VALUES ('old', 'written before init')")
    a.init("my_data")
    a.connect(server)
    a.sync()
    b = device("b", server, SCHEMA, ["my_data"])
    b.sync()
    assert_same("my_data", a, b)
    assert b.value("SELECT value FROM my_data") == "written before init"


def test_the_other_scheme_is_understood(server, device):
    a = device("a")
    play(a, "A")
    a.query("SELECT cloudsync_network_init(?)", server.connection.replace("cloudsync://", "sqlitecloud://"))
    a.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    assert a.sync() == 0
    assert a.has_unsent() == 0


def test_the_connection_is_remembered_and_the_key_is_not(server, device):
    a = device("a")
    play(a, "A")
    a.connect(server)
    a.sync()
    a.close()
    assert server.key.encode() not in (a.path.read_bytes())
    again = device("a")
    again.error("SELECT cloudsync_network_sync()")
    again.query("SELECT cloudsync_network_set_apikey(?)", server.key)
    assert again.sync() == 0


@pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)
def test_in_the_shell(server, device, shell, library, tmp_path):
    script = (
        f".load ./cloudsync\n{SCHEMA}\nSELECT cloudsync_init('my_data');\n"
        "INSERT INTO my_data (id, value) VALUES (cloudsync_uuid(), 'Hello from the shell!');\n"
        f"SELECT cloudsync_network_init('{server.connection}');\n"
        f"SELECT cloudsync_network_set_apikey('{server.key}');\n"
        "SELECT cloudsync_network_sync();\nSELECT cloudsync_terminate();\n"
    )
    done = subprocess.run(
        [shell, "-batch", "-bail", tmp_path / "shell.db"],
        input=script,
        cwd=library.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    b = device("b", server, SCHEMA, ["my_data"])
    assert b.sync() == 1
    assert b.value("SELECT value FROM my_data") == "Hello from the shell!"


def test_four_devices_at_once(server, device):
    def work(name):
        one = device(name, server, SCHEMA, ["my_data"])
        for number in range(10):
            one.query("INSERT INTO my_data (id, value) VALUES (?, ?)", f"{name}-{number}", name)
            one.query("UPDATE my_data SET value = value || '+' WHERE id = ?", f"{name}-{number // 2}")
            one.sync()
        return one

    with ThreadPoolExecutor(4) as pool:
        devices = list(pool.map(work, ["a", "b", "c", "d"]))
    sync_until_still(*devices)
    assert_same("my_data", *devices)
    assert devices[0].value("SELECT count(*) FROM my_data") == 40


def test_a_device_that_was_offline_for_many_changes(server, device):
    a, b = (device(name, server, SCHEMA, ["my_data"]) for name in "ab")
    a.script("INSERT INTO my_data (id, value) VALUES ('shared', 'start')")
    sync_until_still(a, b)
    for step in range(20):
        a.query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
            "INSERT INTO my_data (id, value) SELECT ?1 || '-' || i, 'value ' || i FROM n",
            step,
        )
        a.query("UPDATE my_data SET value = value || '!' WHERE id LIKE ?", f"{step}-1%")
        a.query("DELETE FROM my_data WHERE id LIKE ?", f"{step}-2%")
        a.sync()
    b.query("INSERT INTO my_data (id, value) VALUES ('offline', 'written meanwhile')")
    assert b.sync() > 0
    sync_until_still(a, b)
    assert_same("my_data", a, b)
    assert a.value("SELECT count(*) FROM my_data") == 2 + 20 * (500 - 111)
