"""One database file of a script: its connections, what statements give there, and all that it holds."""

import math
import pathlib
import re

from devices import LIBRARY_ERRORS, quoted

# In the error of a deletion in a table of the algorithm gos.
GROW_ONLY = "grow-only table"


class File:
    """One database file with its connections."""

    def __init__(self, binding, path, library, settings=()):
        self.binding, self.path, self.library = binding, pathlib.Path(path), library
        self.settings = list(settings)
        self.refused_by_us = False
        self.conn = self.open(library)

    def open(self, library, path=None):
        conn = self.binding.open(str(path or self.path))
        self.binding.query(conn, "PRAGMA synchronous = OFF", ())
        if library is not None:
            self.binding.load(conn, library)
        for sql in self.settings:
            self.binding.query(conn, sql, ())
        return conn

    def set(self, settings):
        """Settings of every connection from here on."""
        self.settings = list(settings)
        for sql in self.settings:
            self.query(sql)

    def reopen(self):
        self.conn.close()
        self.conn = self.open(self.library)

    def query(self, sql, *parameters, conn=None):
        return [tuple(row) for row in self.binding.query(conn or self.conn, sql, parameters)]

    def value(self, sql, *parameters):
        return self.query(sql, *parameters)[0][0]

    @property
    def in_transaction(self):
        if hasattr(self.conn, "in_transaction"):
            return self.conn.in_transaction
        return not (self.conn.get_autocommit if hasattr(self.conn, "get_autocommit") else self.conn.getautocommit)()

    def outcome(self, sql, conn=None):
        """What a statement gives, as text that can be compared."""
        conn = conn or self.conn
        self.refused_by_us = False
        try:
            rows = self.query(sql, conn=conn)
        except LIBRARY_ERRORS as error:
            self.refused_by_us = GROW_ONLY in str(error)
            # Of several constraints a table with triggers may check another one first.
            return type(error).__name__
        [(changes, rowid)] = self.query("SELECT changes(), last_insert_rowid()", conn=conn)
        told = f"{sorted(map(repr, rows))}"
        if sql.startswith(("INSERT", "UPDATE", "DELETE", "REPLACE", "WITH")):
            told += f", {changes} changes"
            if changes and self.counts_rowids(sql):
                told += f", rowid {rowid}"
        return told

    def counts_rowids(self, sql):
        """Whether an insertion must have set `last_insert_rowid()`."""
        if not sql.startswith(("INSERT INTO", "REPLACE")) or "ON CONFLICT" in sql:
            return False
        created = self.query("SELECT sql FROM sqlite_master WHERE name = ?", re.search(r"INTO (\w+)", sql)[1])
        return created[0][0].startswith("CREATE TABLE") and "WITHOUT ROWID" not in created[0][0]

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
