"""Runs one script with and without tracking, and on replicas that get nothing but the payloads of changes.

A table with any trigger behaves differently from one without in SQLite itself: it rolls back a statement that fails halfway
where the other one keeps a part, checks types before constraints, and may go through its rows in another order. So the
database without tracking has triggers that do nothing.

What is compared: rows, errors, `changes()` and `last_insert_rowid()` of each statement, all rows of all tables, and the
tables of the replicas. What may differ, and why: rows with NULL in their key never sync; an update from 0.0 to -0.0
is no change (both in docs/merge.md).
"""

import pathlib
import shutil
import subprocess

from devices import LIBRARY_ERRORS
from torture.file import GROW_ONLY, File
from torture.schemas import KEYS, LITERALS


class Failure(Exception):
    """Something differed; `kind` stays the same while a script is shortened."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Unusable(Exception):
    """SQLite, or `cloudsync_init`, does not take this schema."""


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
        # As they are called now.
        self.tables = {table.name: list(table.key) for table in schema.tables}
        self.kinds = {table.name: (table.algorithm, table.flags) for table in schema.tables}
        # No longer compared with the database without tracking.
        self.alone = False

    def open(self, name, library, statements):
        self.files += 1
        file = File(self.binding, self.folder / f"{name}{self.files}.db", library)
        self.opened.append(file)
        for sql in [*self.schema.settings, *statements]:
            file.query(sql)
        return file

    def start(self):
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
            file.set([f"PRAGMA foreign_keys = {int(self.schema.foreign_keys)}",
                      f"PRAGMA recursive_triggers = {int(self.schema.recursive)}"])
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
            self.on_both("result", text, lambda file: self.run_here(file, text))
        elif kind == "fold":
            if self.last_payload is not None:
                self.apply(self.tracked, self.last_payload)
                if not self.plain.in_transaction:
                    # It ends what is put off to the next commit.
                    self.plain.query("BEGIN")
                    self.plain.query("COMMIT")
        elif any(file.in_transaction for file in both):
            return
        elif kind == "reopen":
            for file in both:
                file.reopen()
            self.on_both("result", text, lambda file: file.outcome(text))
        elif kind == "backup":
            self.plain, self.tracked = [self.back_up(file) for file in both]
            self.on_both("result", text, lambda file: file.outcome(text))
        elif kind == "send":
            self.send()
        elif kind in ("ddl", "bracket"):
            self.alter(text, kind == "bracket")
        elif kind == "drop":
            self.drop(text)
        elif kind != "process" or self.shell is not None:
            self.on_both("result", text, lambda file: getattr(self, f"run_{kind}")(file, text))
        self.statements += 1
        if not self.alone and self.plain.in_transaction != self.tracked.in_transaction:
            raise Failure("transaction", f"{text}: open {self.plain.in_transaction}, tracked {self.tracked.in_transaction}")

    def on_both(self, kind, text, run):
        """What a grow-only table refuses, the database without tracking does not try."""
        self.tracked.refused_by_us = False
        told = run(self.tracked)
        if self.tracked.refused_by_us or self.alone:
            return told
        expected = run(self.plain)
        if expected != told:
            raise Failure(kind, f"{text}\n  plain:   {expected}\n  tracked: {told}")
        return told

    def run_here(self, file, text):
        told = file.outcome(text)
        # The files differ in size.
        return "" if text.startswith("PRAGMA") else told

    def run_mode(self, file, text):
        # A connection that leaves WAL mode keeps pages that others have changed since it read them: in any SQLite.
        file.query("SELECT count(*) FROM sqlite_master")
        return file.outcome(f"PRAGMA journal_mode = {text}")

    def run_other(self, file, text, library=True):
        """On a connection of its own."""
        conn = file.open(file.library if library else None)
        try:
            return file.outcome(text, conn)
        finally:
            conn.close()

    def run_plain(self, file, text):
        return self.run_other(file, text, library=False)

    def run_beside(self, file, text):
        """One statement while a transaction of another connection is open."""
        theirs, ours, end = text.split("\n")
        conn = file.open(file.library if len(text) % 2 else None)
        try:
            for each in (conn, file.conn):
                file.query("PRAGMA busy_timeout = 0", conn=each)
            told = [file.outcome(sql, conn) for sql in ("BEGIN IMMEDIATE", theirs)]
            told += [file.outcome(ours), file.outcome(end, conn)]
            file.query("PRAGMA busy_timeout = 5000")
            return told
        finally:
            conn.close()

    def run_attached(self, file, text):
        """From a connection to another file, to which this one is attached."""
        path = self.pool(file)
        conn = file.open(file.library if len(text) % 2 else None, path)
        try:
            file.query("ATTACH ? AS far", str(file.path), conn=conn)
            return file.outcome(text, conn)
        finally:
            conn.close()

    def run_cross(self, file, text):
        """With values of another file, which is attached here."""
        file.query("ATTACH ? AS near", str(self.pool(file)))
        try:
            return file.outcome(text)
        finally:
            file.query("DETACH near")

    def pool(self, file):
        """A file with a table of values."""
        path = self.folder / "pool.db"
        if not path.exists():
            pool = File(self.binding, path, None)
            rows = ", ".join(f"({key}, {value})" for key in KEYS if key[0] != "x" for value in LITERALS[::4] if value[0] != "x")
            for sql in [*self.schema.settings, "CREATE TABLE pool (a, b)", f"INSERT INTO pool VALUES {rows}"]:
                pool.query(sql)
            pool.close()
        return path

    def run_process(self, file, text):
        command = [self.shell, "-batch", str(file.path)]
        done = subprocess.run(command, input="\n".join(f"{sql};" for sql in [*file.settings, text]), capture_output=True, text=True)
        file.refused_by_us = GROW_ONLY in done.stderr
        return done.stdout + done.stderr

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
        copy = File(self.binding, path, file.library, file.settings)
        self.opened.append(copy)
        return copy

    def alter(self, text, in_bracket):
        """Changes the schema everywhere. In the bracket with unsent changes, too."""
        table = text.split()[2]
        if table not in self.tables and in_bracket:
            return
        if not in_bracket:
            # A replica that is behind may yet have rows that a new UNIQUE index does not take.
            self.send()

        def run(file, tracks=True):
            if not (tracks and in_bracket):
                return file.outcome(text)
            file.query("SELECT cloudsync_begin_alter(?)", table)
            told = file.outcome(text)
            file.query("SELECT cloudsync_commit_alter(?)", table)
            return told

        told = self.on_both("ddl", text, lambda file: run(file, file is not self.plain))
        if not told.startswith("["):
            return
        for file in (self.follower, self.twin):
            run(file)
        words = text.split()
        if "RENAME TO" in text:
            self.tables[words[-1]], self.kinds[words[-1]] = self.tables.pop(table), self.kinds.pop(table)
        elif "RENAME COLUMN" in text:
            self.tables[table] = [words[-1] if column == words[-3] else column for column in self.tables[table]]

    def drop(self, text):
        """Drops a synced table; from here on without the database without tracking. Made again, its rows come from the
        others. Not made again, all else goes on."""
        table, again = text.split()
        if table not in self.tables or self.tracked.in_transaction:
            return
        self.send()
        if not self.keys_held:
            self.tracked.set(["PRAGMA foreign_keys = 0"])
        made = self.tracked.query(
            "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('table', 'index') AND sql IS NOT NULL ORDER BY rowid", table)
        if not self.tracked.outcome(f"DROP TABLE {table}").startswith("["):
            return
        self.alone = True
        if again == "forget" and len(self.tables) > 1:
            del self.tables[table]
            return
        for (sql,) in made:
            self.tracked.query(sql)
        self.tracked.value("SELECT cloudsync_db_version()")
        for (chunk,) in self.follower.query("SELECT payload FROM cloudsync_payload_chunks(0)"):
            self.apply(self.tracked, chunk)
        # What foreign keys did to the children.
        self.send()

    def apply(self, file, payload):
        try:
            file.query("SELECT cloudsync_payload_apply(?)", payload)
        except LIBRARY_ERRORS as error:
            raise Failure("apply", str(error)) from error

    def send(self):
        # SQLite lets some orphans in, as by an upsert.
        if self.keys_held and (self.tracked.query("PRAGMA foreign_key_check") or self.has_local_parents()):
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

    def has_local_parents(self):
        """Whether a row may have its parent in one that never syncs, because its key has a NULL: elsewhere it would wait."""
        for child in self.tables:
            for _, _, parent, column, target, *_ in self.tracked.query(f"PRAGMA foreign_key_list({child})"):
                parent = next((name for name in self.tables if name.lower() == parent.lower()), None)
                if parent is None:
                    continue
                local = " OR ".join(f"p.{name} IS NULL" for name in self.tables[parent])
                same = f"p.{target or self.tables[parent][0]} = c.{column}"
                if self.tracked.query(f"SELECT 1 FROM {child} AS c JOIN {parent} AS p ON {same} WHERE {local} LIMIT 1"):
                    return True
        return False

    def finish(self):
        for file in (self.plain, self.tracked):
            for sql in ("COMMIT", "ROLLBACK"):
                file.outcome(sql) if file.in_transaction else None
        self.compare_plain("at the end")
        self.send()
        late = self.open("late", self.library, [])
        schema = self.tracked.query(
            "SELECT sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL "
            "AND name NOT LIKE 'cloudsync%' AND name NOT LIKE 'sqlite%' ORDER BY rowid")
        for (sql,) in schema:
            late.query(sql)
        for table in self.tables:
            algorithm, flags = self.kinds[table]
            late.query("SELECT cloudsync_init(?, ?, ?)", table, algorithm, flags)
        for (chunk,) in self.tracked.query("SELECT payload FROM cloudsync_payload_chunks(0)"):
            self.apply(late, chunk)
        self.compare_replica("late", late)
        for file in (self.tracked, self.follower, self.twin, late):
            found = sorted(file.query("PRAGMA integrity_check"))
            # SQLite itself stores values that it then complains of, where a REAL column has the default 'b'.
            if found not in ([("ok",)], sorted(self.plain.query("PRAGMA integrity_check"))) and not self.alone:
                raise Failure("integrity", f"{found} in {file.path.name}")

    def compare_plain(self, when):
        if self.alone:
            return
        for table in [*self.tables, "audit"]:
            if self.plain.dump(table) != self.tracked.dump(table):
                raise Failure("rows", f"{table} {when}:\n  plain:   {self.plain.dump(table)}\n  tracked: {self.tracked.dump(table)}")

    def compare_replica(self, name, file):
        for table, key in self.tables.items():
            expected, found = self.tracked.dump(table, key), file.dump(table, key)
            if expected != found:
                waits = file.query("SELECT tbl, reason FROM cloudsync_quarantine")
                raise Failure(f"replica {name}", f"{table}\n  tracked: {expected}\n  {name}: {found}\n  waits: {waits}")
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
