use super::faults::{EYE, Fault};
use super::*;
use rusqlite::Connection;
use std::sync::MutexGuard;

fn begin(seed: u64) -> MutexGuard<'static, ()> {
    let guard = alone();
    register();
    renew(Dice::new(seed));
    set_now_ms(1_790_000_000_000);
    run_with_skew(0);
    disks().equip("m", true, seed.is_multiple_of(2));
    guard
}

fn open(process: &str, settings: &str) -> rusqlite::Result<Connection> {
    let db = Connection::open(format!("/sim/m/{process}/f.db"))?;
    db.execute_batch(settings)?;
    Ok(db)
}

/// The numbers that are there; they were written in order, so none is missing between them.
fn count(process: &str) -> i64 {
    let db = open(process, "").unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let sql = "SELECT count(*), coalesce(max(n), 0), coalesce(sum(n = 1 + length(t) / 3000), 0) FROM numbers";
    let (count, last, right): (i64, i64, i64) =
        db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!((count, count), (last, right));
    count
}

const CREATE: &str = "CREATE TABLE IF NOT EXISTS numbers(n INTEGER PRIMARY KEY, t TEXT)";
const INSERT: &str = "INSERT INTO numbers SELECT coalesce(max(n), 0) + 1, hex(zeroblob(1500 * coalesce(max(n), 0))) FROM numbers";

/// Writes until the fault ends the process; gives how many commits were confirmed.
fn write_until_it_ends(settings: &str) -> i64 {
    let mut confirmed = 0;
    if let Ok(db) = open("p", settings) {
        while confirmed < 12 && db.execute_batch(INSERT).is_ok() {
            confirmed = db.query_row("SELECT max(n) FROM numbers", [], |row| row.get(0)).unwrap_or(confirmed);
        }
    }
    confirmed
}

#[test]
fn what_sqlite_promises_after_a_loss_of_power_holds_on_these_disks() {
    let cases = [
        ("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 9", true),
        ("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 9", false),
        ("PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA; PRAGMA cache_size = 4", true),
        ("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; PRAGMA cache_size = 4", false),
        ("PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL", true),
        ("PRAGMA journal_mode = PERSIST; PRAGMA synchronous = FULL", true),
    ];
    for (settings, is_durable) in cases {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..40 {
            let _guard = begin(seed);
            open("p", settings).unwrap().execute_batch(CREATE).unwrap();
            disks().sync_folder("m");
            disks().arm("m", Fault::PowerLoss, seed * 3);
            let confirmed = write_until_it_ends(settings);
            if !disks().is_dead("m", "p") {
                disks().cut_power("m");
            }
            assert_eq!(disks().handles("m"), 0);
            disks().restart("m");
            let found = count("p");
            assert!(
                !is_durable || found >= confirmed,
                "{settings}: {confirmed} were confirmed, {found} are left"
            );
            lost += i64::from(found < confirmed);
            kept += found;
        }
        assert!(kept > 60, "{settings}: {kept} kept");
        assert!(is_durable || lost > 0, "{settings}: nothing was ever lost");
    }
}

#[test]
fn a_killed_process_loses_nothing_and_harms_no_other() {
    for settings in ["PRAGMA journal_mode = WAL", "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 4"] {
        for seed in 0..40 {
            let _guard = begin(seed);
            let other = open("q", settings).unwrap();
            other.execute_batch(CREATE).unwrap();
            disks().arm("m", Fault::Kill, seed);
            let confirmed = write_until_it_ends(settings);
            assert!(disks().is_dead("m", "p"));
            disks().restart("m");
            other.execute_batch(INSERT).unwrap();
            drop(other);
            assert!(count("p") > confirmed);
        }
    }
}

#[test]
fn failing_calls_undo_what_they_were_part_of() {
    for settings in ["PRAGMA journal_mode = WAL", "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 4"] {
        for seed in 0..80 {
            let _guard = begin(seed);
            let db = open("p", settings).unwrap();
            db.execute_batch(CREATE).unwrap();
            let faults = [
                Fault::WriteError(1),
                Fault::SyncError(2),
                Fault::ReadError(1),
                Fault::OpenError(1),
                Fault::Full,
            ];
            disks().arm("m", faults[seed as usize % 5], seed / 5);
            let mut confirmed = 0;
            for _ in 0..20 {
                confirmed += i64::from(db.execute_batch(INSERT).is_ok());
                if !db.is_autocommit() {
                    let _ = db.execute_batch("ROLLBACK");
                }
                disks().drive("m").is_full = false;
            }
            disks().disarm("m");
            assert!((18..=20).contains(&confirmed), "{confirmed} of 20");
            drop(db);
            assert_eq!(count(EYE), confirmed);
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_calls_and_tells_the_same_time() {
    let run = |seed| {
        let _guard = begin(seed);
        let db = open("p", "PRAGMA journal_mode = WAL").unwrap();
        db.execute_batch("CREATE TABLE t(a, b); INSERT INTO t VALUES(random(), julianday('now'))").unwrap();
        let sql = "SELECT a, CAST(round((b - 2440587.5) * 86400000) AS INTEGER) FROM t";
        let (chance, at): (i64, i64) = db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(at, 1_790_000_000_000);
        (chance, disks().hash())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
