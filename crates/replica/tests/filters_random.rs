//! Random writes and changes of the filter on one device, compared with a naive model of what another device then has.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Device, sync_by_payload};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SCHEMA: &str = "CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, n INTEGER, s TEXT UNIQUE)";

/// The others must not lack what a UNIQUE value of their own keeps out.
const OTHERS: &str = "CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, n INTEGER, s TEXT)";

#[derive(Debug, Clone)]
enum Step {
    Write(String),
    /// A write that is rolled back.
    Undone(String),
    Filter(Option<&'static str>),
    Fold,
    Sync,
}

fn write() -> impl Strategy<Value = String> {
    let key = || prop::sample::select(vec!["'a'", "'b'", "'c'"]);
    let number = || prop::sample::select(vec!["0", "1", "2", "NULL"]);
    let text = || prop::sample::select(vec!["'x'", "'y'", "NULL"]);
    let or = || prop::sample::select(vec!["OR IGNORE", "OR REPLACE"]);
    prop_oneof![
        (or(), key(), number(), text())
            .prop_map(|(or, k, n, s)| format!("INSERT {or} INTO t VALUES({k}, {n}, {s})")),
        (key(), number()).prop_map(|(k, n)| format!(
            "INSERT INTO t(k, n) VALUES({k}, {n}) ON CONFLICT(k) DO UPDATE SET n = excluded.n"
        )),
        (key(), number()).prop_map(|(k, n)| format!("UPDATE t SET n = {n} WHERE k = {k}")),
        (or(), key(), text()).prop_map(|(or, k, s)| format!("UPDATE {or} t SET s = {s} WHERE k = {k}")),
        (or(), key(), key()).prop_map(|(or, k, to)| format!("UPDATE {or} t SET k = {to} WHERE k = {k}")),
        Just("UPDATE t SET n = n + 1".to_owned()),
        key().prop_map(|k| format!("DELETE FROM t WHERE k = {k}")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let filters =
        vec![None, Some("n = 1"), Some("n > '0'"), Some("s IS NULL"), Some("k <> 'A' OR n = 2"), Some("0")];
    prop_oneof![
        8 => write().prop_map(Step::Write),
        1 => write().prop_map(Step::Undone),
        2 => prop::sample::select(filters).prop_map(Step::Filter),
        2 => Just(Step::Fold),
        2 => Just(Step::Sync),
    ]
}

/// The condition in place of a filter that was cleared.
const ALL: &str = "1";
const KEYS: [&str; 3] = ["a", "b", "c"];

type Rows = BTreeMap<String, String>;

/// What others have, told in the simplest way.
struct Model {
    filter: &'static str,
    /// Rows inside when the notes of the next fold began.
    inside: BTreeSet<&'static str>,
    /// Rows that were ever inside, and were not deleted or taken out since.
    known: BTreeSet<&'static str>,
    /// What another device has.
    others: Rows,
}

fn rows(device: &Device, condition: &str) -> Rows {
    let keys: Vec<String> = device.column(&format!("SELECT lower(k) FROM t WHERE {condition} ORDER BY k"));
    let rows = device.rows(&format!("SELECT lower(k), n, s FROM t WHERE {condition} ORDER BY k"));
    keys.into_iter().zip(rows).collect()
}

impl Model {
    /// Takes in what was written since the last fold.
    fn fold(&mut self, device: &Device) {
        let inside = rows(device, self.filter);
        // Without a filter a row that comes and goes is deleted, also if it was missing here only.
        let noted: Vec<String> = if self.filter == ALL {
            device.column("SELECT lower(k0) FROM cloudsync_log UNION SELECT lower(o0) FROM cloudsync_log WHERE o0 <> ''")
        } else {
            Vec::new()
        };
        let noted: BTreeSet<_> = noted.iter().map(String::as_str).collect();
        for key in KEYS {
            if inside.contains_key(key) {
                self.known.insert(key);
            } else if self.inside.contains(key) || noted.contains(key) {
                self.known.remove(key);
            }
        }
        self.inside = KEYS.into_iter().filter(|key| inside.contains_key(*key)).collect();
    }

    fn change_filter(&mut self, device: &Device, filter: &'static str) {
        self.fold(device);
        self.filter = filter;
        let inside = rows(device, filter);
        self.inside = KEYS.into_iter().filter(|key| inside.contains_key(*key)).collect();
        self.known.extend(&self.inside);
    }

    fn sync(&mut self, device: &Device) {
        self.fold(device);
        let inside = rows(device, self.filter);
        for key in KEYS {
            match inside.get(key) {
                Some(row) => {
                    self.others.insert(key.to_owned(), row.clone());
                }
                None if !self.known.contains(key) => {
                    self.others.remove(key);
                }
                None => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn others_have_what_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let (mut a, mut b) = (Device::new(1, SCHEMA), Device::new(2, OTHERS));
        let mut c = Device::new(3, OTHERS);
        let mut since = 0;
        let mut model =
            Model { filter: ALL, inside: BTreeSet::new(), known: BTreeSet::new(), others: Rows::new() };
        for step in steps.iter().chain([&Step::Sync]) {
            match step {
                Step::Write(sql) => a.run(sql),
                Step::Undone(sql) => a.run(&format!("BEGIN; {sql}; ROLLBACK")),
                Step::Filter(filter) => {
                    model.change_filter(&a, filter.unwrap_or(ALL));
                    match filter {
                        Some(filter) => a.replica.set_filter("t", filter).unwrap(),
                        None => a.replica.clear_filter("t").unwrap(),
                    }
                    a.replica.fold().unwrap();
                }
                Step::Fold => {
                    model.fold(&a);
                    a.replica.fold().unwrap();
                }
                Step::Sync => {
                    model.sync(&a);
                    let payload = a.replica.payload_encode(since, None).unwrap();
                    since = a.replica.version().unwrap();
                    c.apply(&payload).unwrap();
                    prop_assert_eq!(&rows(&c, "1"), &model.others);
                    sync_by_payload(&mut a, &mut b);
                    prop_assert_eq!(&rows(&b, "1"), &model.others);
                }
            }
        }
        prop_assert_eq!((b.quarantine(), c.quarantine()), (0, 0));
        a.check();
    }
}
