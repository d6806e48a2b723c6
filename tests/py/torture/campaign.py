"""Seeds: from each a schema and a script, and of one that fails the shortest that still does."""

import dataclasses
import random
import time

from torture import schemas, world
from torture.statements import Statements


@dataclasses.dataclass
class Case:
    seed: int
    schema: schemas.Schema
    script: list

    def text(self):
        """The case as one can read and run it."""
        schema = self.schema
        lines = [f"-- seed {self.seed}; foreign_keys {int(schema.foreign_keys)}, recursive_triggers {int(schema.recursive)}"]
        lines += [f"{sql};" for sql in [*schema.settings, *schema.statements]]
        lines += [f"-- cloudsync_init('{table.name}', '{table.algorithm}', {table.flags})" for table in schema.tables]
        lines += [f"{text};" if kind == "sql" else f"-- {kind}: {text}".replace("\n", " | ") for kind, text in self.script]
        return "\n".join(lines)


def draw(seed, version, length):
    rng = random.Random(seed)
    return drawn(rng, version, length, seed)


def drawn(rng, version, length, seed=None):
    """A case from a source of chance."""
    schema = schemas.make(rng, version)
    script = Statements(rng, schema).script(length)
    if any("UTF-16" in text for text in schema.settings):
        # What an odd number of bytes is as a text in UTF-16 depends on where SQLite has it from.
        # So is what a BLOB is as a text where it is stored: SQLite takes it for UTF-8 when it was bound to a parameter.
        # In an index older versions do that too, and complain of the index later.
        schema.statements, schema.replica = (
            [even(text).replace(") STORED", ") VIRTUAL") for text in texts if not (computes(text) and version < (3, 54))]
            for texts in (schema.statements, schema.replica)
        )
        script = [(kind, even(text)) for kind, text in script]
    return Case(seed, schema, script)


def computes(text):
    """Whether it makes an index that calls a function."""
    return text.startswith(("CREATE INDEX", "CREATE UNIQUE INDEX")) and text.count("(") > 1


def even(text):
    return text.replace("x'61'", "x'6100'").replace("x'310062'", "x'31006200'")


class Campaign:
    """Runs cases over one SQLite library."""

    def __init__(self, binding, library, folder, shell=None):
        self.binding, self.library, self.folder, self.shell = binding, library, folder, shell
        self.version = tuple(int(part) for part in binding.version.split(".")[:2])
        self.runs = 0
        self.statements = 0
        self.unusable = 0

    def attempt(self, case):
        """The failure of a case, or None."""
        self.runs += 1
        try:
            self.statements += world.run(self.binding, self.library, self.folder / f"run{self.runs}", case.schema, case.script, self.shell)
        except world.Failure as failure:
            return failure
        except world.Unusable:
            self.unusable += 1
        return None

    def shorten(self, case, failure, seconds):
        """Leaves out of a case what it does not need to fail in the same way."""
        end = time.monotonic() + seconds
        kind = failure.kind

        def fails(candidate):
            nonlocal failure
            if time.monotonic() > end:
                return False
            found = self.attempt(candidate)
            if found is None or found.kind != kind:
                return False
            failure = found
            return True

        size = max(1, len(case.script) // 2)
        while size:
            at = 0
            while at < len(case.script):
                shorter = dataclasses.replace(case, script=case.script[:at] + case.script[at + size :])
                if fails(shorter):
                    case = shorter
                else:
                    at += size
            size //= 2
        for sql in list(reversed(case.schema.statements)):
            left = [text for text in case.schema.statements if text != sql]
            replica = [text for text in case.schema.replica if text != sql]
            tables = [table for table in case.schema.tables if not sql.startswith(f"CREATE TABLE {table.name} ")]
            name = sql.split()[2]
            if not tables or sql.startswith("CREATE TABLE audit") or any(name in text for text in left):
                continue
            schema = dataclasses.replace(case.schema, statements=left, replica=replica, tables=tables)
            shorter = dataclasses.replace(case, schema=schema)
            if fails(shorter):
                case = shorter
        return case, failure
