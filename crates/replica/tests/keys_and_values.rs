//! Every value and every key that SQLite can store arrives byte for byte.

mod bench;

use bench::{Device, assert_same, exchange, pair, sync_by_payload};

/// The rows arrive, and an exchange both ways leaves both sides equal.
#[track_caller]
fn arrives(schema: &str, writes: &str) -> (Device, Device) {
    let (mut a, mut b) = pair(schema);
    a.run(writes);
    exchange(&mut a, &mut b);
    let tables: Vec<String> = a.column("SELECT name FROM cloudsync_tables");
    assert!(!tables.is_empty());
    for table in tables {
        assert_same(&mut a, &mut b, &table);
        assert!(!a.dump(&table).is_empty(), "rows of {table}");
    }
    assert_eq!(sync_by_payload(&mut b, &mut a), 0);
    (a, b)
}

#[test]
fn all_kinds_of_values_arrive_unchanged() {
    let (a, _) = arrives(
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, i INTEGER, r REAL, n NUMERIC, x TEXT, b BLOB)",
        "INSERT INTO t(id, v) VALUES('null', NULL), ('empty', ''), ('blob', x''), ('max', 9223372036854775807),
             ('min', -9223372036854775807 - 1), ('one', 1), ('real one', 1.0), ('zero', 0.0), ('minus', -0.0),
             ('big', 1.7976931348623157e308), ('tiny', 5e-324), ('inf', 9e999), ('ninf', -9e999),
             ('nul', CAST(x'610062' AS TEXT)), ('bad', CAST(x'ff00fe80' AS TEXT)), ('number', '1');
         INSERT INTO t(id, i, r, n, x, b) VALUES('typed', '12', 3, '1e3', 5, '6'), ('odd', 'a', 'b', 'c', x'00', 7.5),
             ('negative zero', -0.0, -0.0, -0.0, -0.0, -0.0)",
    );
    assert_eq!(a.rows("SELECT v FROM t WHERE id = 'minus'"), ["-0.0"]);
    assert_eq!(a.rows("SELECT v FROM t WHERE id = 'bad'"), ["text [ff, 00, fe, 80]"]);
}

#[test]
fn nan_is_null_everywhere() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v REAL)");
    a.sql.execute("INSERT INTO t VALUES('1', ?1)", [f64::NAN]).unwrap();
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(b.dump("t"), ["'1',NULL"]);
}

#[test]
fn changes_that_only_bytes_show_are_changes() {
    let (mut a, mut b) = pair(
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, r REAL, c TEXT COLLATE NOCASE, e TEXT COLLATE RTRIM)",
    );
    a.run("INSERT INTO t VALUES('1', 1, 0.0, 'abc', 'x')");
    exchange(&mut a, &mut b);
    for change in [
        "v = 1.0",
        "v = 0.0",
        "v = 0",
        "v = '0'",
        "v = x'30'",
        "v = NULL",
        "v = -0.0",
        "r = 1.5",
        "r = -0.0",
        "c = 'ABC'",
        "e = 'x  '",
        "v = 'a'",
        "v = CAST(x'6100' AS TEXT)",
    ] {
        a.run(&format!("UPDATE t SET {change}"));
        assert_eq!(sync_by_payload(&mut a, &mut b), 1, "{change}");
        assert_same(&mut a, &mut b, "t");
    }
}

#[test]
fn an_update_to_the_same_bytes_is_no_change() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v, c TEXT COLLATE NOCASE)");
    a.run("INSERT INTO t VALUES('1', -0.0, 'abc'), ('2', NULL, NULL)");
    exchange(&mut a, &mut b);
    let version = a.replica.version().unwrap();
    a.run("UPDATE t SET v = v, c = c, id = id");
    assert_eq!(a.replica.fold().unwrap().rows, 0);
    assert_eq!(a.replica.version().unwrap(), version);
}

