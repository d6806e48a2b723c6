"""Runs one script with and without tracking, and on replicas that get nothing but the payloads of changes.

A table with any trigger behaves differently from one without in SQLite itself: it rolls back a statement that fails halfway
where the other one keeps a part, checks types before constraints, and may go through its rows in another order. So the
database without tracking has triggers that do nothing.

What is compared: rows, errors, `changes()` and `last_insert_rowid()` of each statement, all rows of all tables, and the
tables of the replicas. What may differ, and why: rows with NULL in their key never sync; an update from 0.0 to -0.0
is no change (both in docs/merge.md).
"""

import math
import pathlib
import re
import shutil
import subprocess

from devices import LIBRARY_ERRORS, quoted

SETUP_ERRORS = LIBRARY_ERRORS


class Failure(Exception):
    """Something differed; `kind` stays the same while a script is shortened."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Unusable(Exception):
    """SQLite, or `cloudsync_init`, does not take this schema."""


class File:
    """One database file with its connections."""

    def __init__(self, binding, path, library):
        self.binding, self.path, self.library = binding, pathlib.Path(path), library
        self.settings = []
        self.conn = self.open(library)

    def open(self, library):
        conn = self.binding.open(str(self.path))
        self.binding.query(conn, "PRAGMA synchronous = OFF", ())
        if library is not None:
            self.binding.load(conn, library)
        for sql in self.settings:
            self.binding.query(conn, sql, ())
        return conn

    def reopen(self):
        self.conn.close()
        self.conn = self.open(self.library)

    def query(self, sql, *parameters, conn=None):
        return [tuple(row) for row in self.binding.query(conn or self.conn, sql, parameters)]

    def value(self, sql, *parameters):
        return self.query(sql, *parameters)[0][0]

    @property
    def in_transaction(self):
        return self.conn.in_transaction if hasattr(self.conn, "in_transaction") else not self.conn.getautocommit()

    def outcome(self, sql, conn=None):
        """What a statement gives, as text that can be compared."""
        conn = conn or self.conn
        try:
            rows = self.query(sql, conn=conn)
        except LIBRARY_ERRORS as error:
            # Of several constraints a table with triggers may check another one first.
            return type(error).__name__
        [(changes, rowid)] = self.query("SELECT changes(), last_insert_rowid()", conn=conn)
        told = f"{sorted(map(repr, rows))}"
        if sql.startswith(("INSERT", "UPDATE", "DELETE", "REPLACE")):
            told += f", {changes} changes"
            if changes and self.counts_rowids(sql):
                told += f", rowid {rowid}"
        return told

    def counts_rowids(self, sql):
        """Whether an insertion must have set `last_insert_rowid()`."""
        if not sql.startswith(("INSERT INTO", "REPLACE")) or "ON CONFLICT" in sql:
            return False
        created = self.query("SELECT sql FROM sqlite_master WHERE name = ?", re.search(r"INTO (\w+)", sql)[1])
        return "WITHOUT ROWID" not in created[0][0]

    def columns(self, table):
        return [row[1] for row in self.query(f"PRAGMA table_xinfo({quoted(table)})")]

    def dump(self, table, key=None):
        """Every bit of every row; with a key only those rows that have one whole, and no sign of zeros."""
        names = [quoted(name) for name in self.columns(table)]
        shown = ", ".join(
            f"typeof({name}), CASE WHEN typeof({name}) IN ('text', 'blob') THEN hex({name}) ELSE {name} END" for name in names
        )
        where = "".join(f" AND {quoted(name)} IS NOT NULL" for name in key or ())
        rows = self.query(f"SELECT {shown} FROM {quoted(table)} WHERE 1{where}")
        return sorted(tuple(bits(value, bool(key)) for value in row) for row in rows)

    def close(self):
        self.conn.close()


def bits(value, unsigned_zero):
    if isinstance(value, float):
        return (0.0 if unsigned_zero and value == 0 else value).hex() if math.isfinite(value) else repr(value)
    return str(value)


def idle_triggers(table):
    """Triggers that do nothing, where tracking has some that do."""
    for event in ("INSERT", "UPDATE", "DELETE"):
        # A call of a function makes SQLite keep a statement journal, which ours do without in a DELETE.
        value = "1" if event == "DELETE" else "julianday()"
        for time in ("BEFORE", "AFTER"):
            name = f"idle_{time}_{event}_{table}"
            yield f"CREATE TRIGGER {name} {time} {event} ON {table} BEGIN INSERT INTO idle SELECT {value} WHERE 0; END"


class World:
    """One run of one script."""

    def __init__(self, binding, library, folder, schema, shell=None):
        self.binding, self.library, self.folder, self.schema, self.shell = binding, library, pathlib.Path(folder), schema, shell
        self.files = 0
        self.opened = []
        self.sent, self.last_payload = 0, None
        self.statements = 0
        self.keys_held = schema.foreign_keys

    def open(self, name, library, statements):
        self.files += 1
        file = File(self.binding, self.folder / f"{name}{self.files}.db", library)
        self.opened.append(file)
        for sql in statements:
            file.query(sql)
        return file

    def start(self):
        settings = [f"PRAGMA foreign_keys = {int(self.schema.foreign_keys)}",
                    f"PRAGMA recursive_triggers = {int(self.schema.recursive)}"]
        try:
            idle = [sql for table in self.schema.tables for sql in idle_triggers(table.name)]
            idle_table = "CREATE TABLE idle (x)"
            self.plain = self.open("plain", None, [*self.schema.statements, idle_table, *idle])
            self.tracked = self.open("tracked", self.library, self.schema.statements)
            self.follower = self.open("follower", self.library, self.schema.replica)
            self.twin = self.open("twin", self.library, self.schema.replica)
            for table in self.schema.tables:
                for file in (self.tracked, self.follower, self.twin):
                    file.query("SELECT cloudsync_init(?, ?, ?)", table.name, table.algorithm, table.flags)
        except LIBRARY_ERRORS as error:
            raise Unusable(str(error)) from error
        for file in (self.plain, self.tracked):
            file.settings = settings
            for sql in settings:
                file.query(sql)
        self.twin_keys()

    def twin_keys(self):
        """The twin has foreign keys on as long as no orphan can come."""
        self.twin.query(f"PRAGMA foreign_keys = {int(self.keys_held)}")

    def run(self, script):
        try:
            self.start()
            for number, (kind, text) in enumerate(script):
                self.step(kind, text)
                if number % 7 == 0:
                    self.compare_plain(f"after {kind} {text}")
            self.finish()
        finally:
            for file in self.opened:
                file.close()

    def step(self, kind, text):
        both = (self.plain, self.tracked)
        if kind == "sql":
            if text.startswith("PRAGMA foreign_keys = OFF"):
                self.keys_held = False
                self.twin_keys()
            outcomes = [file.outcome(text) for file in both]
            # The files differ in size.
            self.same("result", text, [""] * 2 if text.startswith("PRAGMA") else outcomes)
        elif kind == "fold":
            if self.last_payload is not None:
                self.apply(self.tracked, self.last_payload)
        elif any(file.in_transaction for file in both):
            return
        elif kind in ("other", "plain"):
            self.run_elsewhere(kind, text)
        elif kind == "mode":
            self.same("mode", text, [file.outcome(f"PRAGMA journal_mode = {text}") for file in both])
        elif kind == "reopen":
            for file in both:
                file.reopen()
            self.same("result", text, [file.outcome(text) for file in both])
        elif kind == "backup":
            self.plain, self.tracked = [self.back_up(file) for file in both]
            self.same("result", text, [file.outcome(text) for file in (self.plain, self.tracked)])
        elif kind == "process":
            self.run_in_shell(text)
        elif kind == "ddl":
            self.alter(text)
        elif kind == "send":
            self.send()
        self.statements += 1
        if self.plain.in_transaction != self.tracked.in_transaction:
            raise Failure("transaction", f"{text}: open {self.plain.in_transaction}, tracked {self.tracked.in_transaction}")

    def same(self, kind, text, outcomes):
        if outcomes[0] != outcomes[1]:
            raise Failure(kind, f"{text}\n  plain:   {outcomes[0]}\n  tracked: {outcomes[1]}")

    def run_elsewhere(self, kind, text):
        outcomes = []
        for file in (self.plain, self.tracked):
            conn = file.open(file.library if kind == "other" else None)
            try:
                outcomes.append(file.outcome(text, conn))
            finally:
                conn.close()
        self.same("result", text, outcomes)

    def run_in_shell(self, text):
        if self.shell is None:
            return
        outcomes = []
        for file in (self.plain, self.tracked):
            command = [self.shell, "-batch", str(file.path)]
            done = subprocess.run(command, input="\n".join(f"{sql};" for sql in [*file.settings, text]), capture_output=True, text=True)
            outcomes.append(done.stdout + done.stderr)
        self.same("result", text, outcomes)

    def back_up(self, file):
        """Goes on in a copy made by SQLite's own backup."""
        self.files += 1
        path = self.folder / f"copy{self.files}.db"
        file.query("VACUUM INTO ?", str(path)) if self.files % 2 else None
        if not self.files % 2:
            target = self.binding.open(str(path))
            if hasattr(file.conn, "iterdump"):
                file.conn.backup(target)
            else:
                with target.backup("main", file.conn, "main") as backup:
                    backup.step()
            target.close()
        settings = file.settings
        copy = File(self.binding, path, file.library)
        copy.settings = settings
        for sql in settings:
            copy.query(sql)
        self.opened.append(copy)
        return copy

    def alter(self, text):
        # A replica that is behind may yet have rows that a new UNIQUE index does not take.
        self.send()
        outcomes = [file.outcome(text) for file in (self.plain, self.tracked)]
        self.same("ddl", text, outcomes)
        if outcomes[0].startswith("["):
            for file in (self.follower, self.twin):
                file.query(text)

    def apply(self, file, payload):
        try:
            file.query("SELECT cloudsync_payload_apply(?)", payload)
        except LIBRARY_ERRORS as error:
            raise Failure("apply", str(error)) from error

    def send(self):
        # SQLite lets some orphans in, as by an upsert.
        if self.keys_held and self.plain.query("PRAGMA foreign_key_check"):
            self.keys_held = False
            self.twin_keys()
        try:
            since = self.sent
            self.last_payload = self.tracked.value("SELECT cloudsync_payload_encode(?)", since)
            self.sent = self.tracked.value("SELECT cloudsync_db_version()")
            chunks = self.tracked.query("SELECT payload FROM cloudsync_payload_chunks(?)", since)
        except LIBRARY_ERRORS as error:
            raise Failure("encode", str(error)) from error
        if self.last_payload is not None:
            self.apply(self.follower, self.last_payload)
        for (chunk,) in chunks:
            self.apply(self.twin, chunk)
        self.compare_plain("after a send")
        self.compare_replica("follower", self.follower)
        self.compare_replica("twin", self.twin)

    def finish(self):
        for file in (self.plain, self.tracked):
            if file.in_transaction:
                file.outcome("COMMIT")
                file.outcome("ROLLBACK")
        self.compare_plain("at the end")
        self.send()
        late = self.open("late", self.library, [])
        schema = self.tracked.query(
            "SELECT sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL "
            "AND name NOT LIKE 'cloudsync%' AND name NOT LIKE 'sqlite%' ORDER BY rowid")
        for (sql,) in schema:
            late.query(sql)
        for table in self.schema.tables:
            late.query("SELECT cloudsync_init(?, ?, ?)", table.name, table.algorithm, table.flags)
        for (chunk,) in self.tracked.query("SELECT payload FROM cloudsync_payload_chunks(0)"):
            self.apply(late, chunk)
        self.compare_replica("late", late)
        for file in (self.tracked, self.follower, self.twin, late):
            # SQLite itself stores values that it then complains of, where a REAL column has the default 'b'.
            found, allowed = (file.query("PRAGMA integrity_check") for file in (file, self.plain))
            if found != [("ok",)] and found != allowed:
                raise Failure("integrity", f"{found}, plain: {allowed}")

    def compare_plain(self, when):
        for table in [table.name for table in self.schema.tables] + ["audit"]:
            if self.plain.dump(table) != self.tracked.dump(table):
                raise Failure("rows", f"{table} {when}:\n  plain:   {self.plain.dump(table)}\n  tracked: {self.tracked.dump(table)}")

    def compare_replica(self, name, file):
        for table in self.schema.tables:
            expected, found = self.tracked.dump(table.name, table.key), file.dump(table.name, table.key)
            if expected != found:
                waits = file.query("SELECT tbl, reason FROM cloudsync_quarantine")
                raise Failure(f"replica {name}", f"{table.name}\n  tracked: {expected}\n  {name}: {found}\n  waits: {waits}")
        waits = file.query("SELECT tbl, reason FROM cloudsync_quarantine")
        if waits:
            raise Failure(f"quarantine {name}", f"{waits}")


def run(binding, library, folder, schema, script, shell=None):
    """Runs a script in a folder of its own, which is removed. Gives the number of statements."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    try:
        world = World(binding, library, folder, schema, shell)
        world.run(script)
        return world.statements
    finally:
        shutil.rmtree(folder)
