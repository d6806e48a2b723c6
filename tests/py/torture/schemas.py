"""Random schemas: every kind of table, column, index, constraint and trigger that SQLite has."""

import dataclasses
import random

ACTIONS = ["NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT", "CASCADE"]
COLLATIONS = ["", "", "", " COLLATE NOCASE", " COLLATE RTRIM"]
TYPES = ["TEXT", "TEXT", "INTEGER", "REAL", "BLOB", "NUMERIC", "", "VARCHAR(9)", "BOOLEAN", "DATETIME"]
STRICT_TYPES = ["TEXT", "INT", "INTEGER", "REAL", "BLOB", "ANY"]
LITERALS = [
    "NULL", "0", "1", "2", "3", "-1", "1.0", "0.5", "9223372036854775807", "-1e300", "''", "'a'", "'A'", "'a '", "'b'",
    "'1'", "'1.0'", "' 2'", "x''", "x'61'", "x'310062'", "'e\u0301\u20ac'", "'0190163d-8694-739b-aea5-966c26f8ad91'",
]
# Few, so that rows collide.
KEYS = ["0", "1", "2", "3", "1.0", "'a'", "'A'", "'b'", "'b '", "x'61'", "'1'", "-1"]


@dataclasses.dataclass
class Table:
    name: str
    columns: list  # every stored column
    key: list
    generated: list = dataclasses.field(default_factory=list)
    uniques: list = dataclasses.field(default_factory=list)  # lists of columns that name a conflict target
    without_rowid: bool = False
    algorithm: str = "cls"
    flags: int = 0
    kinds: dict = dataclasses.field(default_factory=dict)  # the types of the columns of a STRICT table
    types: dict = dataclasses.field(default_factory=dict)  # what every column was declared as

    def fit(self, column, value):
        """A value, or an expression, that the column takes. Where a type does not fit SQLite without a statement journal
        keeps the rows before the one that fails, so tables with triggers differ from those without."""
        kind = self.kinds.get(column)
        if kind is None or value == "NULL":
            return value
        if self.flags and column in self.key:
            # Once a row has the greatest rowid SQLite draws the others at random.
            return f"CAST({value} AS INTEGER) % 1000"
        return value if kind == "ANY" else f"CAST({value} AS {kind})"

    @property
    def cells(self):
        return [column for column in self.columns if column not in self.key] or self.key


@dataclasses.dataclass
class Schema:
    tables: list
    statements: list  # in the order in which they run
    replica: list  # those that a device needs that only receives
    foreign_keys: bool
    recursive: bool
    settings: list = dataclasses.field(default_factory=list)  # of every file, before its first table
    views: list = dataclasses.field(default_factory=list)  # names and columns

    def table(self, name):
        return next(table for table in self.tables if table.name == name)


def literal(rng, keys=False):
    return rng.choice(KEYS if keys or rng.random() < 0.4 else LITERALS)


def condition(rng, names):
    """A condition over some columns."""
    column = rng.choice(names)
    return rng.choice([
        f"{column} = {literal(rng)}",
        f"{column} > {literal(rng)}",
        f"{column} IS NOT NULL",
        f"{column} IS {literal(rng)}",
        f"typeof({column}) = '{rng.choice(['text', 'integer', 'real', 'null', 'blob'])}'",
        f"{column} IN ({literal(rng)}, {literal(rng)}, {literal(rng)})",
        f"length({column}) < 2",
    ])


def expression(rng, names):
    """A deterministic expression over some columns."""
    a, b = rng.choice(names), rng.choice(names)
    return rng.choice([
        f"lower({a})", f"coalesce({a}, {b}, 'x')", f"{a} || '-' || {b}", f"abs({a}) + 1", f"substr({a}, 1, 1)",
        f"typeof({a})", f"CASE WHEN {a} IS NULL THEN {b} ELSE {a} END", f"ifnull(length({a}), 0)",
    ])