#[test]
fn a_nocase_key_arrives_literally_and_its_new_case_as_well() {
    let (mut a, mut b) = arrives(
        "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v)",
        "INSERT INTO t VALUES('Ab', 1), ('\u{c4}\u{e4}', 2)",
    );
    a.run("UPDATE t SET k = 'aB' WHERE v = 1");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(b.rows("SELECT k FROM t WHERE v = 1"), ["'aB'"]);
    b.run("DELETE FROM t WHERE k = 'AB'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(a.get::<i64>("SELECT count(*) FROM t"), 1);
}

#[test]
fn an_rtrim_key_arrives_literally() {
    let (mut a, mut b) = arrives(
        "CREATE TABLE t(k TEXT COLLATE RTRIM, l TEXT COLLATE RTRIM, v, PRIMARY KEY(k, l))",
        "INSERT INTO t VALUES('a  ', 'b ', 1), ('', '', 2)",
    );
    b.run("UPDATE t SET k = 'a' WHERE v = 1");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(a.rows("SELECT k, l FROM t WHERE v = 1"), ["'a','b '"]);
}

#[test]
fn concurrent_inserts_of_keys_that_sqlite_calls_equal_are_one_row() {
    let (mut a, mut b) = pair("CREATE TABLE t(k PRIMARY KEY NOT NULL, v)");
    a.run_at(1_000, "INSERT INTO t VALUES(1, 'a'), (0.0, 'zero')");
    b.run_at(2_000, "INSERT INTO t VALUES(1.0, 'b'), (-0.0, 'minus')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(a.dump("t"), ["-0.0,'minus'", "1.0,'b'"]);
}

#[test]
fn untyped_and_any_keys_keep_their_kinds() {
    let writes = "INSERT INTO t VALUES(1, 'i'), (2.0, 'r'), ('1', 't'), (x'31', 'b'), ('', 'e'), (x'', 'eb'),
        (-0.0, 'z'), (1.5, 'f'), (9223372036854775807, 'max'), (-9223372036854775807 - 1, 'min'), (9.3e18, 'over'),
        (9e999, 'inf'), (CAST(x'ff00' AS TEXT), 'bad'), ('123e4567-e89b-12d3-a456-426614174000', 'uuid'),
        ('123E4567-E89B-12D3-A456-426614174000', 'upper')";
    arrives("CREATE TABLE t(k PRIMARY KEY NOT NULL, v)", writes);
    arrives("CREATE TABLE t(k BLOB PRIMARY KEY NOT NULL, v)", writes);
    arrives("CREATE TABLE t(k ANY PRIMARY KEY NOT NULL, v TEXT) STRICT", writes);
    arrives("CREATE TABLE t(k ANY PRIMARY KEY NOT NULL, v TEXT) STRICT, WITHOUT ROWID", writes);
    arrives("CREATE TABLE t(k NUMERIC PRIMARY KEY NOT NULL, v)", writes.replace("('1', 't'),", "").as_str());
}

#[test]
fn real_keys_keep_the_sign_of_zero() {
    let (mut a, mut b) = arrives(
        "CREATE TABLE t(k REAL PRIMARY KEY NOT NULL, v)",
        "INSERT INTO t VALUES(-0.0, 'z'), (1, 'i'), (2.5, 'r'), (9e15, 'l')",
    );
    a.run("UPDATE t SET k = 0.0 WHERE v = 'z'");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(b.rows("SELECT k FROM t WHERE v = 'z'"), ["0.0"]);
}

#[test]
fn composite_keys_in_another_order_keep_their_places() {
    let (mut a, mut b) = arrives(
        "CREATE TABLE t(x TEXT, v, y INTEGER, z BLOB, PRIMARY KEY(z, y, x))",
        "INSERT INTO t VALUES('x', 'v', 7, x'00'), ('7', 'w', 8, x'01ff')",
    );
    b.run("UPDATE t SET v = 'by b' WHERE y = 7; UPDATE t SET x = 'moved' WHERE y = 8");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(a.dump("t"), ["'moved','w',8,x[01, ff]", "'x','by b',7,x[00]"]);
}

#[test]
fn without_rowid_strict_and_integer_keys() {
    for schema in [
        "CREATE TABLE t(a TEXT NOT NULL, b INT NOT NULL, c TEXT, PRIMARY KEY(b, a)) WITHOUT ROWID",
        "CREATE TABLE t(a TEXT NOT NULL, b INT NOT NULL, c TEXT, PRIMARY KEY(a, b)) STRICT",
        "CREATE TABLE t(a TEXT NOT NULL, b INTEGER PRIMARY KEY, c TEXT)",
        "CREATE TABLE t(a TEXT NOT NULL, b INTEGER PRIMARY KEY DESC, c TEXT)",
        "CREATE TABLE t(a TEXT NOT NULL, b INTEGER PRIMARY KEY AUTOINCREMENT, c TEXT)",
    ] {
        let (mut a, mut b) = arrives(schema, "INSERT INTO t VALUES('one', 1, 'x'), ('two', -2, NULL)");
        b.run("UPDATE t SET c = 'new' WHERE b = 1; UPDATE t SET b = 5 WHERE b = -2");
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "t");
        b.run("DELETE FROM t WHERE b = 1");
        exchange(&mut a, &mut b);
        assert_same(&mut a, &mut b, "t");
        assert_eq!(a.dump("t"), ["'two',5,NULL"]);
    }
}

#[test]
fn generated_columns_are_not_sent() {
    let (mut a, mut b) = arrives(
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n INT, g AS (n * 2) STORED, v AS (n + 1), u TEXT)",
        "INSERT INTO t(id, n, u) VALUES('1', 5, 'u')",
    );
    let sent: Vec<String> = a.column("SELECT name FROM cloudsync_columns ORDER BY number");
    assert_eq!(sent, ["n", "u"]);
    b.run("UPDATE t SET n = 6");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_eq!(a.dump("t"), ["'1',6,12,7,'u'"]);
}

