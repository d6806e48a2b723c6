"""What a server tells of its work: enough to run it, and nothing of what it keeps."""

import base64
import hashlib
import hmac
import json
import re
import time
import urllib.error
import urllib.request

import pytest

from servers import Server

SCHEMA = """
CREATE TABLE planted_table (id TEXT PRIMARY KEY NOT NULL, v TEXT NOT NULL DEFAULT '' CHECK (v <> 'refused-value'),
    slug TEXT UNIQUE)
"""
ISSUER_SECRET = "planted-issuer-secret-of-32-bytes-at-least"


@pytest.fixture
def loud(program, tmp_path):
    """A server that logs everything that it can, and tells its metrics."""
    log = tmp_path / "server.log"
    options = ["--log", "trace", "--log-format", "json", "--metrics-addr", "127.0.0.1:0"]
    server = Server(program, tmp_path / "server", options=[*options, "--metrics-by-db"], log=log)
    yield server
    server.kill()


def ask(server, method, path, bearer, body=None):
    """Status and JSON of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", data=body, method=method)
    request.add_header("Authorization", f"Bearer {bearer}")
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def jwt(claims):
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    signed = ".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{signed}.{encode(hmac.digest(ISSUER_SECRET.encode(), signed.encode(), hashlib.sha256))}"


def metrics(server):
    with urllib.request.urlopen(server.metrics, timeout=30) as answer:
        return answer.read().decode()


def value_of(text, name):
    found = re.search(rf"^cloudsync_{re.escape(name)} ([0-9.]+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_nothing_that_is_secret_is_in_the_log_or_the_metrics_at_the_loudest(loud, device, tmp_path):
    one, two = (device(name, loud, SCHEMA, ["planted_table"]) for name in ("one", "two"))
    one.query("INSERT INTO planted_table VALUES ('planted-row-key', 'planted-value', 'planted-slug')")
    one.sync()
    two.sync()
    # Refused by UNIQUE and CHECK, with their reasons; a conflict; a deletion.
    change = "UPDATE planted_table SET v = 'planted-on-server';"
    change += "INSERT INTO planted_table VALUES ('planted-third-key', '', 'planted-slug-2')"
    loud.run("db", "sql", loud.database, write(tmp_path / "x.sql", change))
    two.query("INSERT INTO planted_table VALUES ('planted-other-key', 'planted-value-2', 'planted-slug-2')")
    two.query("UPDATE planted_table SET v = 'planted-conflict' WHERE id = 'planted-row-key'")
    two.sync()
    one.query("DELETE FROM planted_table")
    one.sync()
    # Tokens: minted twice, signed by an issuer, forged, and used by a device.
    secret_file = write(tmp_path / "secret", ISSUER_SECRET)
    issuer = ["issuer", "add", loud.database, "https://issuer.example", "--audience", "app"]
    loud.run(*issuer, "--secret-file", secret_file)
    path = f"/v1/databases/{loud.database}/tokens"
    wanted = {"user": "planted-user@example.com", "claims": {"team": "planted-claim"}}
    status, minted = ask(loud, "POST", path, loud.key, json.dumps(wanted).encode())
    assert status == 201
    other = loud.run("token", "create", loud.database, "planted-user2@example.com").strip()
    now = int(time.time())
    claims = {"iss": "https://issuer.example", "aud": "app", "sub": "planted-subject", "exp": now + 600}
    signed = jwt(claims)
    bearers = [minted["token"], other, signed, signed[:-4] + "AAAA", "csk_" + "planted" * 6 + "a"]
    for bearer in bearers:
        ask(loud, "GET", path, bearer)
        ask(loud, "POST", f"/v1/databases/{loud.database}/sync", bearer, b"planted-body")
    user = device("user", None, SCHEMA, ["planted_table"])
    user.query("INSERT INTO planted_table VALUES ('planted-user-key', 'planted-user-value', NULL)")
    user.query("SELECT cloudsync_network_init(?)", loud.connection)
    user.query("SELECT cloudsync_network_set_token(?)", minted["token"])
    try:
        user.sync()
    except Exception:  # What a token may do is not the matter here.
        pass
    ask(loud, "POST", path, loud.key, b'{"user": "planted-broken')
    ask(loud, "GET", f"/v1/databases/{loud.database}/events?site=planted-site", loud.key)

    told = metrics(loud)
    assert loud.stop() == 0
    log = loud.log.read_text()
    assert "turn" in log and len(log.splitlines()) > 20
    secrets = [loud.key[4:], ISSUER_SECRET, *(bearer[12:] for bearer in bearers)]
    secrets += [part for part in signed.split(".")]
    for text in (log, told):
        for secret in secrets:
            assert secret not in text, secret
        found = set(re.findall(r"planted[-\w@.]*", text)) - {"planted_table"}
        assert not found, found
        # Nor in the forms in which bytes are often printed.
        for form in (b"planted-".hex(), base64.b64encode(b"planted-value").decode()[:16]):
            assert form not in text
    for line in log.splitlines():
        json.loads(line)


def write(path, text):
    path.write_text(text)
    return path


def test_metrics_count_what_happened(loud, device, tmp_path):
    one, two = (device(name, loud, SCHEMA, ["planted_table"]) for name in ("one", "two"))
    one.script("BEGIN")
    for number in range(25):
        one.query("INSERT INTO planted_table VALUES (?, ?, ?)", f"k{number}", "v", f"s{number}")
    one.script("COMMIT")
    one.sync()
    two.sync()
    unique = "CREATE UNIQUE INDEX one_v_each ON planted_table (v) WHERE v LIKE 'only%'"
    loud.run("db", "sql", loud.database, write(tmp_path / "u.sql", unique))
    for one_of_two, key in ((one, "k1"), (two, "k2")):
        one_of_two.query("UPDATE planted_table SET v = 'only' WHERE id = ?", key)
        one_of_two.sync()
    text = metrics(loud)
    name = loud.database
    assert value_of(text, f'turns_total{{db="{name}",outcome="taken"}}') >= 4
    assert value_of(text, f'received_bytes_total{{db="{name}"}}') > 100
    assert value_of(text, f'sent_bytes_total{{db="{name}"}}') > 100
    assert value_of(text, "apply_rows_total") >= 26
    assert value_of(text, "pull_rows_total") >= 25
    assert value_of(text, 'denials_total{table="planted_table",reason="unique"}') == 1
    assert value_of(text, "open_databases") == 1
    for histogram in ("turn_seconds", "write_queue_wait_seconds", "apply_seconds", "cursor_lag_seconds"):
        assert value_of(text, f"{histogram}_count") > 0, histogram
    two.query("SELECT cloudsync_network_auto(30000)")
    deadline = time.monotonic() + 20
    while value_of(metrics(loud), "listeners") != 1:
        assert time.monotonic() < deadline
    two.query("SELECT cloudsync_network_auto(0)")