class Maker:
    """Draws one schema."""

    def __init__(self, rng: random.Random, version):
        self.rng = rng
        self.version = version
        self.tables, self.creates, self.indexes, self.triggers = [], [], [], []

    def chance(self, share):
        return self.rng.random() < share

    def make(self):
        count = self.rng.choice([1, 2, 2, 3])
        for number in range(count):
            self.make_table(f"t{number}")
        for table in self.tables:
            self.make_indexes(table)
        if self.chance(0.5):
            for number in range(self.rng.randint(1, 3)):
                self.make_trigger(number)
        audit = ["CREATE TABLE audit (what, a, b)"]
        views = self.make_view() if self.chance(0.15) else []
        statements = audit + self.creates + self.indexes + [text for text, _ in self.triggers] + views
        replica = audit + self.creates + self.indexes
        replica += [text for text, refuses in self.triggers if not refuses]
        settings = [
            text
            for text, share in [("PRAGMA page_size = 512", 0.1), ("PRAGMA auto_vacuum = FULL", 0.1), ("PRAGMA encoding = 'UTF-16le'", 0.1)]
            if self.chance(share)
        ]
        if any("GENERATED" in text for text in self.creates):
            # SQLite takes a bound BLOB for UTF-8 where a number is made of it, and a stored one for text of the file's encoding:
            # the index of such a column then contradicts its table, with and without us.
            settings = [text for text in settings if "encoding" not in text]
        views = [("v0", list(self.tables[0].columns))] if views else []
        return Schema(self.tables, statements, replica, self.chance(0.5), self.chance(0.3), settings, views)

    def make_view(self):
        """A view of the first table that can be written."""
        table = self.tables[0]
        names, fresh = ", ".join(table.columns), ", ".join(table.fit(column, f"NEW.{column}") for column in table.columns)
        same = " AND ".join(f"{column} IS OLD.{column}" for column in table.key)
        cell = table.cells[-1]
        verb = self.rng.choice(["INSERT", "INSERT OR IGNORE", "INSERT OR REPLACE"])
        return [
            f"CREATE VIEW v0 AS SELECT {names} FROM {table.name}",
            f"CREATE TRIGGER v0_i INSTEAD OF INSERT ON v0 BEGIN {verb} INTO {table.name} ({names}) VALUES ({fresh}); END",
            f"CREATE TRIGGER v0_u INSTEAD OF UPDATE ON v0 BEGIN UPDATE {table.name} SET {cell} = {table.fit(cell, f'NEW.{cell}')} WHERE {same}; END",
            f"CREATE TRIGGER v0_d INSTEAD OF DELETE ON v0 BEGIN DELETE FROM {table.name} WHERE {same}; END",
        ]

    def make_table(self, name):
        rng = self.rng
        algorithm = rng.choice(["cls", "cls", "cls", "dws", "aws", "gos"])
        # What REPLACE throws out of a grow-only table is not lost for the others (docs/merge.md).
        grows = algorithm == "gos"
        strict = self.version >= (3, 37) and self.chance(0.2)
        without_rowid = self.chance(0.3)
        lone_integer = not without_rowid and self.chance(0.25)
        names = ["k0"] if lone_integer else [f"k{i}" for i in range(rng.choice([1, 1, 1, 2, 3]))]
        key = list(names)
        parts, stored, generated, uniques, kinds, types = [], list(names), [], [], {}, {}
        for column in names:
            if lone_integer:
                autoincrement = " AUTOINCREMENT" if self.chance(0.3) else ""
                parts.append(f"{column} INTEGER PRIMARY KEY{autoincrement}")
                kinds[column] = types[column] = "INTEGER"
                continue
            kind = types[column] = rng.choice(STRICT_TYPES if strict else TYPES)
            kinds.update({column: kind} if strict else {})
            not_null = " NOT NULL" if without_rowid or self.chance(0.6) else ""
            parts.append(f"{column} {kind}{rng.choice(COLLATIONS)}{not_null}")
        for i in range(rng.choice([0, 1, 2, 2, 3, 4])):
            column = f"c{i}"
            stored.append(column)
            types[column] = rng.choice(STRICT_TYPES if strict else TYPES)
            kinds.update({column: types[column]} if strict else {})
            parts.append(self.make_column(column, types[column], kinds, uniques, may_be_unique=not grows))
        if self.chance(0.25):
            generated.append("g0")
            kind = rng.choice(["STORED", "VIRTUAL"])
            declared = "ANY" if strict else rng.choice(["", "TEXT", "INTEGER"])
            parts.append(f"g0 {declared} GENERATED ALWAYS AS ({expression(rng, stored)}) {kind}")
        rng.shuffle(parts)
        if not lone_integer:
            rng.shuffle(key)
            terms = ", ".join(column + (" DESC" if self.chance(0.1) else "") for column in key)
            parts.append(f"PRIMARY KEY ({terms}){self.conflict_clause(0.1)}")
        if not grows and self.chance(0.3):
            columns = rng.sample(stored, min(len(stored), rng.choice([1, 2])))
            uniques.append(columns)
            parts.append(f"UNIQUE ({', '.join(columns)}){self.conflict_clause(0.3)}")
        if self.chance(0.15):
            parts.append(f"CHECK ({condition(rng, stored)} OR {condition(rng, stored)})")
        if self.chance(0.4):
            self.make_foreign_key(Table(name, stored, key, uniques=uniques, types=types), parts)
        options = [text for text, wanted in [("WITHOUT ROWID", without_rowid), ("STRICT", strict)] if wanted]
        self.creates.append(f"CREATE TABLE {name} ({', '.join(parts)}) {', '.join(options)}".strip())
        flags = 1 if lone_integer else 0
        self.tables.append(Table(name, stored, key, generated, uniques, without_rowid, algorithm, flags, kinds, types))

    def conflict_clause(self, share):
        if not self.chance(share):
            return ""
        return " ON CONFLICT " + self.rng.choice(["REPLACE", "REPLACE", "IGNORE", "FAIL", "ABORT", "ROLLBACK"])

    def make_column(self, column, kind, kinds, uniques, may_be_unique):
        rng = self.rng
        text = f"{column} {kind}{rng.choice(COLLATIONS)}"
        if self.chance(0.3):
            text += f" NOT NULL{self.conflict_clause(0.3)}"
            text += f" DEFAULT {self.default(kinds.get(column))}" if self.chance(0.7) else ""
        elif self.chance(0.4):
            text += f" DEFAULT {self.default(kinds.get(column))}"
        if may_be_unique and self.chance(0.2):
            uniques.append([column])
            text += f" UNIQUE{self.conflict_clause(0.3)}"
        if self.chance(0.1):
            text += f" CHECK ({condition(rng, [column])} OR {column} IS NULL)"
        return text

    def default(self, kind):
        fitting = {"TEXT": ["'x'", "''"], "INT": ["1", "0"], "INTEGER": ["1"], "REAL": ["0.5"], "BLOB": ["x''"]}
        return self.rng.choice(fitting.get(kind, [*LITERALS[1:], "(1 + 1)", "('x' || 'y')"]))

    def make_foreign_key(self, table, parts):
        rng = self.rng
        parent = rng.choice([*self.tables * 3, table])
        target = rng.choice([parent.key, *parent.uniques])
        if len(target) > len(table.columns):
            return
        columns = rng.sample(table.columns, len(target))
        # SQLite before 3.46 shows triggers the parent's value as a number, though it is a text.
        numeric = {"INTEGER", "INT", "REAL", "NUMERIC", "BOOLEAN", "DATETIME"}
        mixed = any(table.types[a] in numeric and parent.types[b] in ("", "BLOB", "ANY") for a, b in zip(columns, target))
        if mixed and self.version < (3, 46):
            return
        text = f"FOREIGN KEY ({', '.join(columns)}) REFERENCES {parent.name} ({', '.join(target)})"
        text += f" ON DELETE {rng.choice(ACTIONS)}" if self.chance(0.8) else ""
        text += f" ON UPDATE {rng.choice(ACTIONS)}" if self.chance(0.8) else ""
        text += " DEFERRABLE INITIALLY DEFERRED" if self.chance(0.3) else ""
        parts.append(text)

    def make_indexes(self, table):
        rng = self.rng
        names = table.columns + table.generated
        for number in range(rng.choice([0, 0, 1, 2])):
            unique = "UNIQUE " if table.algorithm != "gos" and self.chance(0.7) else ""
            terms = []
            for _ in range(rng.choice([1, 1, 2])):
                term = rng.choice(names) if self.chance(0.65) else expression(rng, names)
                terms.append(term + rng.choice(COLLATIONS) + (" DESC" if self.chance(0.2) else ""))
            where = f" WHERE {condition(rng, names)}" if self.chance(0.35) else ""
            self.indexes.append(f"CREATE {unique}INDEX {table.name}_i{number} ON {table.name} ({', '.join(terms)}){where}")

    def make_trigger(self, number):
        rng = self.rng
        table, other = rng.choice(self.tables), rng.choice(self.tables)
        time, event = rng.choice(["BEFORE", "AFTER", "AFTER"]), rng.choice(["INSERT", "UPDATE", "DELETE"])
        row = "OLD" if event == "DELETE" else rng.choice(["NEW", "OLD"]) if event == "UPDATE" else "NEW"
        of = f" OF {rng.choice(table.columns)}" if event == "UPDATE" and self.chance(0.3) else ""
        seen = [f"{row}.{column}" for column in table.columns]
        when = f" WHEN {condition(rng, seen)}" if self.chance(0.5) else ""
        cell, theirs = rng.choice(other.cells), rng.choice(other.columns)
        listed = rng.sample(other.columns, rng.randint(1, len(other.columns)))
        values = ", ".join(other.fit(column, rng.choice(seen + [literal(rng)])) for column in listed)
        kind = rng.choice(["audit", "audit", "insert", "update", "delete", "raise"])
        refuses = kind == "raise"
        body = {
            "audit": f"INSERT INTO audit VALUES ('{event}', {rng.choice(seen)}, {rng.choice(seen)})",
            "insert": f"INSERT OR {rng.choice(['IGNORE', 'REPLACE'])} INTO {other.name} ({', '.join(listed)}) VALUES ({values})",
            "update": f"UPDATE OR {rng.choice(['IGNORE', 'REPLACE'])} {other.name} SET {cell} = {other.fit(cell, rng.choice(seen))} "
            f"WHERE {theirs} {rng.choice(['=', '<', 'IS NOT'])} {rng.choice(seen)}",
            "delete": f"DELETE FROM {other.name} WHERE {theirs} = {rng.choice(seen)}",
            "raise": f"SELECT RAISE({rng.choice(['IGNORE', chr(65) + 'BORT, ' + repr('no'), 'FAIL, ' + repr('no')])})"
            f" WHERE {condition(rng, seen)}",
        }[kind]
        text = f"CREATE TRIGGER user{number} {time} {event}{of} ON {table.name}{when} BEGIN {body}; END"
        self.triggers.append((text, refuses))


def make(rng, version):
    """A schema that may yet be refused by SQLite."""
    return Maker(rng, version).make()