fn beyond_ascii(sql: &str) -> String {
    sql.replace("%ue%", "\u{fc}").replace("%oe%", "\u{f6}").replace("%ss%", "\u{df}")
}

#[test]
fn odd_names_are_quoted_everywhere() {
    let schema = r#"
        CREATE TABLE "a ""quoted"" 'table'; --"("the ""key""" TEXT PRIMARY KEY NOT NULL, "select" TEXT, "%ue% 'x'" INT,
            "[b]" UNIQUE, "`c`" TEXT COLLATE NOCASE UNIQUE);
        CREATE TABLE "Gr%oe%%ss%e"("schl%ue%ssel" TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, "wert" TEXT);
        CREATE TABLE "order"("group" TEXT PRIMARY KEY NOT NULL, "rowid" TEXT, "k0" TEXT, "at" TEXT);
        CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, u UNIQUE);
        CREATE TABLE victims_t(id TEXT PRIMARY KEY NOT NULL, u UNIQUE);
    "#;
    let writes = r#"
        INSERT INTO "a ""quoted"" 'table'; --" VALUES('k', 's', 1, 'b', 'c');
        INSERT INTO "Gr%oe%%ss%e" VALUES('K', 'w');
        INSERT INTO "order" VALUES('g', 'r', 'k', 'a');
        INSERT INTO t VALUES('1', 1), ('2', 2);
        INSERT INTO victims_t VALUES('1', 1), ('2', 2);
    "#;
    let (mut a, mut b) = arrives(&beyond_ascii(schema), &beyond_ascii(writes));
    b.run(&beyond_ascii(
        r#"UPDATE "a ""quoted"" 'table'; --" SET "%ue% 'x'" = 2, "select" = NULL;
           INSERT OR REPLACE INTO "a ""quoted"" 'table'; --" VALUES('new', 's', 1, 'other', 'C');
           UPDATE "order" SET "rowid" = 'x'; UPDATE "Gr%oe%%ss%e" SET "schl%ue%ssel" = 'k';
           INSERT OR REPLACE INTO t VALUES('3', 1); INSERT OR REPLACE INTO victims_t VALUES('3', 1);"#,
    ));
    exchange(&mut a, &mut b);
    for table in ["a \"quoted\" 'table'; --", "Gr\u{f6}\u{df}e", "order", "t", "victims_t"] {
        assert_same(&mut a, &mut b, table);
    }
    assert_eq!(a.dump("t"), ["'2',2", "'3',1"]);
    assert_eq!(a.dump("victims_t"), ["'2',2", "'3',1"]);
}

