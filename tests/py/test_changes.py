"""The tables `cloudsync_changes` and `cloudsync_payload_chunks`, in both SQLite libraries."""

import pytest

from devices import assert_same

SCHEMA = """
    CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT, n);
    CREATE TABLE other (a INTEGER, b TEXT, x BLOB, PRIMARY KEY (b, a));
"""

CHANGES = "SELECT tbl, cloudsync_pk_decode(pk, 0), col_name, col_value, cl FROM cloudsync_changes"


@pytest.fixture
def pair(device):
    return [device(name, schema=SCHEMA, tables=["t", "other"]) for name in ("one", "two")]


def cells(device, condition="1"):
    return device.query(f"{CHANGES} WHERE {condition} ORDER BY version, seq")


def copy_chunks(source, target, since):
    """Applies the chunks in order; gives the version that they go up to."""
    chunks = source.query("SELECT payload, first_version, last_version, final FROM cloudsync_payload_chunks(?)", since)
    assert [final for *_, final in chunks] == [0] * (len(chunks) - 1) + [1]
    for payload, first, last, _ in chunks:
        assert first == since + 1 and last >= since
        target.query("SELECT cloudsync_payload_apply(?)", payload)
    return len(chunks), chunks[-1][2]


def test_a_row_for_each_changed_cell(pair):
    one, two = pair
    assert cells(one) == []
    one.script("INSERT INTO t VALUES ('1', 'x', 1.5); INSERT INTO other VALUES (7, 'b', x'00ff')")
    assert sorted(cells(one), key=repr) == sorted(
        [
            ("t", "1", None, None, 1),
            ("t", "1", "v", "x", 1),
            ("t", "1", "n", 1.5, 1),
            ("other", "b", None, None, 1),
            ("other", "b", "x", b"\x00\xff", 1),
        ],
        key=repr,
    )
    before = one.value("SELECT cloudsync_db_version()")
    one.script("UPDATE t SET v = NULL")
    assert cells(one, f"version > {before}") == [("t", "1", "v", None, 1)]
    one.script("DELETE FROM t")
    assert cells(one, f"version > {before}") == [("t", "1", None, None, 2)]
    site_id = one.value("SELECT cloudsync_siteid()")
    assert {row[0] for row in one.query("SELECT site_id FROM cloudsync_changes")} == {site_id}

    seen = two.value("SELECT cloudsync_db_version()")
    copy_chunks(one, two, 0)
    arrived = two.query("SELECT DISTINCT site_id FROM cloudsync_changes WHERE version > ?", seen)
    assert arrived == [(site_id,)], "what came in, and who wrote it"
    two.script("INSERT INTO t VALUES ('2', 'y', NULL)")
    assert two.value("SELECT count(*) FROM cloudsync_changes WHERE site_id = ?", site_id) == 3
    assert two.value("SELECT count(*) FROM cloudsync_changes WHERE site_id <> ?", site_id) == 3


def test_conditions_are_handed_over_and_join(pair):
    one, _ = pair
    one.script("INSERT INTO t VALUES ('1', 'x', 1), ('2', 'y', 2)")
    cells(one)
    before = one.value("SELECT cloudsync_db_version()")
    one.script("UPDATE t SET v = 'z' WHERE id = '2'")
    joined = one.query(
        "SELECT t.id, t.v FROM t JOIN cloudsync_changes c ON c.tbl = 't' AND cloudsync_pk_decode(c.pk, 0) = t.id "
        "WHERE c.version > ? AND c.col_name = 'v'",
        before,
    )
    assert joined == [("2", "z")]
    assert len(cells(one, "version > 0 ORDER BY version DESC LIMIT 2 --")) == 2
    plan = one.query("EXPLAIN QUERY PLAN SELECT * FROM cloudsync_changes WHERE version >= 5 AND tbl = 't'")
    assert "version>= tbl=" in plan[-1][3]


def test_reading_in_a_transaction_takes_nothing_in(pair):
    one, _ = pair
    one.script("BEGIN; INSERT INTO t VALUES ('1', 'x', 1)")
    assert cells(one) == []
    assert "commit first" in one.error("SELECT * FROM cloudsync_payload_chunks(0)")
    one.script("COMMIT")
    assert len(cells(one)) == 3


def test_before_the_first_table(device):
    bare = device("bare")
    assert cells(bare) == []
    assert "cloudsync_init" in bare.error("SELECT * FROM cloudsync_payload_chunks(0)")
    bare.error("INSERT INTO cloudsync_changes(tbl) VALUES ('x')")
    for call in ("cloudsync_changes()", "cloudsync_payload_chunks(0)"):
        assert "it is read as a table" in bare.error(f"SELECT {call}")
    for arguments in ("", "()", "(NULL)", "(-1)", "('x')", "(1.5)", "(x'')", "(1, 2)"):
        assert bare.error(f"SELECT * FROM cloudsync_payload_chunks{arguments}").strip()


def test_chunks_carry_everything(pair):
    one, two = pair
    one.script(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 30000) "
        "INSERT INTO t SELECT i, hex(randomblob(50)), i * 0.5 FROM c;"
        "INSERT INTO other SELECT id, v, zeroblob(3) FROM t WHERE id % 100 = 0;"
        "DELETE FROM t WHERE id % 7 = 0;"
    )
    count, version = copy_chunks(one, two, 0)
    assert count > 2
    assert_same("t", one, two)
    assert_same("other", one, two)
    one.script("UPDATE t SET n = -0.0 WHERE id % 3 = 0; DELETE FROM other")
    _, version = copy_chunks(one, two, version)
    assert_same("t", one, two)
    assert two.value("SELECT count(*) FROM other") == 0
    assert copy_chunks(one, two, version) == (1, version)
    order = "ORDER BY tbl, pk, col_name"
    state = f"SELECT tbl, pk, col_name, quote(col_value), time, site_id, cl FROM cloudsync_changes {order}"
    assert one.query(state) == two.query(state)
    assert two.integrity() == "ok"
