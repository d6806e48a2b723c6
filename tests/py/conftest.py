"""Fixtures of the black-box tests: the shipped files, servers and devices."""

import os
import pathlib
import shutil

import pytest

from devices import BINDINGS, Device
from servers import Server

DIST = pathlib.Path(os.environ.get("CLOUDSYNC_DIST", pathlib.Path(__file__).parents[2] / "dist"))


def pytest_report_header():
    return [f"SQLite {binding.version} in {name}" for name, binding in BINDINGS.items()]


def shipped(name):
    path = DIST / name
    if not path.is_file():
        pytest.fail(f"{path} is missing: run `cargo xtask build`")
    return path


@pytest.fixture
def library():
    """The extension."""
    return shipped("lib/cloudsync.so")


@pytest.fixture
def program():
    """The server's program."""
    return shipped("cloudsync")


@pytest.fixture
def shell():
    """The `sqlite3` shell."""
    path = shutil.which("sqlite3")
    assert path, "the sqlite3 shell is missing: install the package `sqlite3`"
    return path


@pytest.fixture(params=BINDINGS)
def binding(request):
    """A SQLite library of the host's: tests of the core run over each."""
    return BINDINGS[request.param]


@pytest.fixture
def server(program, tmp_path):
    """A server with an empty database."""
    server = Server(program, tmp_path / "server")
    yield server
    server.kill()


@pytest.fixture
def device(binding, library, tmp_path):
    """Opens devices by name: the same name is the same file."""
    opened = []

    def open_device(name, server=None, schema=None, tables=(), extension=True, binding=binding):
        device = Device(binding, tmp_path / f"{name}.db", library if extension else None)
        opened.append(device)
        if schema:
            device.script(schema)
        for table in tables:
            device.init(table)
        if server:
            device.connect(server)
        return device

    yield open_device
    for device in opened:
        device.close()
