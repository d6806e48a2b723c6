"""Files of every number of the format, as `tests/compat/write.py` left them, in the hands of the present code."""

import json
import pathlib
import shutil
import sys

import pytest

from devices import Device, sync_until_still
from servers import Server

COMPAT = pathlib.Path(__file__).parents[1] / "compat"
sys.path.insert(0, str(COMPAT))

from write import ALGORITHMS, SCHEMA, initialised, rows  # noqa: E402

FORMATS = sorted(folder.name for folder in COMPAT.iterdir() if (folder / "expected.json").is_file())


@pytest.fixture(params=FORMATS)
def old(request, tmp_path):
    """A copy of the files of a format."""
    folder = tmp_path / "old"
    shutil.copytree(COMPAT / request.param, folder)
    return folder


@pytest.fixture
def old_server(program, old):
    server = Server(program, old / "server")
    yield server
    server.kill()


def test_the_files_are_of_that_format(request, old, binding, library):
    device = Device(binding, old / "device.db", library)
    stored = device.value("SELECT value FROM cloudsync_settings WHERE key = 'format'")
    assert str(stored) == request.node.callspec.params["old"]
    device.close()


def expected(old, who):
    return json.loads((old / "expected.json").read_text())[who]


def test_an_old_file_is_read_and_written(old, binding, library):
    device = Device(binding, old / "device.db", library)
    assert rows(device) == expected(old, "device")
    device.script("INSERT INTO notes (id, title) VALUES ('new', 'written now')")
    assert device.value("SELECT count(*) FROM cloudsync_changes WHERE tbl = 'notes' AND col_name IS NULL") == 4
    assert device.integrity() == "ok"
    # What was kept aside is there with the first apply after its column came.
    device.script("ALTER TABLE notes ADD COLUMN later TEXT")
    device.query("SELECT cloudsync_payload_apply(?)", device.value("SELECT cloudsync_payload_encode()"))
    assert device.value("SELECT later FROM notes WHERE id = '3'") == "kept aside"
    device.close()


def test_an_old_payload_is_read(old, binding, library, tmp_path):
    device = initialised(Device(binding, tmp_path / "new.db", library))
    payload = (old / "payload.bin").read_bytes()
    device.script("ALTER TABLE notes ADD COLUMN later TEXT")
    device.query("SELECT cloudsync_payload_apply(?)", payload)
    assert rows(device) == expected(old, "other")
    device.close()


def test_old_files_and_new_ones_sync_through_an_old_server(old, old_server, binding, library, tmp_path):
    device = Device(binding, old / "device.db", library)
    fresh = initialised(Device(binding, tmp_path / "fresh.db", library))
    for each in (device, fresh):
        each.connect(old_server)
    sync_until_still(device, fresh, device)
    # What the old file had noted and not taken in has arrived; what is outside of its filter stays there.
    there, here = rows(fresh), rows(device)
    here["drafts"] = [row for row in here["drafts"] if row[-1] == "0"]
    assert there == here
    assert fresh.value("SELECT score FROM notes WHERE id = '3'") == 2
    assert fresh.query("SELECT id FROM shelf") == [("u",)]
    for each in (device, fresh):
        assert each.integrity() == "ok"
        each.close()


def test_the_files_are_of_all_tables():
    assert FORMATS, "no format has files"
    assert all(f"CREATE TABLE {table} " in SCHEMA for table in ALGORITHMS)
