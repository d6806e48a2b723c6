"""Full disks: a small file system under the server's folder, or under a device's file, that fills up in every phase."""

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess

import pytest

from devices import LIBRARY_ERRORS
from recovery import recovering
from servers import Server

DISK_KIB = 24 << 10
# How much is left when the fault begins, so that another write of the round is the first to fail.
LEFT_KIB = [0, 4, 12, 28, 60, 124, 252, 508]
ROWS = 1500

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


class SmallDisk:
    """A tmpfs of some mebibytes."""

    name = "a tmpfs"

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={DISK_KIB}k", "cloudsync-test", str(folder)]
        subprocess.run(["mount", *options], check=True, capture_output=True, timeout=60)

    def fill(self, process, left_kib):
        """Takes all room but a little."""
        free_kib = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize // 1024
        with (self.folder / "filler").open("wb") as filler:
            block = bytes(4096)
            for _ in range((free_kib - left_kib) // 4):
                filler.write(block)
            with contextlib.suppress(OSError):
                filler.flush()

    def free(self, process):
        (self.folder / "filler").unlink()

    def close(self):
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True, capture_output=True, timeout=60)


class SmallFiles:
    """Where nothing may be mounted: no file of the process may grow, as if its disk was full."""

    name = "a limit on the size of files, since nothing may be mounted here"

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def fill(self, process, left_kib):
        largest = max((file.stat().st_size for file in self.folder.rglob("*") if file.is_file()), default=0)
        self._limit(process, largest // 2 + (left_kib << 10))

    def free(self, process):
        self._limit(process, resource.RLIM_INFINITY)

    @staticmethod
    def _limit(process, size):
        # Both sides run with SIGXFSZ ignored, as Python itself does, and so get an error in place of a signal.
        assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
        hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))

    def close(self):
        pass


@pytest.fixture
def disk(tmp_path, capsys):
    try:
        disk = SmallDisk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError):
        (tmp_path / "disk").rmdir()
        disk = SmallFiles(tmp_path / "disk")
    with capsys.disabled():
        print(f" [{disk.name}] ", end="")
    yield disk
    disk.close()


def try_sync(device):
    """A sync that may fail, with a text; tells whether it did."""
    try:
        device.sync()
    except LIBRARY_ERRORS as error:
        assert str(error).strip()
        return str(error)
    return None


def test_the_servers_disk_is_full_in_every_phase(program, disk, device):
    server = Server(program, disk.folder / "server")
    ledger, writer, reader = recovering(server, device, "writer", "reader")
    ledger.put(writer, "first", "x")
    writer.sync()
    reader.sync()
    failures = 0
    for left_kib in LEFT_KIB:
        disk.fill(server.process.pid, left_kib)
        ledger.fill(writer, f"left {left_kib}", ROWS)
        text = try_sync(writer)
        if text is None:
            ledger.note_acknowledged(writer)
        else:
            failures += 1
            assert "HTTP 500" in text or "is busy" in text, text
            assert writer.has_unsent() == 1
            # Who only reads is served, and the one who writes may come again and again.
            assert try_sync(reader) is None
            assert try_sync(writer) is not None
        assert server.process.poll() is None
        ledger.assert_acknowledged()
        disk.free(server.process.pid)
        ledger.assert_recovered(writer, reader)
    assert failures >= 3
    # It stops and starts again while there is no room, too.
    disk.fill(server.process.pid, 0)
    server.kill()
    disk.free(server.process.pid)
    ledger.assert_acknowledged()
    server.restart()
    ledger.assert_recovered(writer, reader)
    server.kill()


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_the_devices_disk_is_full_in_every_phase(server, disk, device, mode):
    ledger, near, far = recovering(server, device, disk.folder / "near", "far")
    near.query(f"PRAGMA journal_mode = {mode}")
    # What is sorted and staged lies there, too, and not in memory only.
    near.query("PRAGMA cache_size = 20")
    failures = set()
    for left_kib in LEFT_KIB:
        ledger.fill(far, f"from far {left_kib}", ROWS)
        far.sync()
        ledger.note_acknowledged(far)
        ledger.fill(near, f"before {left_kib}", ROWS)
        disk.fill(os.getpid(), left_kib)
        # The app's own writes fail or are noted whole, and the sync at whatever it gets to.
        try:
            ledger.fill(near, f"while full {left_kib}", 300)
        except sqlite3.Error as error:
            failures.add("write")
            assert is_full(error)
            if near.conn.in_transaction:
                near.script("ROLLBACK")
        for _ in range(2):
            text = try_sync(near)
            if text is not None:
                failures.add("sync")
                assert is_full(text), text
        disk.free(os.getpid())
        assert near.integrity() == "ok"
        ledger.assert_recovered(near, far)
    assert failures == {"write", "sync"}
    near.close()


def is_full(error):
    return any(words in str(error) for words in ("disk is full", "disk I/O error"))
