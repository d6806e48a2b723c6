"""Processes on the file of a device that are killed, or kill themselves, and what they had said before."""

import signal
import subprocess
import sys

from recovery import PUT

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
    """Starts a script in another process, on the file of a device; `server` is anything with its address and key."""
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


# The n-th time that SQLite asks whether to go on is the last; statements that are used again count on.
TICKS = """
conn = open_device(sqlite3.connect(path, isolation_level=None, timeout=30))
left = int(sys.argv[6])
def tick():
    global left
    left -= 1
    if left < 0:
        die()
def value(sql, *arguments):
    return conn.execute(sql, arguments).fetchone()[0]
"""
# Many notes, and a round made of them that nobody gets.
FOLDING = TICKS + """
conn.execute("BEGIN")
keys = [f"{prefix}-{number}" for number in range(int(sys.argv[7]))]
for key in keys:
    conn.execute(PUT, (key, f"value of {key}"))
conn.execute("COMMIT")
for key in keys:
    say(f"committed {key}")
value("SELECT cloudsync_session_start()")
conn.set_progress_handler(tick, 20)
value("SELECT cloudsync_session_request()")
say("complete")
"""
# The table is made anew, with another value in one row: all of it or nothing.
BRACKET = TICKS + """
conn.set_progress_handler(tick, 20)
value("SELECT cloudsync_begin_alter('t')")
conn.execute("BEGIN")
conn.execute("CREATE TABLE made_anew (id TEXT PRIMARY KEY NOT NULL, v TEXT)")
conn.execute("INSERT INTO made_anew SELECT id, v FROM t")
say(f"trying {prefix}")
conn.execute("INSERT INTO made_anew VALUES (?, ?)", (prefix, f"value of {prefix}"))
conn.execute("DROP TABLE t")
conn.execute("ALTER TABLE made_anew RENAME TO t")
conn.execute("COMMIT")
say(f"committed {prefix}")
value("SELECT cloudsync_commit_alter('t')")
say("complete")
"""
