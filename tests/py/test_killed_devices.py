"""Devices that are killed in every phase: at each write to the disk, in each step of a sync, and by chance."""

import random

import pytest

from crash.processes import BETWEEN_STEPS, BY_CHANCE, BY_CHANCE_AUTO, EVERY_WRITE, PHASES, finish, run, told, told_each
from recovery import recovering

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


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
