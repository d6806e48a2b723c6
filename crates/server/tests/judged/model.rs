//! Random rounds against a naive model: the project tool of the documentation, its rules written down in Rust once more.

use crate::bench::Device;
use crate::documented::use_cases;
use crate::place::{SEND, asker};
use crate::server::{self, Server, sync_as};
use proptest::prelude::*;
use proptest::test_runner::Config;
use std::collections::{BTreeMap, BTreeSet};

/// Table and key.
type Id = (usize, Vec<String>);
/// Rows by their ids, with the rest of their columns.
type Rows = BTreeMap<Id, Vec<String>>;

const TABLES: [(&str, usize); 3] = [("projects", 1), ("members", 2), ("tasks", 1)];
const USERS: [&str; 3] = ["alice", "bob", "eve"];
const ME: &str = "eve";

/// What is written to one row, before or on the device.
#[derive(Debug, Clone)]
enum Write {
    Put(Id, Vec<String>),
    Delete(Id),
}

fn id() -> impl Strategy<Value = Id> {
    prop_oneof![
        (0..3_u8).prop_map(|p| (0, vec![format!("p{p}")])),
        (0..3_u8, 0..3_usize).prop_map(|(p, u)| (1, vec![format!("p{p}"), USERS[u].to_owned()])),
        (0..4_u8).prop_map(|t| (2, vec![format!("t{t}")])),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let put = (id(), 0..3_usize, 0..3_u8, 0..2_u8).prop_map(|(id, user, project, other)| {
        let values = match id.0 {
            0 => vec![USERS[user].to_owned(), format!("name {other}")],
            1 => vec![["admin", "member"][usize::from(other)].to_owned()],
            _ => vec![format!("p{project}"), format!("title {other}"), "0".to_owned()],
        };
        Write::Put(id, values)
    });
    prop_oneof![4 => put, 1 => id().prop_map(Write::Delete)]
}

fn sql(write: &Write) -> String {
    let list =
        |values: &[String]| values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", ");
    match write {
        Write::Put((table, key), values) => {
            let all = [&key[..], &values[..]].concat();
            format!("INSERT OR REPLACE INTO {} VALUES({})", TABLES[*table].0, list(&all))
        }
        Write::Delete((table, key)) => {
            let names = if *table == 1 { &["project", "user"][..] } else { &["id"][..] };
            let equal: Vec<_> =
                names.iter().zip(key).map(|(name, value)| format!("{name} = '{value}'")).collect();
            format!("DELETE FROM {} WHERE {}", TABLES[*table].0, equal.join(" AND "))
        }
    }
}

fn read(connection: &rusqlite::Connection) -> Rows {
    let mut rows = Rows::new();
    for (at, (table, keys)) in TABLES.iter().enumerate() {
        let mut select = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let count = select.column_count();
        let mut found = select.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let mut values: Vec<String> = (0..count)
                .map(|at| match row.get_ref(at).unwrap() {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    value => value.as_str().unwrap().to_owned(),
                })
                .collect();
            let rest = values.split_off(*keys);
            rows.insert((at, values), rest);
        }
    }
    rows
}

/// The rules, on a state.
struct Rules<'r>(&'r Rows);

impl Rules<'_> {
    fn owns(&self, project: &str) -> bool {
        self.0.get(&(0, vec![project.to_owned()])).is_some_and(|row| row[0] == ME)
    }

    fn role(&self, project: &str) -> Option<&str> {
        self.0.get(&(1, vec![project.to_owned(), ME.to_owned()])).map(|row| row[0].as_str())
    }

    fn manages(&self, project: &str) -> bool {
        self.owns(project) || self.role(project) == Some("admin")
    }

    fn sees(&self, (table, key): &Id, row: &[String]) -> bool {
        match table {
            0 => row[0] == ME || self.role(&key[0]).is_some(),
            1 => key[1] == ME || self.role(&key[0]).is_some() || self.owns(&key[0]),
            _ => self.role(&row[0]).is_some(),
        }
    }

    fn inserts(&self, (table, key): &Id, row: &[String]) -> bool {
        match table {
            0 => row[0] == ME,
            1 => self.manages(&key[0]),
            _ => self.role(&row[0]).is_some(),
        }
    }

    fn updates(&self, (table, key): &Id, old: &[String], new: &[String]) -> bool {
        match table {
            0 => old[0] == ME && new[0] == ME,
            1 => self.manages(&key[0]),
            _ => self.role(&old[0]).is_some() && self.role(&new[0]).is_some(),
        }
    }

    fn deletes(&self, (table, key): &Id, old: &[String]) -> bool {
        match table {
            0 => old[0] == ME,
            1 => key[1] == ME || self.manages(&key[0]),
            _ => self.role(&old[0]).is_some(),
        }
    }

    fn grants(&self, id: &Id, new: Option<&Vec<String>>) -> bool {
        match (self.0.get(id), new) {
            (None, Some(new)) => self.inserts(id, new),
            (Some(old), Some(new)) => self.sees(id, old) && self.updates(id, old, new),
            (Some(old), None) => self.sees(id, old) && self.deletes(id, old),
            (None, None) => false,
        }
    }
}

/// What a round makes of a state, in the plainest words.
fn fixed_point(mut state: Rows, wanted: &Rows) -> Rows {
    let ids: BTreeSet<_> = state.keys().chain(wanted.keys()).cloned().collect();
    let mut left: Vec<_> = ids.into_iter().filter(|id| state.get(id) != wanted.get(id)).collect();
    loop {
        let rules = Rules(&state);
        let (granted, rest): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|id| rules.grants(id, wanted.get(id)));
        if granted.is_empty() {
            return state;
        }
        for id in granted {
            match wanted.get(&id) {
                Some(new) => state.insert(id, new.clone()),
                None => state.remove(&id),
            };
        }
        left = rest;
    }
}

fn check(before: &[Write], round: &[Write]) {
    let case = use_cases().into_iter().find(|case| case.title.starts_with("A project tool")).unwrap();
    let server: Server = case.server();
    before.iter().for_each(|write| server.run(&sql(write)));
    let mut device = Device::new(1, &case.schema);
    server::sync(&mut device, &server);
    round.iter().for_each(|write| device.run(&sql(write)));
    let shell = rusqlite::Connection::open(&server.path).unwrap();
    let (state, wanted) = (read(&shell), read(&device.sql));
    sync_as(&mut device, &server, &asker(ME), SEND, &mut |_| false);
    let expected = fixed_point(state, &wanted);
    assert_eq!(read(&shell), expected);
    // What the device is left with is what is there, as far as it may be shown; nothing that was refused stays.
    let rules = Rules(&expected);
    for (id, row) in read(&device.sql) {
        let is_sent = wanted.get(&id) == Some(&row) && expected.get(&id) == Some(&row);
        assert!(
            is_sent || expected.get(&id).is_some_and(|there| *there == row && rules.sees(&id, there)),
            "{id:?} {row:?}"
        );
    }
}

proptest! {
    #![proptest_config(Config { cases: 80, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_rounds_end_where_the_naive_model_says(
        before in prop::collection::vec(write(), 0..14),
        round in prop::collection::vec(write(), 1..14),
    ) {
        check(&before, &round);
    }
}
