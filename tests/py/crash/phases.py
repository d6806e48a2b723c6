"""The phases in which processes are killed. Each gives whether it was in time: some end before."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import threading

from crash.dying import dying
from crash.processes import (
    BETWEEN_STEPS, BRACKET, BY_CHANCE, BY_CHANCE_AUTO, EVERY_WRITE, FOLDING, PHASES, finish, run, told_each,
)
from devices import LIBRARY_ERRORS

SMALL, LARGE = (12, 16), (650, 4000)


def steps(chance, most):
    """A number of steps, small ones as often as large ones."""
    return int(most ** chance.random())


def shell_writing(world, chance):
    """The `sqlite3` shell, with or without the library, while it writes one statement after the other."""
    prefix, rows = world.prefix("shell"), 4000
    keys = [f"{prefix}-{number}" for number in range(rows)]
    script = [f".load {world.library.with_suffix('')}"] if chance.random() < 0.5 else []
    script += [f"INSERT INTO t VALUES ('{key}', 'value of {key}');" for key in keys]
    shell = subprocess.Popen([world.shell, world.near.path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    timer = threading.Timer(chance.uniform(0.005, 0.25), shell.kill)
    timer.start()
    with contextlib.suppress(BrokenPipeError):
        shell.stdin.write("\n".join(script) + "\n")
        shell.stdin.close()
    code = shell.wait(timeout=60)
    timer.join()
    found = {key for (key,) in world.near.query("SELECT id FROM t WHERE id LIKE ?", f"{prefix}-%")}
    # What it committed is a beginning of what it was told.
    assert found == set(keys[: len(found)]), "a write in the midst is missing"
    for key in keys[: len(found)]:
        world.ledger.note(world.near, key, f"value of {key}")
    return code == -signal.SIGKILL


def writing(world, chance, script=BY_CHANCE):
    """A process that writes and syncs without a pause."""
    child = run(script, world.near, world.door, world.library, world.prefix("writing"))
    assert child.stdout.readline() == "ready\n"
    lines, last = [], chance.randrange(1, 60)
    while len(lines) < last:
        lines.append(child.stdout.readline())
    world.news(20)
    child.kill()
    world.told("".join(lines) + child.communicate()[0])
    return True


def automatic(world, chance):
    """A process that writes while the library syncs in the background."""
    killed = writing(world, chance, BY_CHANCE_AUTO)
    world.near.query("SELECT cloudsync_network_auto(0)")
    return killed


def at_a_write(world, chance):
    """At the n-th call that changes a file, of one write and one sync."""
    world.news(*SMALL)
    # A stride that ends the series with the second attempt, which goes through.
    number = steps(chance, 250)
    child = run(EVERY_WRITE, world.near, world.door, world.library, world.prefix("write"), [number, 1 << 40])
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 0 and "failed" not in output, output
    told_each(world.ledger, world.near, output.splitlines())
    return output.count("trying") > 1


def folding(world, chance):
    """In the midst of a fold of many notes."""
    rows = chance.choice([20, 300, 1500])
    return ticking(world, FOLDING, "fold", [steps(chance, rows * 10), rows])


def bracket(world, chance):
    """Between begin and commit of an alteration, in which the table is made anew, or within them."""
    world.news(5)
    killed = ticking(world, BRACKET, "bracket", [steps(chance, 40 + 4 * len(world.ledger.writes))])
    # Whoever opens the file next finishes what was begun.
    if json.loads(world.near.value("SELECT cloudsync_status()"))["altering"]:
        world.near.value("SELECT cloudsync_commit_alter('t')")
    return killed


def ticking(world, script, what, arguments):
    child = run(script, world.near, world.door, world.library, world.prefix(what), arguments)
    output, _ = child.communicate(timeout=120)
    assert child.returncode in (0, -signal.SIGKILL), f"it ended with {child.returncode}: {output}"
    world.told(output)
    return child.returncode != 0


def between_steps(world, chance):
    """In each step of a sync, also of several chunks."""
    rows, width = chance.choice([SMALL, SMALL, LARGE])
    world.news(rows, width)
    world.own(rows, width)
    phase = PHASES[chance.randrange(len(PHASES))]
    turn = 0 if phase in PHASES[:2] else chance.randrange(1, 3) if rows == LARGE[0] else 1
    arguments = [phase, turn, steps(chance, 30 if rows == SMALL[0] else 3000)]
    world.told(finish(run(BETWEEN_STEPS, world.near, world.door, world.library, world.prefix("step"), arguments)))
    return True


def server_dies(where, upload, download):
    """The server dies at some turn of an exchange, before, while or after it works on it."""

    def phase(world, chance):
        if download:
            world.news(*download)
        if upload:
            world.own(*upload)
        turns = 3 if LARGE in (upload, download) else 1
        number = chance.randrange(1, turns + 1)
        world.proxy.fault = dying(world.server, world.proxy, number, where, chance.uniform(0, 0.06))
        failed = False
        try:
            world.near.sync()
        except LIBRARY_ERRORS:
            failed = True
        world.proxy.heal()
        world.ledger.assert_acknowledged()
        return failed

    return phase


def backup(world, chance):
    """A backup is taken while a device uploads; the server, or the program that copies, is killed."""
    copy = world.folder / f"{world.prefix('copy')}.db"
    world.own(*LARGE)
    command = [world.server.program, "db", "backup", world.server.database, copy, "--data-dir", world.server.data]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    is_server = chance.random() < 0.5
    timer = threading.Timer(chance.uniform(0.001, 0.06), world.server.kill if is_server else program.kill)
    timer.start()
    with contextlib.suppress(*LIBRARY_ERRORS):
        world.near.sync()
    timer.join()
    code = program.wait(timeout=60)
    if is_server:
        world.server.restart()
    if code == 0:
        with contextlib.closing(sqlite3.connect(copy)) as conn:
            assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = conn.execute("SELECT id, v FROM t").fetchall()
        # A state between two commits: what others had sent before is in it.
        assert {key for key, _ in rows} >= {key for key in world.ledger.acknowledged}, "the copy lacks what was acknowledged"
        assert all(value in world.ledger.allowed(key) for key, value in rows)
    for file in world.folder.glob("copy*"):
        file.unlink()
    return is_server or code != 0


# By name, as the page of figures shows them.
PHASES_OF_DEVICES = {
    "device: plain writes in the shell": shell_writing,
    "device: writes and syncs": writing,
    "device: automatic sync": automatic,
    "device: n-th write to the disk": at_a_write,
    "device: fold": folding,
    "device: bracket around a schema change": bracket,
    "device: steps of a sync": between_steps,
}
PHASES_OF_SERVERS = {
    "server: before the turn": server_dies("in the request", LARGE, None),
    "server: commit of a small upload": server_dies("at work", SMALL, SMALL),
    "server: commit of a large upload": server_dies("at work", LARGE, None),
    "server: download": server_dies("at work", None, LARGE),
    "server: answer": server_dies("in the answer", SMALL, LARGE),
    "server: backup": backup,
}
# Has a world of its own.
USERS = "server: recomputation of policies"
ALL = [*PHASES_OF_DEVICES, *PHASES_OF_SERVERS, USERS]
