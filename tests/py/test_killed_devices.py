"""Devices that are killed in every phase: at each write to the disk, in each step of a sync, and by chance."""

import random
import signal
import subprocess
import sys

import pytest

from recovery import PUT, recovering

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)

PRELUDE = """
import os, signal, sqlite3, sys, urllib.request
path, library, connection, key, prefix = sys.argv[1:6]
PUT = %r
def open_device(conn):
    conn.enable_load_extension(True)
    getattr(conn, "load_extension")(library)
    conn.enable_load_extension(False)
    conn.execute("SELECT cloudsync_network_init(?)", (connection,)).fetchall()
    conn.execute("SELECT cloudsync_network_set_apikey(?)", (key,)).fetchall()
    return conn
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def say(text):
    print(text, flush=True)
""" % PUT


def run(script, device, server, library, prefix, more=()):
    """Starts a script in another process, on the file of a device."""
    arguments = [device.path, library, server.connection, server.key, prefix, *more]
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def told(ledger, device, output):
    """Takes in what a process that is dead said it had committed. What it was about to commit is looked up."""
    trying = None
    for line in output.splitlines():
        what, _, key = line.partition(" ")
        if what == "committed":
            ledger.note(device, key, f"value of {key}")
            trying = None
        elif what == "trying":
            trying = key
    if trying and device.query("SELECT v FROM t WHERE id = ?", trying) == [(f"value of {trying}",)]:
        ledger.note(device, trying, f"value of {trying}")


# Forks before SQLite is opened, so each attempt costs milliseconds. The n-th call that changes a file is the last.
EVERY_WRITE = """
import apsw
class File(apsw.VFSFile):
    def __init__(self, filename, flags):
        super().__init__("", filename, flags)
    def xWrite(self, data, offset):
        step()
        super().xWrite(data, offset)
    def xTruncate(self, size):
        step()
        super().xTruncate(size)
    def xSync(self, flags):
        step()
        super().xSync(flags)
class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("dying", "")
    def xOpen(self, name, flags):
        return File(name, flags)
    def xDelete(self, name, sync):
        step()
        super().xDelete(name, sync)
left = None
def step():
    global left
    left -= 1
    if left < 0:
        die()
def attempt(number):
    global left
    left = 1 << 60
    vfs = Disk()
    conn = open_device(apsw.Connection(path, vfs="dying"))
    conn.set_busy_timeout(20000)
    left = number
    key = f"{prefix}-{number}"
    say(f"trying {key}")
    conn.execute(PUT, (key, f"value of {key}")).fetchall()
    say(f"committed {key}")
    conn.execute("SELECT cloudsync_network_sync()").fetchall()
    say(f"synced {key}")
first, stride, number = int(sys.argv[6]), int(sys.argv[7]), 0
number = first
while True:
    child = os.fork()
    if child == 0:
        try:
            attempt(number)
        except BaseException as error:
            say(f"failed {error!r}")
        os._exit(0)
    _, code = os.waitpid(child, 0)
    if code == 0:
        break
    assert os.WTERMSIG(code) == signal.SIGKILL, code
    number += stride
say(f"done {number}")
"""


@pytest.mark.parametrize("rows", [1, 600])
def test_a_device_is_killed_at_every_write_of_a_round(server, device, library, rows):
    """Noting, folding, storing the round, taking in an answer with rows of others: each write may be the last one."""
    ledger, near, far = recovering(server, device, "near", "far")
    near.sync()
    total = 0
    # Each series has news to receive until a round goes through.
    for series in range(3):
        ledger.fill(far, f"far {series}", rows)
        far.sync()
        child = run(EVERY_WRITE, near, server, library, f"near {series}", [series, 3])
        output, _ = child.communicate(timeout=120)
        assert child.returncode == 0 and "failed" not in output, output
        *attempts, last, _ = output.splitlines()
        assert last.startswith("synced"), output
        told_each(ledger, near, attempts)
        total += int(output.split("done ")[1])
        assert near.integrity() == "ok"
        ledger.assert_recovered(near, far)
    assert total > 60, f"{total} writes are too few to be all"


def told_each(ledger, device, lines):
    """As `told`, of many processes in a row."""
    for line, after in zip(lines, [*lines[1:], ""]):
        told(ledger, device, f"{line}\n{after}" if line.startswith("trying") else "")


