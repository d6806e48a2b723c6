"""Random statements: the whole language of writes, and what may happen to a file around them."""

import copy
import re

from torture.schemas import KEYS, condition, expression, literal

VERBS = ["INSERT", "INSERT", "INSERT OR IGNORE", "INSERT OR REPLACE", "INSERT OR REPLACE", "REPLACE", "INSERT OR FAIL",
         "INSERT OR ABORT", "INSERT OR ROLLBACK"]
UPDATES = ["UPDATE", "UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE", "UPDATE OR REPLACE", "UPDATE OR FAIL",
           "UPDATE OR ROLLBACK"]


class Statements:
    """Draws the steps of one script. A step is a kind and a text."""

    def __init__(self, rng, schema):
        self.rng = rng
        # Its names change on the way.
        self.schema = copy.deepcopy(schema)
        self.altered = 0

    def script(self, length):
        steps = [self.step() for _ in range(length)]
        if self.rng.random() < 0.2:
            steps.append(("drop", f"{self.table().name} {self.rng.choice(['again', 'again', 'forget'])}"))
            steps += [self.step() for _ in range(8)]
        return steps

    def step(self):
        rng = self.rng
        roll = rng.random()
        if roll < 0.70:
            return (rng.choice(["sql"] * 8 + ["other", "plain"]), self.write())
        if roll < 0.74:
            return self.step_elsewhere()
        if roll < 0.80:
            name = rng.choice(["s", "s", "r"])
            return ("sql", rng.choice([f"SAVEPOINT {name}", f"ROLLBACK TO {name}", f"RELEASE {name}"]))
        if roll < 0.86:
            return ("sql", rng.choice(["BEGIN", "BEGIN IMMEDIATE", "COMMIT", "COMMIT", "ROLLBACK"]))
        if roll < 0.93:
            return ("send", "")
        if roll < 0.95:
            return ("fold", "")
        if roll < 0.965:
            return ("sql", rng.choice(["VACUUM", "REINDEX", "ANALYZE", "PRAGMA wal_checkpoint", "PRAGMA optimize",
                                       "PRAGMA incremental_vacuum"]))
        if roll < 0.975:
            return ("mode", rng.choice(["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"]))
        if roll < 0.985:
            return (rng.choice(["reopen", "backup", "process"]), self.write())
        if roll < 0.990:
            pragma = rng.choice(["recursive_triggers", "foreign_keys", "defer_foreign_keys"])
            return ("sql", f"PRAGMA {pragma} = {rng.choice(['ON', 'OFF'])}")
        return self.alter() if rng.random() < 0.4 else self.bracket()

    def step_elsewhere(self):
        """Beside another connection's transaction, through another file, or with values of another file."""
        # Of the two statements of "beside" a grow-only table could refuse one.
        grows = any(table.algorithm == "gos" for table in self.schema.tables)
        kind = self.rng.choice(["attached", "cross"] if grows else ["beside", "attached", "cross"])
        if kind == "beside":
            return (kind, "\n".join([self.write(), self.write(), self.rng.choice(["COMMIT", "ROLLBACK"])]))
        if kind == "attached":
            return (kind, self.write())
        table = self.table()
        listed = self.rng.sample(table.columns, self.rng.randint(1, len(table.columns)))
        terms = ", ".join(table.fit(column, self.rng.choice("ab")) for column in listed)
        where = condition(self.rng, ["a", "b"])
        return (kind, f"{self.rng.choice(VERBS)} INTO {table.name} ({', '.join(listed)}) SELECT {terms} FROM pool WHERE {where}")

    def table(self):
        return self.rng.choice(self.schema.tables)

    def write(self):
        roll = self.rng.random()
        table = self.table()
        if self.schema.views and roll < 0.06:
            return self.write_view()
        if roll < 0.09:
            return self.write_with_select(table)
        if roll < 0.5:
            text = self.insert(table)
        elif roll < 0.82:
            text = self.update(table)
        else:
            text = self.delete(table)
        if self.rng.random() < 0.15:
            text += " RETURNING " + self.rng.choice(["*", ", ".join(table.columns), f"{table.columns[0]} AS x"])
        return text

    def write_view(self):
        name, columns = self.schema.views[0]
        rng, first = self.rng, self.schema.tables[0]
        change = f"UPDATE {name} SET {rng.choice(columns)} = {literal(rng)} WHERE {rng.choice(columns)} = {rng.choice(KEYS)}"
        removal = f"DELETE FROM {name} WHERE {condition(rng, columns)}"
        values = ", ".join(literal(rng, keys=column in first.key) for column in columns)
        return rng.choice([f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({values})", change, removal])

    def write_with_select(self, table):
        """A common table expression before the statement."""
        rng, source = self.rng, self.table()
        column = rng.choice(source.columns)
        head = f"WITH x(v) AS (SELECT {column} FROM {source.name} UNION SELECT {literal(rng)})"
        cell, found = rng.choice(table.cells), "(SELECT v FROM x ORDER BY typeof(v), v LIMIT 1)"
        return rng.choice([
            f"{head} DELETE FROM {table.name} WHERE {rng.choice(table.columns)} IN x",
            f"{head} UPDATE {table.name} SET {cell} = {table.fit(cell, found)} WHERE {rng.choice(table.columns)} IN (SELECT v FROM x)",
        ])

    def value(self, column, table):
        # The greatest rowid makes every later insertion fail as if the disk were full.
        if column in table.key and (table.flags or self.rng.random() < 0.85):
            return table.fit(column, self.rng.choice(KEYS))
        return table.fit(column, literal(self.rng))

    def insert(self, table):
        rng = self.rng
        listed = list(table.columns)
        if rng.random() < 0.3:
            listed = rng.sample(listed, rng.randint(1, len(listed)))
        verb = rng.choice(VERBS)
        head = f"{verb} INTO {table.name} ({', '.join(listed)})"
        roll = rng.random()
        if roll < 0.04:
            return f"{verb} INTO {table.name} DEFAULT VALUES"
        if roll < 0.20:
            source = self.table()
            terms = [rng.choice(source.columns + [literal(rng)]) for _ in listed]
            terms = [expression(rng, source.columns) if rng.random() < 0.1 else term for term in terms]
            terms = [table.fit(column, term) for column, term in zip(listed, terms)]
            where = condition(rng, source.columns) if rng.random() < 0.5 else "1"
            text = f"{head} SELECT {', '.join(terms)} FROM {source.name} WHERE {where}"
        else:
            rows = rng.choice([1, 1, 2, 3])
            tuples = [", ".join(self.value(column, table) for column in listed) for _ in range(rows)]
            text = f"{head} VALUES " + ", ".join(f"({row})" for row in tuples)
        if rng.random() < 0.2 and "OR" not in verb and verb != "REPLACE":
            text += self.upsert(table)
        return text

    def upsert(self, table):
        rng = self.rng
        target = rng.choice([table.key, table.key, *table.uniques])
        if rng.random() < 0.2:
            return f" ON CONFLICT ({', '.join(target)}) DO NOTHING"
        column = rng.choice(table.columns if rng.random() < 0.2 else table.cells)
        to = table.fit(column, rng.choice([f"excluded.{rng.choice(table.columns)}", literal(rng), f"{table.name}.{rng.choice(table.columns)}"]))
        where = f" WHERE {condition(rng, [f'excluded.{column}', f'{table.name}.{column}'])}" if rng.random() < 0.2 else ""
        return f" ON CONFLICT ({', '.join(target)}) DO UPDATE SET {column} = {to}{where}"

    def update(self, table):
        rng = self.rng
        columns = table.columns if rng.random() < 0.25 else table.cells
        chosen = rng.sample(columns, rng.randint(1, min(2, len(columns))))
        verb = f"{rng.choice(UPDATES)} {table.name}"
        if rng.random() < 0.12:
            source = self.table()
            sets = ", ".join(f"{column} = {table.fit(column, 's.' + rng.choice(source.columns))}" for column in chosen)
            on = f"s.{rng.choice(source.columns)} = {table.name}.{rng.choice(table.columns)}"
            # With one match at most the result is defined.
            return f"{verb} SET {sets} FROM (SELECT * FROM {source.name} ORDER BY {', '.join(source.key)} LIMIT 1) AS s WHERE {on}"
        sets = ", ".join(f"{column} = {self.new_value(column, table)}" for column in chosen)
        return f"{verb} SET {sets}{self.where(table)}"

    def new_value(self, column, table):
        rng = self.rng
        if rng.random() < 0.7:
            return self.value(column, table)
        terms = [f"{column} + 1", rng.choice(table.columns), expression(rng, table.columns), f"-{column}"]
        return table.fit(column, rng.choice(terms))

    def where(self, table):
        rng = self.rng
        roll = rng.random()
        if roll < 0.1:
            return ""
        if roll < 0.6:
            column = rng.choice(table.key)
            return f" WHERE {column} = {rng.choice(KEYS)}"
        if roll < 0.75:
            other = self.table()
            return f" WHERE {rng.choice(table.columns)} IN (SELECT {rng.choice(other.columns)} FROM {other.name})"
        return f" WHERE {condition(rng, table.columns)}"

    def delete(self, table):
        return f"DELETE FROM {table.name}{self.where(table)}"

    def alter(self):
        """Changes the schema: by any tool, or in the bracket. The new column is known to later statements."""
        rng, table = self.rng, self.table()
        self.altered += 1
        roll = rng.random()
        if roll < 0.6:
            column = f"n{self.altered}"
            default = rng.choice(["", " DEFAULT 1", " DEFAULT 'x'", " NOT NULL DEFAULT ''"])
            # A default that does not fit a STRICT table is stored all the same.
            kind = "ANY" if table.kinds else rng.choice(["", "INTEGER", "TEXT"])
            return ("ddl", f"ALTER TABLE {table.name} ADD COLUMN {column} {kind}{default}")
        if roll < 0.8:
            unique = rng.choice(["UNIQUE ", ""]) if table.algorithm != "gos" else ""
            return ("ddl", f"CREATE {unique}INDEX x{self.altered} ON {table.name} ({rng.choice(table.columns)})")
        return ("ddl", f"DROP TRIGGER IF EXISTS user{rng.randint(0, 2)}")

    def bracket(self):
        """Changes that need the bracket, or may have it; later statements know the new names."""
        rng, table = self.rng, self.table()
        self.altered += 1
        roll = rng.random()
        if roll < 0.25:
            old, new = table.name, f"r{self.altered}"
            table.name = new
            return ("bracket", f"ALTER TABLE {old} RENAME TO {new}")
        if roll < 0.6:
            old, new = rng.choice(table.columns), f"m{self.altered}"
            self.rename_column(table, old, new)
            return ("bracket", f"ALTER TABLE {table.name} RENAME COLUMN {old} TO {new}")
        if roll < 0.85 and len(table.columns) > len(table.key):
            # Where an index names it SQLite refuses; a trigger of another table that names it would be broken.
            column = rng.choice(table.cells)
            if any(re.search(rf"\b{column}\b", text) for text in self.schema.statements if " TRIGGER " in text or " VIEW " in text):
                return ("send", "")
            table.columns.remove(column)
            table.uniques = [unique for unique in table.uniques if column not in unique]
            return ("bracket", f"ALTER TABLE {table.name} DROP COLUMN {column}")
        column = f"n{self.altered}"
        table.columns.append(column)
        kind = "ANY" if table.kinds else ""
        return ("bracket", f"ALTER TABLE {table.name} ADD COLUMN {column} {kind} DEFAULT {rng.choice(['1', 'NULL'])}")

    @staticmethod
    def rename_column(table, old, new):
        def renamed(names):
            return [new if name == old else name for name in names]

        table.columns, table.key, table.generated = map(renamed, (table.columns, table.key, table.generated))
        table.uniques = [renamed(unique) for unique in table.uniques]
        if old in table.kinds:
            table.kinds[new] = table.kinds.pop(old)
