"""Random statements: the whole language of writes, and what may happen to a file around them."""

from torture.schemas import KEYS, condition, expression, literal

VERBS = ["INSERT", "INSERT", "INSERT OR IGNORE", "INSERT OR REPLACE", "INSERT OR REPLACE", "REPLACE", "INSERT OR FAIL",
         "INSERT OR ABORT", "INSERT OR ROLLBACK"]
UPDATES = ["UPDATE", "UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE", "UPDATE OR REPLACE", "UPDATE OR FAIL",
           "UPDATE OR ROLLBACK"]


class Statements:
    """Draws the steps of one script. A step is a kind and a text."""

    def __init__(self, rng, schema):
        self.rng = rng
        self.schema = schema
        self.altered = 0

    def script(self, length):
        return [self.step() for _ in range(length)]

    def step(self):
        rng = self.rng
        roll = rng.random()
        if roll < 0.74:
            return (rng.choice(["sql"] * 8 + ["other", "plain"]), self.write())
        if roll < 0.80:
            return ("sql", rng.choice(["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]))
        if roll < 0.86:
            return ("sql", rng.choice(["BEGIN", "BEGIN IMMEDIATE", "COMMIT", "COMMIT", "ROLLBACK"]))
        if roll < 0.93:
            return ("send", "")
        if roll < 0.95:
            return ("fold", "")
        if roll < 0.965:
            return ("sql", rng.choice(["VACUUM", "REINDEX", "ANALYZE", "PRAGMA wal_checkpoint", "PRAGMA optimize"]))
        if roll < 0.975:
            return ("mode", rng.choice(["WAL", "DELETE", "TRUNCATE", "PERSIST"]))
        if roll < 0.985:
            return (rng.choice(["reopen", "backup", "process"]), self.write())
        if roll < 0.992:
            pragma = rng.choice(["recursive_triggers", "foreign_keys", "defer_foreign_keys"])
            return ("sql", f"PRAGMA {pragma} = {rng.choice(['ON', 'OFF'])}")
        return self.alter()

    def table(self):
        return self.rng.choice(self.schema.tables)

    def write(self):
        roll = self.rng.random()
        table = self.table()
        if roll < 0.5:
            text = self.insert(table)
        elif roll < 0.82:
            text = self.update(table)
        else:
            text = self.delete(table)
        if self.rng.random() < 0.15:
            text += " RETURNING " + self.rng.choice(["*", ", ".join(table.columns), f"{table.columns[0]} AS x"])
        return text

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
            unique = rng.choice(["UNIQUE ", ""])
            return ("ddl", f"CREATE {unique}INDEX x{self.altered} ON {table.name} ({rng.choice(table.columns)})")
        return ("ddl", f"DROP TRIGGER IF EXISTS user{rng.randint(0, 2)}")
