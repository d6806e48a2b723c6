"""Writes the files of the present format: `python tests/compat/write.py tests/compat/1`, with the shipped files in dist.

They are written once for each number of the format, and then only read: `tests/py/test_compat.py`.
"""

import json
import pathlib
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "py"))

from devices import BINDINGS, Device, sync_until_still  # noqa: E402
from servers import Server  # noqa: E402

SCHEMA = """
CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, place INTEGER UNIQUE, body BLOB, score REAL);
CREATE TABLE pairs (b INTEGER NOT NULL, a TEXT COLLATE NOCASE NOT NULL, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE shelf (id TEXT PRIMARY KEY NOT NULL, v TEXT);
CREATE TABLE trail (id TEXT PRIMARY KEY NOT NULL, v TEXT);
CREATE TABLE drafts (id TEXT PRIMARY KEY NOT NULL, v TEXT, private INTEGER NOT NULL DEFAULT 0);
"""
ALGORITHMS = {"notes": "cls", "pairs": "dws", "shelf": "aws", "trail": "gos", "drafts": "cls"}
FIRST = """
INSERT INTO notes VALUES ('1', 'one', 1, x'00ff', 0.5), ('2', 'two', 2, NULL, -0.0), ('3', 'three', 3, zeroblob(300), 1e300);
INSERT INTO pairs VALUES (1, 'x', 1), (2, 'X y', 2.5), (3, 'z', NULL);
INSERT INTO shelf VALUES ('s', 'kept'), ('t', 'deleted');
INSERT INTO trail VALUES ('r', 'for ever');
INSERT INTO drafts VALUES ('d', 'public', 0), ('e', 'private', 1);
"""
# Sent: a row with exceptions, tombstones of three algorithms, a row that came back.
SECOND = """
UPDATE notes SET title = 'edited' WHERE id = '2';
DELETE FROM notes WHERE id = '1';
DELETE FROM pairs WHERE b = 3;
DELETE FROM shelf WHERE id = 't';
"""
THIRD = "INSERT INTO pairs VALUES (3, 'Z', 'again'); INSERT INTO notes VALUES ('1', 'back', 1, NULL, NULL)"
# Not taken in when the file is written.
NOTED = "UPDATE notes SET score = 2 WHERE id = '3'; INSERT INTO shelf VALUES ('u', 'noted'); DELETE FROM shelf WHERE id = 's'"


def initialised(device):
    device.script(SCHEMA)
    for table, algorithm in ALGORITHMS.items():
        device.init(table, algorithm)
    return device


def rows(device):
    return {table: [list(map(str, row)) for row in device.rows(table)] for table in ALGORITHMS}


def write(target, folder):
    binding, library = BINDINGS["sqlite3"], ROOT / "dist" / "lib" / "cloudsync.so"
    server = Server(ROOT / "dist" / "cloudsync", folder / "server")
    a, b = (initialised(Device(binding, folder / f"{name}.db", library)) for name in "ab")
    a.query("SELECT cloudsync_set_filter('drafts', 'private = 0')")
    for device in (a, b):
        device.connect(server)
    a.script(FIRST)
    sync_until_still(a, b)
    b.script(SECOND)
    sync_until_still(b, a)
    b.script(THIRD)
    # An edit that loses: `b` edits later.
    a.script("UPDATE notes SET title = 'lost' WHERE id = '2'")
    b.script("UPDATE notes SET title = 'later' WHERE id = '2'")
    sync_until_still(b, a, b)
    # A row that waits: `place` is taken here, and `b` has none of it.
    b.script("ALTER TABLE notes ADD COLUMN later TEXT")
    b.script("UPDATE notes SET later = 'kept aside' WHERE id = '3'")
    a.query("SELECT cloudsync_payload_apply(?)", b.value("SELECT cloudsync_payload_encode()"))
    payload = b.value("SELECT cloudsync_payload_encode()")
    a.script(NOTED)
    expected = {"device": rows(a), "other": rows(b)}
    a.script("VACUUM")
    for device in (a, b):
        device.close()
    server.stop()
    target.mkdir(parents=True)
    shutil.copy(folder / "a.db", target / "device.db")
    shutil.copytree(folder / "server", target / "server", ignore=shutil.ignore_patterns("*.lock", "lock"))
    (target / "payload.bin").write_bytes(payload)
    (target / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        write(pathlib.Path(sys.argv[1]), pathlib.Path(scratch))
