"""What a series of cycles happens to: a server, a device that is killed, one that is not, and the list of what was written."""

import pathlib

from crash.processes import told
from devices import BINDINGS, Device
from faults import FaultyProxy
from recovery import SCHEMA, Ledger
from servers import Server

# Everything that one device of the ledger's table is asked for at a cycle's end costs what there is.
ROWS_MAX = 6000


class Door:
    """An address and a key, for a process that is started on a device's file."""

    def __init__(self, connection, key):
        self.connection, self.key = connection, key


class World:
    """Two devices and a server. `near` reaches it through a proxy, which can be told to fail."""

    def __init__(self, folder, dist, shell, chance):
        self.folder, self.shell = pathlib.Path(folder), shell
        self.library = dist / "lib" / "cloudsync.so"
        self.server = Server(dist / "cloudsync", self.folder / "server")
        self.proxy = FaultyProxy(self.server)
        self.door = Door(self.proxy.connection(self.server.database), self.server.key)
        self.ledger = Ledger(self.server)
        self.near, self.far = self._open("near", self.door), self._open("far", self.server)
        self.near.query(f"PRAGMA journal_mode = {chance.choice(['wal', 'delete'])}")
        self.near.sync()
        self.cycle = 0

    def _open(self, name, server):
        device = Device(BINDINGS["sqlite3"], self.folder / f"{name}.db", self.library)
        device.query("PRAGMA busy_timeout = 20000")
        device.script(SCHEMA)
        device.init("t")
        device.connect(server)
        return device

    def is_full(self):
        return len(self.ledger.writes) > ROWS_MAX

    def prefix(self, what):
        return f"{what} {self.cycle}"

    def news(self, rows, width=16):
        """Rows of the other device that the server acknowledged, so that there is something to fetch."""
        self.ledger.fill(self.far, self.prefix("far"), rows, width)
        self.far.sync()
        self.ledger.note_acknowledged(self.far)

    def own(self, rows, width=16):
        """Rows of the device that is about to die."""
        self.ledger.fill(self.near, self.prefix("near"), rows, width)

    def told(self, output):
        told(self.ledger, self.near, output)

    def recover(self):
        """Whatever happened: the file is whole, nothing is lost, and all are in step within three rounds."""
        assert self.near.integrity() == "ok"
        self.ledger.assert_recovered(self.near, self.far)

    def close(self):
        for device in (self.near, self.far):
            device.close()
        self.proxy.close()
        self.server.kill()
