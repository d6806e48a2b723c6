"""A server whose rows are seen by those who are members of their project, and a user's device."""

import contextlib
import pathlib
import sqlite3
import threading

from devices import BINDINGS, LIBRARY_ERRORS, Device
from recovery import ROUNDS_MAX, sqlite_files
from servers import Server

SCHEMA = """
CREATE TABLE members (project TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (project, user));
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);
"""
MEMBER = "EXISTS (SELECT 1 FROM members AS m WHERE m.project = notes.project AND m.user = auth_userid())"
SEEN = f"SELECT id, project, body FROM notes WHERE {MEMBER.replace('auth_userid()', repr('alice'))} ORDER BY id"
# She is always a member of the first one.
PROJECTS, NOTES_EACH = 6, 150


class Users:
    """Memberships change, and the server is killed while it works out what that means."""

    def __init__(self, folder, dist):
        self.folder = pathlib.Path(folder) / "users"
        self.folder.mkdir()
        self.server = Server(dist / "cloudsync", self.folder / "server")
        self.run(SCHEMA)
        for table in ("members", "notes"):
            self.server.run("table", "enable", self.server.database, table)
        self.server.run("policy", "set", self.server.database, "members", "--select", "user = auth_userid()")
        verbs = ("--select", MEMBER, "--insert", MEMBER, "--update", MEMBER)
        self.server.run("policy", "set", self.server.database, "notes", *verbs)
        rows = ", ".join(f"('{p}-{n}', 'p{p}', 'x')" for p in range(PROJECTS) for n in range(NOTES_EACH))
        self.run(f"INSERT INTO members VALUES ('p0', 'alice'), ('p1', 'alice'); INSERT INTO notes VALUES {rows};")
        self.alice = Device(BINDINGS["sqlite3"], self.folder / "alice.db", dist / "lib" / "cloudsync.so")
        self.alice.script(SCHEMA)
        for table in ("members", "notes"):
            self.alice.init(table)
        self.alice.query("SELECT cloudsync_network_init(?)", self.server.connection)
        token = self.server.run("token", "create", self.server.database, "alice").strip()
        self.alice.query("SELECT cloudsync_network_set_token(?)", token)
        self.alice.sync()
        self.acknowledged = {}

    def run(self, text):
        path = self.folder / "statements.sql"
        path.write_text(text)
        self.server.run("db", "sql", self.server.database, path)

    def change(self, chance):
        """The owner moves memberships and rows with plain SQL."""
        statements = ["BEGIN;"]
        for project in range(1, PROJECTS):
            if chance.random() < 0.5:
                statements.append(f"DELETE FROM members WHERE project = 'p{project}';")
            else:
                statements.append(f"INSERT OR IGNORE INTO members VALUES ('p{project}', 'alice');")
        target, step = chance.randrange(1, PROJECTS), chance.randrange(2, 40)
        statements.append(f"UPDATE notes SET project = 'p{target}' WHERE project <> 'p0' AND rowid % {step} = 0;")
        self.run("\n".join([*statements, "COMMIT;"]))

    def cycle(self, number, chance):
        """Gives whether the server was killed while it was asked."""
        self.change(chance)
        key, value = f"0-{chance.randrange(NOTES_EACH)}", f"edit {number}"
        self.alice.query("UPDATE notes SET body = ? WHERE id = ?", value, key)
        failed = threading.Event()
        timer = threading.Timer(chance.uniform(0, 0.05), self.server.kill)
        timer.start()
        try:
            self.alice.sync()
        except LIBRARY_ERRORS:
            failed.set()
        timer.join()
        if self.alice.has_unsent() == 0:
            self.acknowledged[key] = value
        self.assert_acknowledged(key, value)
        self.server.restart()
        self.recover(key, value)
        return failed.is_set()

    def assert_acknowledged(self, key, value):
        rows = dict(self._ask("SELECT id, body FROM notes"))
        for known, last in self.acknowledged.items():
            assert rows[known] in {last, value if known == key else last}, f"{known}: acknowledged {last}, the server has {rows[known]}"

    def recover(self, key, value):
        for _ in range(ROUNDS_MAX):
            self.alice.sync()
        assert self.alice.sync() == self.alice.status()["sent"] == self.alice.has_unsent() == 0, "alice is not in step"
        self.acknowledged[key] = value
        self.assert_acknowledged(key, value)
        seen = self._ask(SEEN)
        held = self.alice.query("SELECT id, project, body FROM notes ORDER BY id")
        assert held == seen, f"she holds {len(held)} rows and sees {len(seen)}: {sorted(set(held) ^ set(seen))[:5]}"
        assert self.alice.integrity() == "ok"
        for waiting in ("inbox", "quarantine", "rejected"):
            assert self.alice.query(f"SELECT * FROM cloudsync_{waiting}") == [], waiting
        for file in sqlite_files(self.server.data):
            with contextlib.closing(sqlite3.connect(file)) as conn:
                assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)], file

    def _ask(self, sql):
        path = self.server.data / "databases" / f"{self.server.database}.db"
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as conn:
            return conn.execute(sql).fetchall()

    def close(self):
        self.alice.close()
        self.server.kill()
