"""The ways to a server: TLS under a private authority, proxies, a network of the host's own; and giving up on the way."""

import base64
import json
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from devices import assert_same, sync_until_still
from faults import Authority, FaultyProxy, TlsEndpoint, TunnelProxy, answer

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT);"
PROXIES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]

pytestmark = pytest.mark.parametrize("binding", ["sqlite3"], indirect=True)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def pair(server, device):
    """A row on a device that reaches the server by itself, and a device that the test connects."""
    far, near = (device(name, server, SCHEMA, ["t"]) for name in ("far", "near"))
    far.query("INSERT INTO t VALUES ('1', 'far')")
    far.sync()
    near.query("INSERT INTO t VALUES ('2', 'near')")
    return near, far


def connect(device, server, connection):
    device.query("SELECT cloudsync_network_init(?)", connection)
    device.query("SELECT cloudsync_network_set_apikey(?)", server.key)


def assert_in_step(near, far):
    near.sync()
    far.sync()
    assert_same("t", near, far)
    assert near.has_unsent() == far.has_unsent() == 0


def test_https_under_a_private_authority(pair, server, tmp_path):
    near, far = pair
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    endpoint = TlsEndpoint(server, authority, ["IP:127.0.0.1"])
    connect(near, server, f"https://127.0.0.1:{endpoint.port}/my_database")
    # The system does not know this authority, and another private one does not count for it.
    text = near.error("SELECT cloudsync_network_sync()")
    assert "its certificate is not trusted here" in text and "network_ca" in text
    near.query("SELECT cloudsync_set('network_ca', ?)", str(other.certificate))
    assert "not trusted" in near.error("SELECT cloudsync_network_sync()")
    assert near.rows("t") and near.has_unsent() == 1
    # As a path, and as text.
    near.query("SELECT cloudsync_set('network_ca', ?)", str(authority.certificate))
    assert_in_step(near, far)
    near.query("SELECT cloudsync_set('network_ca', ?)", authority.certificate.read_text())
    near.query("INSERT INTO t VALUES ('3', 'by PEM text')")
    assert_in_step(near, far)
    endpoint.close()


def test_a_certificate_for_another_name_is_refused(pair, server, tmp_path):
    near, _ = pair
    authority = Authority(tmp_path / "ca")
    endpoint = TlsEndpoint(server, authority, ["DNS:other.example", "IP:127.0.0.2"])
    connect(near, server, f"https://127.0.0.1:{endpoint.port}/my_database")
    near.query("SELECT cloudsync_set('network_ca', ?)", str(authority.certificate))
    assert "not trusted" in near.error("SELECT cloudsync_network_sync()")
    endpoint.close()


def test_what_is_no_authority_is_refused_at_the_door(device, tmp_path):
    near = device("near", None, SCHEMA, ["t"])
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for value in ("/nowhere/ca.pem", str(empty), damaged, "x" * 100_000, 7):
        assert "network_ca" in near.error("SELECT cloudsync_set('network_ca', ?)", value)
    assert near.value("SELECT cloudsync_get('network_ca')") is None
    near.query("SELECT cloudsync_set('network_ca', NULL)")


def test_tls_to_a_plain_server_says_so(pair, server):
    near, _ = pair
    connect(near, server, f"https://127.0.0.1:{server.port}/my_database")
    assert "does not speak TLS" in near.error("SELECT cloudsync_network_sync()")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_https_goes_through_the_proxy_of_the_environment(pair, server, tmp_path, monkeypatch, name):
    near, far = pair
    authority = Authority(tmp_path / "ca")
    endpoint = TlsEndpoint(server, authority, ["DNS:sync.example"])
    proxy = TunnelProxy(endpoint.port, base64.b64encode(b"user:pass word").decode())
    monkeypatch.setenv(name, f"http://user:pass%20word@127.0.0.1:{proxy.port}")
    # The one for plain HTTP is not for this.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    connect(near, server, "cloudsync://sync.example/my_database")
    near.query("SELECT cloudsync_set('network_ca', ?)", str(authority.certificate))
    assert_in_step(near, far)
    assert proxy.heads and all(head.startswith("CONNECT sync.example:443 ") for head in proxy.heads)
    # The key is for the server, inside of the tunnel.
    assert not any(server.key in head for head in proxy.heads)
    monkeypatch.setenv("NO_PROXY", "other.example, example")
    seen = len(proxy.heads)
    assert "sync.example" in near.error("SELECT cloudsync_network_sync()")
    assert len(proxy.heads) == seen
    endpoint.close()
    proxy.close()


