"""Every function, called as nobody should: an error or a value, never a crash."""

import json

import pytest

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT);"

AVAILABLE = """
    init cleanup enable disable is_enabled set get begin_alter commit_alter terminate version siteid db_version uuid status pk_decode
    changes payload_encode payload_apply payload_save payload_load payload_chunks network_init network_set_apikey network_set_token
    network_sync network_send_changes network_check_changes network_status network_has_unsent_changes
    network_reset_sync_version network_cleanup network_logout
""".split()

ODD = [
    ("NULL",),
    ("0",),
    ("-1",),
    ("9223372036854775807",),
    ("-9223372036854775808",),
    ("1.5",),
    ("9e999",),
    ("''",),
    ("'t'",),
    ("'T'",),
    ("'no such thing'",),
    ("'*'",),
    ("'a' || char(0) || 'b'",),
    ("char(0x10ffff)",),
    ("cast(x'ff' AS TEXT)",),
    ("x''",),
    ("x'00'",),
    ("randomblob(100000)",),
    ("'''; DROP TABLE t; --'",),
]
ODD += [("'t'", one[0]) for one in ODD] + [(one[0], "'t'") for one in ODD]
ODD += [("NULL", "NULL"), ("NULL", "NULL", "NULL"), ("'t'", "NULL", "NULL"), ("'t'", "'cls'", "'x'"), ("1",) * 10]


@pytest.fixture
def one(device, monkeypatch, tmp_path):
    # Functions that write files are given odd paths.
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = device("one", schema=SCHEMA, tables=["t"])
    one.script("INSERT INTO t VALUES ('1', 'x')")
    return one


@pytest.mark.parametrize("name", AVAILABLE)
def test_odd_arguments_never_crash(one, name):
    for arguments in [(), *ODD]:
        sql = f"SELECT cloudsync_{name}({', '.join(arguments)})"
        try:
            one.query(sql)
        except Exception as error:
            assert str(error).strip(), f"{sql}: an error without a text"
            assert "panic" not in str(error), f"{sql}: {error}"
    assert one.query("SELECT * FROM t") == [("1", "x")]
    assert one.integrity() == "ok"
    one.script("INSERT INTO t VALUES ('2', 'y')")


@pytest.mark.parametrize(
    "name",
    "init cleanup enable disable is_enabled set get pk_decode payload_apply payload_save payload_load "
    "network_init network_set_apikey network_set_token".split(),
)
def test_no_argument_and_null_are_errors(one, name):
    one.error(f"SELECT cloudsync_{name}()")
    one.error(f"SELECT cloudsync_{name}(NULL)")


def test_network_functions_without_a_connection_are_errors(one):
    for name in ("sync", "send_changes", "check_changes"):
        one.error(f"SELECT cloudsync_network_{name}()")


def test_what_functions_tell(one):
    assert one.value("SELECT cloudsync_version()")
    site_id = one.value("SELECT cloudsync_siteid()")
    assert isinstance(site_id, bytes) and len(site_id) == 16
    assert one.init("t") == site_id.hex()
    before = one.value("SELECT cloudsync_db_version()")
    assert isinstance(before, int)
    one.query("SELECT length(cloudsync_payload_encode())")
    one.script("UPDATE t SET v = 'z'")
    one.query("SELECT length(cloudsync_payload_encode())")
    assert one.value("SELECT cloudsync_db_version()") > before
    assert isinstance(json.loads(one.value("SELECT cloudsync_status()")), dict)
    assert isinstance(json.loads(one.value("SELECT cloudsync_network_status()")), dict)


def test_uuids_increase(one):
    made = one.query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
        "SELECT cloudsync_uuid() FROM n"
    )
    texts = [row[0] for row in made]
    assert texts == sorted(texts) and len(set(texts)) == len(texts)
    assert all(len(text) == 36 and text[14] == "7" and text[19] in "89ab" for text in texts)


def test_settings(one):
    one.error("SELECT cloudsync_set('no such setting', 1)")
    one.error("SELECT cloudsync_get('no such setting')")
    one.query("SELECT cloudsync_set('busy_ms', 1000)")
    assert int(one.value("SELECT cloudsync_get('busy_ms')")) == 1000


def test_writing_functions_are_for_direct_use(one):
    one.script("CREATE VIEW sly AS SELECT cloudsync_payload_save('sly')")
    one.error("SELECT * FROM sly")


def test_an_empty_database_answers(device):
    empty = device("empty")
    assert empty.value("SELECT cloudsync_version()")
    json.loads(empty.value("SELECT cloudsync_status()"))
    empty.value("SELECT cloudsync_uuid()")


def test_a_memory_database_works(binding, library):
    from devices import Device

    one = Device(binding, ":memory:", library)
    one.script(SCHEMA)
    one.init("t")
    one.script("INSERT INTO t VALUES ('1', 'x')")
    assert one.value("SELECT length(cloudsync_payload_encode())") > 0
    one.close()
