"""A device: one database file, a SQLite library of the host's, and the shipped extension."""

import pathlib
import json
import re
import sqlite3
import struct
import time

import apsw

WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE|WITH)\b", re.IGNORECASE)
LIBRARY_ERRORS = (sqlite3.Error, apsw.Error)


class StandardModule:
    """Python's own `sqlite3`, with the system's SQLite."""

    name = "sqlite3"
    version = sqlite3.sqlite_version

    def open(self, path):
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def load(self, conn, library):
        conn.enable_load_extension(True)
        conn.load_extension(str(library))
        conn.enable_load_extension(False)

    def query(self, conn, sql, parameters):
        return conn.execute(sql, parameters).fetchall()

    def script(self, conn, sql):
        # executescript() would commit an open transaction first.
        statement = ""
        for part in sql.split(";"):
            statement += part + ";"
            if sqlite3.complete_statement(statement):
                conn.execute(statement)
                statement = ""
        if statement.strip("; \n"):
            conn.execute(statement)


class Apsw:
    """apsw, which brings the newest SQLite."""

    name = "apsw"
    # The name that older versions have, too.
    version = apsw.sqlitelibversion()

    def open(self, path):
        conn = apsw.Connection(str(path))
        # Older versions have only the other names.
        (conn.set_busy_timeout if hasattr(conn, "set_busy_timeout") else conn.setbusytimeout)(5000)
        return conn

    def load(self, conn, library):
        if not hasattr(conn, "load_extension"):
            conn.enableloadextension(True)
            conn.loadextension(str(library))
            return
        conn.enable_load_extension(True)
        conn.load_extension(str(library))
        conn.enable_load_extension(False)

    def query(self, conn, sql, parameters):
        return conn.execute(sql, parameters).fetchall()

    def script(self, conn, sql):
        conn.execute(sql).fetchall()


BINDINGS = {binding.name: binding for binding in (StandardModule(), Apsw())}


def quoted(name):
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def bits(value):
    """A value as text from which every bit can be told, the sign of zero too."""
    return struct.pack(">d", value).hex() if isinstance(value, float) else str(value)


def let_the_clock_move():
    """Waits until the clock that stamps edits shows another time: edits in one millisecond are a tie."""
    start = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 < start + 2:
        pass


class Device:
    """A connection with the extension, and what tests ask of it again and again."""

    def __init__(self, binding, path, library):
        self.binding = binding
        self.path = pathlib.Path(path)
        self.conn = binding.open(path)
        if library is not None:
            binding.load(self.conn, library)

    def query(self, sql, *parameters):
        """The rows of one statement, as tuples."""
        rows = [tuple(row) for row in self.binding.query(self.conn, sql, parameters)]
        if WRITES.match(sql):
            let_the_clock_move()
        return rows

    def value(self, sql, *parameters):
        """The only value of the only row."""
        [[value]] = self.query(sql, *parameters)
        return value

    def script(self, sql):
        """Runs statements and forgets what they give. Edits of later calls are later ones."""
        self.binding.script(self.conn, sql)
        let_the_clock_move()

    def error(self, sql, *parameters):
        """The text of the error that a statement must give."""
        try:
            rows = self.query(sql, *parameters)
        except LIBRARY_ERRORS as error:
            assert str(error).strip(), f"{sql}: an error without a text"
            return str(error)
        raise AssertionError(f"{sql} gave {rows} and should be an error")

    def init(self, table, *arguments):
        """Makes a table sync; gives the site id."""
        marks = ", ?" * len(arguments)
        return self.value(f"SELECT cloudsync_init(?{marks})", table, *arguments)

    def connect(self, server, key=None):
        """Names the server and shows the key."""
        self.query("SELECT cloudsync_network_init(?)", server.connection)
        self.query("SELECT cloudsync_network_set_apikey(?)", key or server.key)

    def sync(self):
        """One sync; gives the rows received."""
        return self.value("SELECT cloudsync_network_sync()")

    def status(self):
        """The report of the last sync."""
        return json.loads(self.value("SELECT cloudsync_network_status()"))

    def has_unsent(self):
        return self.value("SELECT cloudsync_network_has_unsent_changes()")

    def columns(self, table):
        """Every column, generated ones too."""
        return [row[1] for row in self.query(f"PRAGMA table_xinfo({quoted(table)})")]

    def rows(self, table):
        """Every bit of every row, in an order that does not depend on the file."""
        # Text goes as its bytes, because it need not be valid UTF-8.
        shown = ", ".join(
            f"typeof({name}), CASE WHEN typeof({name}) IN ('text', 'blob') THEN hex({name}) ELSE {name} END"
            for name in map(quoted, self.columns(table))
        )
        rows = self.query(f"SELECT {shown} FROM {quoted(table)}")
        return sorted(tuple(map(bits, row)) for row in rows)

    def integrity(self):
        return self.value("PRAGMA integrity_check")

    def close(self):
        if self.conn is not None:
            self.conn.close()
            self.conn = None


def sync_until_still(*devices, rounds_max=6):
    """Syncs all, again and again, until nobody sends, receives or holds back anything."""
    for _ in range(rounds_max):
        moved = sum(device.sync() + device.status()["sent"] for device in devices)
        if moved == 0 and not any(device.has_unsent() for device in devices):
            return
    raise AssertionError(f"the devices are not in step after {rounds_max} rounds")


def assert_same(table, *devices):
    """Every device holds the same rows, bit for bit."""
    first, *others = devices
    expected = first.rows(table)
    for other in others:
        assert other.rows(table) == expected, f"{table} differs between {first.path} and {other.path}"