def test_plain_http_goes_through_its_proxy_and_this_machine_is_reached_directly(pair, server, monkeypatch):
    near, far = pair
    proxy = TunnelProxy(server.port)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    connect(near, server, "http://sync.example:8484/my_database?insecure=1")
    near.sync()
    assert proxy.heads[-1].startswith("CONNECT sync.example:8484 ")
    seen = len(proxy.heads)
    far.sync()
    assert len(proxy.heads) == seen
    monkeypatch.setenv("NO_PROXY", "sync.example:8484")
    assert "sync.example" in near.error("SELECT cloudsync_network_sync()")
    assert len(proxy.heads) == seen
    proxy.close()
    connect(near, server, server.connection)
    assert_in_step(near, far)


def test_proxies_that_refuse_or_are_none_are_named(pair, server, monkeypatch):
    near, _ = pair
    proxy = TunnelProxy(server.port, credentials="none")
    connect(near, server, "http://sync.example/my_database?insecure=1")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    assert "the proxy of the environment" in near.error("SELECT cloudsync_network_sync()")
    monkeypatch.setenv("HTTP_PROXY", "socks5://SECRET@127.0.0.1:1")
    text = near.error("SELECT cloudsync_network_sync()")
    assert "HTTP_PROXY" in text and "SECRET" not in text
    proxy.close()


def hanging(exchange, request):
    return exchange.hang()


def hanging_in_the_answer(exchange, request):
    exchange.send(exchange.forward(request)[:-3])
    return exchange.hang()


def busy(exchange, request):
    exchange.send(answer("429 Too Many Requests", ["Retry-After: 50"]))


@pytest.mark.parametrize("fault", [hanging, hanging_in_the_answer, busy])
def test_interrupt_ends_a_sync_within_a_second(pair, server, fault):
    near, far = pair
    proxy = FaultyProxy(server)
    connect(near, server, proxy.connection())
    proxy.fault = fault
    begun = []

    def interrupt():
        proxy.arrived.wait(20)
        begun.append(time.monotonic())
        near.conn.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(sqlite3.OperationalError, match="interrupt"):
        near.query("SELECT cloudsync_network_sync(60000, 1000)")
    assert time.monotonic() - begun[0] < 1
    thread.join()
    proxy.heal()
    assert_in_step(near, far)
    proxy.close()


def test_interrupt_ends_a_sync_that_cannot_connect(pair, server):
    near, far = pair
    # A listener whose queue is full answers no further connection.
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(full.getsockname())
        waiting.append(client)
    connect(near, server, f"cloudsync://127.0.0.1:{full.getsockname()[1]}/my_database")
    timer = threading.Timer(0.3, near.conn.interrupt)
    begun = time.monotonic()
    timer.start()
    with pytest.raises(sqlite3.OperationalError, match="interrupt"):
        near.sync()
    assert time.monotonic() - begun < 1.3
    for client in waiting:
        client.close()
    full.close()
    connect(near, server, server.connection)
    assert_in_step(near, far)


