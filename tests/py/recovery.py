"""What must hold once a fault has ended, judged by a list of what was written that the tests keep for themselves."""

import contextlib
import json
import random
import sqlite3
import threading
import time

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT);"
PUT = "INSERT INTO t (id, v) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
WAIT_SECONDS_MAX = 30
# Rounds of all devices until they are in step.
ROUNDS_MAX = 3
# What a device keeps only while something is on its way, or went wrong.
EMPTY = ("log", "inbox", "kept", "quarantine", "rejected")
EMPTY_ON_SERVER = ("log", "quarantine", "server_staging")
STATUS = {
    "unsent": False,
    "unfolded_writes": 0,
    "quarantine": 0,
    "rejected": 0,
    "kept_bytes": 0,
    "kept_lost": False,
    "downloading": False,
    "parted": None,
    "dropped_from_quarantine": 0,
    "dropped_from_rejected": 0,
}
# Where devices agree in data they agree in clocks.
CLOCKS = "SELECT tbl, pk, col_name, time, site_id, cl FROM cloudsync_changes ORDER BY tbl, pk, col_name"


def until(condition, what="the condition"):
    """Waits until something is true, and gives it."""
    deadline, pulse = time.monotonic() + WAIT_SECONDS_MAX, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        pulse.wait(0.005)
    return found


def sqlite_files(folder):
    """Every SQLite file below a folder."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.open("rb").read(16) == b"SQLite format 3\0":
            yield file


class Ledger:
    """The writes of the table `t` by key, oldest first, with who made them, and how far the server acknowledged them."""

    def __init__(self, server):
        self.server = server
        self.writes = {}
        self.acknowledged = {}

    def put(self, device, key, value):
        """Writes a row; what fails is not in the list."""
        device.query(PUT, key, value)
        self.note(device, key, value)

    def fill(self, device, prefix, count, width=16):
        """Writes many rows at one go, with values that do not compress, of so many characters."""
        chance = random.Random(prefix)
        rows = [(f"{prefix}-{number}", chance.randbytes(width // 2).hex()) for number in range(count)]
        device.script("BEGIN")
        for row in rows:
            device.binding.query(device.conn, PUT, row)
        device.script("COMMIT")
        for key, value in rows:
            self.note(device, key, value)

    def note(self, device, key, value):
        """A row that was committed in another way."""
        self.writes.setdefault(key, []).append((self._name(device), value))

    def note_acknowledged(self, device):
        """The server has said that it has everything of a device: from now on it must have it."""
        assert device.has_unsent() == 0
        name = self._name(device)
        for key, writes in self.writes.items():
            if writes[-1][0] == name:
                self.acknowledged[key] = len(writes) - 1

    def is_contested(self, key):
        return len({name for name, _ in self.writes[key]}) > 1

    def allowed(self, key):
        """What a row may hold in the end: the last value; of those that several devices wrote, the last of any."""
        return set(dict(self.writes[key]).values())

    def assert_acknowledged(self):
        """Nothing that was acknowledged is missing in the server's file, whatever happens next."""
        rows = dict(self._server_rows())
        for key, index in self.acknowledged.items():
            later = {value for _, value in self.writes[key][index:]}
            assert rows.get(key) in later, f"{key}: acknowledged {self.writes[key][index]}, the server has {rows.get(key)}"

    def assert_recovered(self, *devices):
        """In step within three rounds, nothing lost, nothing twice, every file whole, and nothing left on the way."""
        assert self.server.process.poll() is None, "the server has died"
        self.assert_acknowledged()
        for _ in range(ROUNDS_MAX):
            for device in devices:
                device.sync()
        for device in devices:
            assert device.sync() == device.status()["sent"] == 0, f"{device.path} is not in step"
            self.note_acknowledged(device)
        for device in devices:
            self._assert_rows(device.query("SELECT id, v FROM t"), device.path)
            self._assert_settled(device)
        first, *others = [device.query(CLOCKS) for device in devices]
        assert all(clocks == first for clocks in others), "the clocks differ"
        self._assert_server(devices)

    def _assert_rows(self, rows, where):
        keys = [key for key, _ in rows]
        assert len(keys) == len(set(keys)), f"{where}: rows are there twice"
        lost = sorted(set(self.writes) - set(keys))
        assert not lost, f"{where}: {len(lost)} of {len(self.writes)} rows are lost: {lost[:5]}"
        strange = sorted(set(keys) - set(self.writes))
        assert not strange, f"{where}: nobody wrote {strange[:5]}"
        for key, value in rows:
            assert value in self.allowed(key), f"{where}: {key} is {value!r}, and should be of {self.allowed(key)}"
        return keys

    def _assert_settled(self, device):
        path = device.path
        assert device.integrity() == "ok", path
        for name in EMPTY:
            assert device.value(f"SELECT count(*) FROM cloudsync_{name}") == 0, f"{path}: {name}"
        status = json.loads(device.value("SELECT cloudsync_status()"))
        different = {name: status[name] for name, value in STATUS.items() if status[name] != value}
        assert not different, f"{path}: {different}"
        # No round is half on its way.
        assert device.query("SELECT value FROM cloudsync_settings WHERE key = 'round' AND value IS NOT NULL") == [], path
        journal = device.query("SELECT cloudsync_pk_decode(pk, 0), kind FROM cloudsync_conflicts")
        assert [key for key, _ in journal if not self.is_contested(key)] == [], f"{path}: values of one author lost"

    def _assert_server(self, devices):
        for file in sqlite_files(self.server.data):
            with contextlib.closing(sqlite3.connect(file)) as conn:
                assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)], file
        rows = self._server_rows()
        self._assert_rows(rows, "the server")
        assert sorted(rows) == sorted(devices[0].query("SELECT id, v FROM t")), "the server has other rows"
        with self._server_file() as conn:
            for name in EMPTY_ON_SERVER:
                assert conn.execute(f"SELECT count(*) FROM cloudsync_{name}").fetchone() == (0,), name
            nonces = dict(conn.execute("SELECT site_id, nonce FROM cloudsync_server_sites"))
        for device in devices:
            # A device that was taken for a copy would have another site by now.
            nonce = device.value("SELECT coalesce(max(value), 0) FROM cloudsync_settings WHERE key = 'nonce'")
            assert nonces.pop(device.value("SELECT cloudsync_siteid()"), 0) == nonce, f"{device.path}: the nonce"
        assert nonces == {}, "somebody else has uploaded"

    def _server_rows(self):
        with self._server_file() as conn:
            known = conn.execute("SELECT count(*) FROM sqlite_schema WHERE name = 't'").fetchone()[0]
            return conn.execute("SELECT id, v FROM t").fetchall() if known else []

    def _server_file(self):
        path = self.server.data / "databases" / f"{self.server.database}.db"
        return contextlib.closing(sqlite3.connect(path, timeout=30))

    @staticmethod
    def _name(device):
        return device.path.name


def recovering(server, device, *names):
    """A ledger, and devices with its table that know the server."""
    return Ledger(server), *(device(name, server, SCHEMA, ["t"]) for name in names)
