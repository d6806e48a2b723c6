"""Cycles: a phase, a kill, and everything that must hold afterwards."""

import pathlib
import random
import shutil
import tempfile
import traceback
from collections import Counter

from crash.phases import ALL, PHASES_OF_DEVICES, PHASES_OF_SERVERS, USERS
from crash.users import Users
from crash.world import World

PHASES = PHASES_OF_DEVICES | PHASES_OF_SERVERS


class Campaign:
    """Runs cycles by number. Worlds are made anew when they are full, and after a failure."""

    def __init__(self, dist, shell, seed):
        self.dist, self.shell, self.seed = dist, shell, seed
        self.killed, self.cycles, self.failed, self.rows = Counter(), 0, 0, 0
        self.world = self.users = None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="crash-"))
        self.kept = []

    def run(self, number, name=None):
        """One cycle; its failure as text, or None."""
        name = name or ALL[number % len(ALL)]
        chance = random.Random(f"{self.seed} {number}")
        self.cycles += 1
        try:
            killed = self._cycle(number, name, chance)
        except Exception:  # Whatever it is, the next cycles tell more.
            self.failed += 1
            self._forget(keep=True)
            return f"cycle {number} of seed {self.seed}, {name}; the files are in {self.kept[-1]}\n{traceback.format_exc()}"
        self.killed[name] += killed
        return None

    def _cycle(self, number, name, chance):
        if name == USERS:
            if self.users is None:
                self.users = Users(self._subfolder(f"u{number}"), self.dist)
            return self.users.cycle(number, chance)
        if self.world is None or self.world.is_full():
            self._close_world()
            self.world = World(self._subfolder(f"w{number}"), self.dist, self.shell, chance)
        self.world.cycle = number
        killed = PHASES[name](self.world, chance)
        self.world.recover()
        return killed

    def _subfolder(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _close_world(self):
        if self.world:
            self.rows += len(self.world.ledger.writes)
            self.world.close()
            shutil.rmtree(self.world.folder)
            self.world = None

    def _forget(self, keep):
        for each in (self.world, self.users):
            if each:
                each.close()
        if self.world:
            self.rows += len(self.world.ledger.writes)
        self.world = self.users = None
        if keep:
            self.kept.append(self.folder)
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix="crash-"))

    def close(self):
        self._forget(keep=False)
        shutil.rmtree(self.folder)
