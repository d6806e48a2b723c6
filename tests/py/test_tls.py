"""The server's own TLS, from PEM files, with the real extension at the other end."""

import signal
import socket
import ssl
import subprocess
import time

import pytest

from faults import Authority
from servers import Server

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL DEFAULT '')"
WAIT_SECONDS_MAX = 20


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


@pytest.fixture
def files(authority, tmp_path):
    """Where the server finds its certificate and key; each call puts others there."""
    paths = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"

    def put(names=("IP:127.0.0.1",)):
        for source, path in zip(authority.issue(names), paths):
            path.write_bytes(source.read_bytes())
        return paths

    return put


@pytest.fixture
def secure(program, tmp_path, files):
    cert, key = files()
    server = Server(program, tmp_path / "server", options=["--tls-cert", cert, "--tls-key", key])
    yield server
    server.kill()


def connect(device, server, authority):
    device.query("SELECT cloudsync_set('network_ca', ?)", str(authority.certificate))
    device.query("SELECT cloudsync_network_init(?)", f"https://127.0.0.1:{server.port}/{server.database}")
    device.query("SELECT cloudsync_network_set_apikey(?)", server.key)


def serial(server, authority):
    """The number of the certificate that the server shows to a new connection."""
    context = ssl.create_default_context(cafile=authority.certificate)
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS_MAX) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as stream:
            assert stream.version() in ("TLSv1.2", "TLSv1.3")
            return stream.getpeercert()["serialNumber"]


def test_devices_sync_over_the_servers_own_tls(secure, authority, device):
    near, far = (device(name, None, SCHEMA, ["t"]) for name in ("near", "far"))
    for one in (near, far):
        connect(one, secure, authority)
    near.query("INSERT INTO t VALUES ('1', 'near')")
    near.sync()
    assert far.sync() == 1 and far.rows("t") == near.rows("t")
    # Something larger than a record, both ways.
    near.query("INSERT INTO t VALUES ('2', hex(randomblob(1000000)))")
    near.sync()
    far.sync()
    assert far.rows("t") == near.rows("t")


def test_the_server_says_where_it_is_and_plain_http_gets_nothing(secure, device):
    plain = device("plain", None, SCHEMA, ["t"])
    plain.query("SELECT cloudsync_network_init(?)", f"http://127.0.0.1:{secure.port}/{secure.database}")
    plain.query("SELECT cloudsync_network_set_apikey(?)", secure.key)
    plain.error("SELECT cloudsync_network_sync()")
    # A caller who connects and says nothing holds up nobody.
    with socket.create_connection(("127.0.0.1", secure.port)) as silent:
        silent.sendall(b"\x16\x03")
        connect_again = socket.create_connection(("127.0.0.1", secure.port))
        connect_again.close()


def test_a_new_certificate_is_taken_at_a_signal_and_a_bad_one_is_not(secure, authority, files, device):
    near = device("near", None, SCHEMA, ["t"])
    connect(near, secure, authority)
    near.sync()
    first = serial(secure, authority)
    cert, _ = files()
    secure.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while (second := serial(secure, authority)) == first:
        assert time.monotonic() < deadline
    # A connection that was open goes on with what it has.
    near.query("INSERT INTO t VALUES ('1', 'x')")
    near.sync()
    cert.write_text("no certificate")
    secure.process.send_signal(signal.SIGHUP)
    near.query("INSERT INTO t VALUES ('2', 'x')")
    near.sync()
    assert serial(secure, authority) == second


def test_files_that_cannot_be_used_are_named(program, tmp_path, files, authority):
    cert, key = files()
    other = authority.issue(["IP:127.0.0.1"])[1]
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for cert_file, key_file, expected in [
        (cert, other, "fullchain.pem"),
        (empty, key, "empty.pem"),
        (cert, empty, "empty.pem"),
        (tmp_path / "none.pem", key, "none.pem"),
    ]:
        command = [program, "serve", "--data-dir", tmp_path / "server", "--addr", "127.0.0.1:0"]
        command += ["--tls-cert", cert_file, "--tls-key", key_file]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS_MAX)
        assert ended.returncode == 1 and expected in ended.stderr, ended.stderr
        assert "PRIVATE KEY" not in ended.stderr and len(ended.stderr.splitlines()) == 1
