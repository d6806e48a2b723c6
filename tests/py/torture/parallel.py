"""Writers at the same time: processes with the extension and without it write to one file, and a replica that gets nothing
but the payloads, taken while they write, is equal in the end. `python -m torture.parallel` is one of the writers."""

import contextlib
import json
import pathlib
import random
import subprocess
import sys

from devices import BINDINGS, LIBRARY_ERRORS
from torture import schemas
from torture.file import File
from torture.statements import Statements
from torture.world import Failure, Unusable

HERE = pathlib.Path(__file__).resolve().parents[1]
WAIT = "PRAGMA busy_timeout = 100000"
# Between two payloads the lock is left to the writers, in seconds: SQLite lets nobody queue for it.
PAUSE = 0.05


def script(seed, schema, length):
    """Statements of one writer, in transactions of a few each."""
    statements = Statements(random.Random(seed), schema)
    texts = []
    while len(texts) < length:
        batch = [statements.write() for _ in range(statements.rng.choice([1, 1, 2, 5]))]
        texts += batch if len(batch) == 1 else ["BEGIN IMMEDIATE", *batch, statements.rng.choice(["COMMIT", "COMMIT", "ROLLBACK"])]
    return texts


def write(path, binding, library, settings, texts):
    """Runs statements; what SQLite refuses is refused, but nobody waits in vain. Gives how many were run."""
    file = File(BINDINGS[binding], path, library, [*settings, WAIT])
    for sql in texts:
        try:
            file.query(sql)
        except LIBRARY_ERRORS as error:
            if "locked" in str(error) or "no such" in str(error):
                raise
    file.outcome("COMMIT")
    file.close()
    return len(texts)


def run(binding, library, folder, seed, writers=3, length=120):
    """One file, several writers. Gives the number of statements."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    schema = schemas.make(rng, tuple(int(part) for part in binding.version.split(".")[:2]))
    settings = [f"PRAGMA foreign_keys = {int(schema.foreign_keys)}", f"PRAGMA recursive_triggers = {int(schema.recursive)}"]
    tracked, follower = (File(binding, folder / f"{name}.db", library) for name in ("tracked", "follower"))
    try:
        for file, statements in ((tracked, schema.statements), (follower, schema.replica)):
            file.query(f"PRAGMA journal_mode = {rng.choice(['WAL', 'DELETE'])}")
            for sql in statements:
                file.query(sql)
            for table in schema.tables:
                file.query("SELECT cloudsync_init(?, ?, ?)", table.name, table.algorithm, table.flags)
    except LIBRARY_ERRORS as error:
        raise Unusable(str(error)) from error
    tracked.set([*settings, WAIT])
    tracked.query("SELECT cloudsync_set('busy_ms', 20000)")
    started = []
    for number in range(writers):
        task = {"path": str(tracked.path), "binding": binding.name, "library": str(library) if number % 2 else None,
                "settings": settings, "texts": script(seed * 100 + number, schema, length)}
        command = [sys.executable, "-m", "torture.parallel"]
        process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        process.stdin.write(json.dumps(task))
        process.stdin.close()
        started.append(process)
    sent = 0
    while running := [process for process in started if process.poll() is None]:
        sent = send(tracked, follower, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running[0].wait(timeout=PAUSE)
    for process in started:
        told = process.stdout.read()
        process.stdout.close()
        if process.returncode:
            raise Failure("writer", told)
    send(tracked, follower, sent)
    compare(schema, tracked, follower)
    for file in (tracked, follower):
        file.close()
    return writers * length


def send(tracked, follower, sent):
    try:
        until = tracked.value("SELECT cloudsync_db_version()")
        chunks = tracked.query("SELECT payload FROM cloudsync_payload_chunks(?)", sent)
    except LIBRARY_ERRORS as error:
        # Without a WAL SQLite does not let a reader wait for a writer that waits for it.
        if "try again" not in str(error):
            raise
        return sent
    for (chunk,) in chunks:
        follower.query("SELECT cloudsync_payload_apply(?)", chunk)
    return until


def compare(schema, tracked, follower):
    for table in schema.tables:
        rows = [file.dump(table.name, table.key) for file in (tracked, follower)]
        if rows[0] != rows[1]:
            raise Failure("replica", f"{table.name}\n  tracked: {rows[0]}\n  follower: {rows[1]}")
    waits = follower.query("SELECT tbl, reason FROM cloudsync_quarantine")
    if waits:
        raise Failure("quarantine", f"{waits}")
    for file in (tracked, follower):
        found = file.query("PRAGMA integrity_check")
        if found != [("ok",)] and found != tracked.query("PRAGMA integrity_check"):
            raise Failure("integrity", f"{found}")


if __name__ == "__main__":
    print(write(**json.load(sys.stdin)))