#[test]
fn key_only_tables() {
    let (mut a, mut b) = arrives(
        "CREATE TABLE t(a TEXT, b TEXT, PRIMARY KEY(a, b)); CREATE TABLE u(k TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID",
        "INSERT INTO t VALUES('1', '2'), ('3', '4'); INSERT INTO u VALUES('x')",
    );
    a.run_at(1, "DELETE FROM t WHERE a = '1'");
    b.run("DELETE FROM t WHERE a = '1'; INSERT INTO t VALUES('1', '2'); INSERT INTO u VALUES('y')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
    assert_same(&mut a, &mut b, "u");
    a.run("INSERT OR IGNORE INTO t VALUES('5', '6')");
    b.run("INSERT OR IGNORE INTO t VALUES('5', '6')");
    exchange(&mut a, &mut b);
    assert_same(&mut a, &mut b, "t");
}

#[test]
fn masks_in_several_words_name_the_right_columns() {
    let columns: Vec<_> = (0..500).map(|i| format!("c{i} INT")).collect();
    let schema = format!("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, {})", columns.join(", "));
    let (mut a, mut b) = pair(&schema);
    a.run("INSERT INTO t(id) VALUES('1')");
    exchange(&mut a, &mut b);
    for column in [0, 61, 62, 123, 124, 130, 499] {
        let since = a.replica.version().unwrap();
        a.run(&format!("UPDATE t SET c{column} = {column}"));
        let other = (column + 1) % 500;
        b.run(&format!("UPDATE t SET c{other} = {other} + 1000"));
        let payload = a.replica.payload_encode(since, None).unwrap();
        assert!(payload.len() < 150, "one cell takes {} bytes", payload.len());
        assert_eq!(b.apply(&payload).unwrap(), 1);
        sync_by_payload(&mut b, &mut a);
        assert_same(&mut a, &mut b, "t");
        assert_eq!(
            b.rows(&format!("SELECT c{column}, c{other} FROM t")),
            [format!("{column},{}", other + 1000)]
        );
    }
}

#[test]
fn rows_with_null_in_the_key_stay_local_and_are_counted() {
    let (mut a, mut b) = pair("CREATE TABLE t(a TEXT, b TEXT, v, PRIMARY KEY(a, b))");
    a.run("INSERT INTO t VALUES(NULL, '1', 'x'), (NULL, '1', 'y'), ('1', '1', 'z')");
    assert_eq!(a.replica.fold().unwrap().null_keys, 2);
    assert_eq!(a.replica.status().unwrap()["tables"][0]["rows_with_null_key"], 2);
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("t"), ["'1','1','z'"]);
    a.run("UPDATE t SET a = '2' WHERE v = 'x'; UPDATE t SET a = NULL WHERE v = 'z'");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("t"), ["'2','1','x'"]);
    assert_eq!(a.clocks("t"), b.clocks("t"));
}

#[test]
fn a_key_that_is_too_long_stays_local_and_holds_up_nobody() {
    let (mut a, mut b) = pair("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)");
    a.run("INSERT INTO t VALUES(printf('%70000d', 1), 'long'), ('1', 'short')");
    exchange(&mut a, &mut b);
    assert_eq!(b.dump("t"), ["'1','short'"]);
    assert_eq!(a.clocks("t"), b.clocks("t"));
}

#[test]
fn rows_are_found_whatever_the_order_of_their_keys() {
    // Packed keys sort otherwise than SQLite sorts these: UUIDs are packed in binary, reals and integers apart, parts
    // of composite keys one after the other. Between them lie rows that do not travel.
    let writes: Vec<String> = (0..200)
        .map(|i| {
            let key = match i % 8 {
                0 => format!("'018f0000-0000-7000-8000-{:012x}'", i * 7919 % 1000),
                1 => format!("'text {}'", i * 31 % 57),
                2 => format!("{}", i * 7919 - 500_000),
                3 => format!("{}.5", i * 13 - 900),
                4 => format!("x'{:04x}'", i * 331 % 65_536),
                5 => format!("'TeXt {i}'"),
                6 => format!("-{i}"),
                _ => "NULL".to_owned(),
            };
            format!("INSERT OR IGNORE INTO t VALUES({key}, {}, 'value {i}');", (i * 17) % 23)
        })
        .collect();
    for key in ["PRIMARY KEY(b, a)", "PRIMARY KEY(a, b)", "PRIMARY KEY(a COLLATE NOCASE, b)"] {
        let (mut a, mut b) = pair(&format!("CREATE TABLE t(a, b INTEGER NOT NULL, v TEXT, {key})"));
        a.run(&writes.concat());
        exchange(&mut a, &mut b);
        let sent = "SELECT a, b, v FROM t WHERE a IS NOT NULL ORDER BY typeof(a), a, b";
        assert_eq!(a.rows(sent), b.rows(sent), "{key}");
        assert!(a.rows(sent).len() > 150);
        assert_eq!(b.rows("SELECT count(*) FROM t WHERE a IS NULL"), ["0"]);
    }
}