BETWEEN_STEPS = """
conn = open_device(sqlite3.connect(path, isolation_level=None, timeout=30))
def value(sql, *arguments):
    return conn.execute(sql, arguments).fetchone()[0]
phase, turns, steps = sys.argv[6], int(sys.argv[7]), int(sys.argv[8])
def at(name):
    if name == phase and turn >= turns:
        die()
turn = turns
conn.execute("BEGIN IMMEDIATE")
conn.execute(PUT, (prefix, "never"))
at("in a transaction")
conn.execute("ROLLBACK")
say(f"trying {prefix}")
conn.execute(PUT, (prefix, f"value of {prefix}"))
say(f"committed {prefix}")
at("written")
url = value("SELECT cloudsync_session_start()")
headers = {"Content-Type": "application/vnd.cloudsync", "Authorization": f"Bearer {key}"}
turn = 0
while True:
    at("before the request")
    body = value("SELECT cloudsync_session_request()")
    if body is None:
        break
    turn += 1
    at("request made")
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST"), timeout=60) as reply:
        at("answer begun")
        answer = reply.status, reply.read()
    at("answer received")
    # SQLite asks now and then whether to go on, in the midst of applying.
    if phase == "applying" and turn >= turns:
        conn.set_progress_handler(die, steps)
    value("SELECT cloudsync_session_answer(?, ?)", *answer)
    conn.set_progress_handler(None, 0)
    at("answer taken in")
say("complete")
"""
PHASES = [
    "in a transaction", "written", "before the request", "request made", "answer begun", "answer received", "applying",
    "answer taken in",
]


def finish(child):
    """Waits for the end of a process that killed itself; gives what it said before."""
    output, _ = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, f"it ended with {child.returncode}: {output}"
    return output


@pytest.mark.parametrize("rows, width, turns, steps", [(3, 16, 1, 30), (700, 4000, 2, 3000)], ids=["small", "chunked"])
def test_a_device_is_killed_between_all_steps_of_a_sync(server, device, library, rows, width, turns, steps):
    """Also in the midst of uploads and downloads of several chunks."""
    ledger, near, far = recovering(server, device, "near", "far")
    near.sync()
    for number, phase in enumerate(PHASES):
        ledger.fill(far, f"far {number}", rows, width)
        far.sync()
        ledger.note_acknowledged(far)
        ledger.fill(near, f"near {number}", rows, width)
        turn = 0 if phase in PHASES[:2] else turns
        output = finish(run(BETWEEN_STEPS, near, server, library, f"killed {number}", [phase, turn, steps]))
        told(ledger, near, output)
        assert near.integrity() == "ok"
        near.sync()
    ledger.assert_recovered(near, far)


BY_CHANCE = """
conn = open_device(sqlite3.connect(path, isolation_level=None, timeout=30))
number = 0
say("ready")
while True:
    key = f"{prefix}-{number}"
    say(f"trying {key}")
    conn.execute(PUT, (key, f"value of {key}")).fetchall()
    say(f"committed {key}")
    number += 1
    if number % 3 == 0:
        conn.execute("SELECT cloudsync_network_sync()").fetchall()
        say("synced")
"""
BY_CHANCE_AUTO = BY_CHANCE.replace("if number % 3 == 0:", "if False:").replace(
    'say("ready")', 'conn.execute("SELECT cloudsync_network_auto(100)"); say("ready")'
)


@pytest.mark.parametrize("script", [BY_CHANCE, BY_CHANCE_AUTO], ids=["by calls", "by itself"])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_device_is_killed_by_chance_many_times(server, device, library, script, mode):
    """While it writes and syncs without a pause, and another one, too."""
    ledger, near, far = recovering(server, device, "near", "far")
    near.query(f"PRAGMA journal_mode = {mode}")
    near.sync()
    chance = random.Random(11)
    for number in range(8):
        child = run(script, near, server, library, f"life {number}")
        assert child.stdout.readline() == "ready\n"
        lines, last = [], chance.randrange(1, 40)
        while len(lines) < last:
            lines.append(child.stdout.readline())
        ledger.fill(far, f"far {number}", 30)
        far.sync()
        child.kill()
        told(ledger, near, "".join(lines) + child.communicate()[0])
        assert near.integrity() == "ok"
    near.query("SELECT cloudsync_network_auto(0)")
    ledger.assert_recovered(near, far)