@pytest.mark.parametrize("fault", [hanging, busy])
def test_ctrl_c_in_the_shell_ends_a_sync(pair, server, shell, library, fault):
    near, far = pair
    proxy = FaultyProxy(server)
    proxy.fault = fault
    script = f"""
.load {str(library).removesuffix('.so')}
SELECT cloudsync_network_init('{proxy.connection()}?apikey={server.key}');
SELECT cloudsync_network_sync(60000, 1000);
"""
    child = subprocess.Popen(
        [shell, near.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    child.stdin.write(script)
    child.stdin.close()
    assert proxy.arrived.wait(20)
    child.send_signal(signal.SIGINT)
    begun = time.monotonic()
    output = child.stdout.read()
    child.wait(timeout=20)
    assert time.monotonic() - begun < 1
    # The process ended by itself, not by a signal.
    assert child.returncode >= 0 and "interrupt" in output, output
    proxy.close()
    assert near.integrity() == "ok"
    connect(near, server, server.connection)
    assert_in_step(near, far)


def test_a_process_that_ends_while_a_request_hangs_neither_hangs_nor_crashes(pair, server, library):
    near, _ = pair
    proxy = FaultyProxy(server)
    proxy.fault = hanging
    script = """
import sqlite3, sys, threading
path, library, connection = sys.argv[1:]
conn = sqlite3.connect(path, check_same_thread=False)
conn.enable_load_extension(True)
conn.load_extension(library)
conn.execute("SELECT cloudsync_network_init(?)", (connection,)).fetchall()
threading.Timer(0.3, conn.interrupt).start()
try:
    conn.execute("SELECT cloudsync_network_sync()").fetchall()
except sqlite3.OperationalError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(near.path), str(library), proxy.connection()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "interrupt" in done.stdout, done
    proxy.close()


def post(url, key, body):
    """One request by a network of the host's own; gives status, body and Retry-After."""
    headers = {"Content-Type": "application/vnd.cloudsync", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read(), None
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["Retry-After"]


def drive(device, url, key):
    """A whole session over `post`; gives the number of requests."""
    requests = 0
    while (request := device.value("SELECT cloudsync_session_request()")) is not None:
        requests += 1
        try:
            pause_ms = device.value("SELECT cloudsync_session_answer(?, ?, ?)", *post(url, key, request))
        except urllib.error.URLError:
            pause_ms = device.value("SELECT cloudsync_session_unreachable()")
        time.sleep((pause_ms or 0) / 1000)
    return requests


def test_a_host_drives_the_session_over_its_own_network(pair, server):
    near, far = pair
    url = near.value("SELECT cloudsync_session_start()")
    assert url == f"http://127.0.0.1:{server.port}/v1/databases/my_database/sync"
    # The schema is new to the server only once, so one or two requests.
    assert drive(near, url, server.key) <= 2
    far.sync()
    assert_same("t", near, far)
    report = near.status()
    assert (report["sent"], report["received"], report["error"]) == (1, 1, None)
    # A large one, each way.
    many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
    for device, name in ((near, "n"), (far, "f")):
        device.query(many + f"SELECT '{name}' || i, hex(randomblob(100)) FROM n")
    far.sync()
    near.query("SELECT cloudsync_session_start(1, 1)")
    assert drive(near, url, server.key) > 2
    sync_until_still(near, far)
    assert_same("t", near, far)
    assert near.value("SELECT count(*) FROM t") == 40_002
    # Only one direction.
    near.query("INSERT INTO t VALUES ('push', 'only')")
    near.query("SELECT cloudsync_session_start(0, 1)")
    drive(near, url, server.key)
    assert near.has_unsent() == 1
    near.query("SELECT cloudsync_session_start(1, 0)")
    drive(near, url, server.key)
    assert near.has_unsent() == 0


def test_the_example_of_the_documentation_works(pair, server):
    near, far = pair
    page = (pathlib.Path(__file__).parents[2] / "docs" / "sessions.md").read_text()
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)  # noqa: S102
    names["sync"](near.conn, server.key)
    far.sync()
    assert_same("t", near, far)
    assert near.has_unsent() == 0


def test_sessions_of_hosts_end_with_plain_errors(pair, server):
    near, far = pair
    assert "cloudsync_session_start" in near.error("SELECT cloudsync_session_request()")
    url = near.value("SELECT cloudsync_session_start()")
    assert "cloudsync_session_request first" in near.error("SELECT cloudsync_session_answer(200, x'00')")
    for status, body, expected in [
        (200, b"<html>hotel</html>", "not a cloudsync server"),
        (302, None, "not a cloudsync server"),
        (401, b"", "refused the key"),
        (413, b'{"error":{"code":"CLOUDSYNC_TOO_LARGE","message":"too large"}}', "HTTP 413: too large"),
    ]:
        near.query("SELECT cloudsync_session_start()")
        assert near.value("SELECT cloudsync_session_request()")
        assert expected in near.error("SELECT cloudsync_session_answer(?, ?)", status, body)
        assert near.value("SELECT cloudsync_session_request()") is None
        assert expected in near.status()["error"]
    # Patience is asked for, and ends.
    near.query("SELECT cloudsync_session_start()")
    near.value("SELECT cloudsync_session_request()")
    assert 7_000 <= near.value("SELECT cloudsync_session_answer(503, NULL, '7')") <= 10_500
    for attempt in range(9):
        near.value("SELECT cloudsync_session_request()")
        assert near.value("SELECT cloudsync_session_unreachable()") <= 30_000
    near.value("SELECT cloudsync_session_request()")
    assert "no connection" in near.error("SELECT cloudsync_session_unreachable()")
    # An answer that was given to another sync meanwhile changes nothing.
    near.query("SELECT cloudsync_session_start()")
    late = post(url, server.key, near.value("SELECT cloudsync_session_request()"))
    near.sync()
    near.value("SELECT cloudsync_session_answer(?, ?, ?)", *late)
    drive(near, url, server.key)
    assert_in_step(near, far)
    near.script("BEGIN; INSERT INTO t VALUES ('9', 'open')")
    assert "commit first" in near.error("SELECT cloudsync_session_start()")
    near.script("ROLLBACK")


def test_a_second_connection_sees_what_a_sync_waits_for(pair, server, device):
    near, far = pair
    proxy = FaultyProxy(server)
    connect(near, server, proxy.connection())
    watcher = device("near")
    assert watcher.status()["waiting"] is watcher.status()["progress"] is None
    proxy.fault = busy
    thread = threading.Thread(target=lambda: near.error("SELECT cloudsync_network_sync(1, 5)"))
    thread.start()
    waiting = None
    while waiting is None and thread.is_alive():
        waiting = watcher.status()["waiting"]
    near.conn.interrupt()
    thread.join()
    assert waiting["attempts"] == 1 and "is busy" in waiting["error"]
    assert waiting["failed_at"] < waiting["next_try_at"]
    assert near.status()["waiting"] is None
    proxy.heal()
    assert_in_step(near, far)
    proxy.close()


def test_a_second_connection_sees_the_progress_of_a_long_sync(pair, server, device):
    near, far = pair
    many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) "
    far.query(many + "SELECT 'f' || i, hex(randomblob(100)) FROM n")
    far.sync()
    near.query(many + "SELECT 'n' || i, hex(randomblob(100)) FROM n")
    watcher = device("near")
    proxy = FaultyProxy(server)
    seen = []

    def watched(exchange, request):
        seen.append(watcher.status()["progress"])
        exchange.send(exchange.forward(request))

    proxy.fault = watched
    connect(near, server, proxy.connection())
    near.sync()
    assert seen[0] is None
    steps = [step for step in seen if step]
    assert len(steps) >= 3
    for before, after in zip(steps, steps[1:]):
        assert after["sent"] >= before["sent"] and after["received"] >= before["received"]
    assert 0 < steps[0]["sent"] < 30_001 and 0 < steps[0]["received"] < 30_001
    assert steps[0]["bytes_sent"] > 100_000 and steps[0]["bytes_received"] > 100_000
    assert steps[0]["total"] >= 30_001 and json.dumps(steps)
    assert watcher.status()["progress"] is None
    sync_until_still(near, far)
    assert_same("t", near, far)
    proxy.close()


def test_an_idle_sync_writes_nothing_of_the_kind(pair, server):
    near, far = pair
    assert_in_step(near, far)
    near.sync()
    before = near.value("SELECT group_concat(key || hex(value)) FROM cloudsync_settings")
    changed = near.path.stat().st_mtime_ns
    for _ in range(3):
        near.sync()
    assert near.value("SELECT group_concat(key || hex(value)) FROM cloudsync_settings") == before
    assert near.path.stat().st_mtime_ns == changed
