//! The use cases of the documentation under random rounds, against a naive model: what a policy says is what SQLite says of
//! its text, with the user written into it, on a copy of the whole tables.

use crate::bench::Device;
use crate::documented::{UseCase, names, use_cases, users, written};
use crate::server::{BOTH, Server, sync_as};
use cloudsync_server::policy::{Attempt, Law, Probe, Verb, probe};
use cloudsync_server::store::{Asker, Rights};
use rusqlite::Connection;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Table and key, as literals.
type Id = (String, Vec<String>);
/// Rows by their ids: all columns as literals.
type Rows = BTreeMap<Id, Vec<String>>;

/// A time behind all that triggers note, so that what a device writes is later than what it has not seen.
const LATER: u64 = crate::bench::NOW - 1_000_000;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }

    fn of<'t, T: ?Sized>(&mut self, list: &[&'t T]) -> &'t T {
        list[self.below(list.len())]
    }
}

/// One table of a use case.
struct Table {
    name: String,
    columns: Vec<String>,
    /// Places of the key's columns.
    key: Vec<usize>,
}

impl Table {
    fn all(connection: &Connection) -> Vec<Self> {
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%PRIMARY KEY%' \
                      AND name NOT LIKE 'cloudsync%' ORDER BY name";
        let table = |name: String| {
            let columns = |more: &str| {
                names(connection, &format!("SELECT name FROM pragma_table_info('{name}') {more}"))
            };
            let all = columns("ORDER BY cid");
            let key = columns("WHERE pk > 0 ORDER BY pk");
            let key = key.iter().map(|name| all.iter().position(|column| column == name).unwrap()).collect();
            Self { name, columns: all, key }
        };
        names(connection, tables).into_iter().map(table).collect()
    }

    fn id(&self, row: &[String]) -> Id {
        (self.name.clone(), self.key.iter().map(|at| row[*at].clone()).collect())
    }

    fn is(&self, id: &Id) -> String {
        let equal = self.key.iter().zip(&id.1).map(|(at, value)| format!("{} = {value}", self.columns[*at]));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// A row of few values, so that everything meets, and often one of `me`. UNIQUE values are each row's own.
    fn row(&self, me: &Asker, chance: &mut Chance) -> Vec<String> {
        let value = |column: &String| match mine(column, me) {
            Some(mine) if chance.below(2) == 0 => text(&mine),
            _ => value(column, chance),
        };
        let mut row: Vec<String> = self.columns.iter().map(value).collect();
        if let Some(at) = self.columns.iter().position(|column| column == "sku") {
            let key: Vec<_> = self.id(&row).1.iter().map(|value| value.replace('\'', "")).collect();
            row[at] = format!("'{} {}'", key.join(" "), chance.below(2));
        }
        row
    }
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What a column has in a row of somebody's own.
fn mine(column: &str, me: &Asker) -> Option<String> {
    let user = me.user.as_ref().unwrap();
    match column {
        "owner" | "author" | "user" | "student" => Some(user.id.clone()),
        _ => user.claims.get(column)?.as_str().map(str::to_owned),
    }
}

fn value(column: &str, chance: &mut Chance) -> String {
    match column {
        "owner" | "author" | "user" | "student" => {
            text(chance.of(&["alice", "bob", "carol", "dan", "ALICE", "o'brien \"; --"]))
        }
        "role" => text(chance.of(&["admin", "member", "teacher", "teacher", "student"])),
        "team" | "tenant" | "class" => text(chance.of(&["x", "x", "y", "'x"])),
        "id" | "project" | "customer" | "task" => text(chance.of(&["k1", "k2", "k3", "k4"])),
        "done" => chance.of(&["0", "0", "1"]).to_owned(),
        "grade" | "stock" | "price" => chance.of(&["NULL", "1", "2"]).to_owned(),
        _ => text(chance.of(&["p", "q", "r"])),
    }
}

fn read(connection: &Connection, tables: &[Table]) -> Rows {
    let mut rows = Rows::new();
    for table in tables {
        let quoted: Vec<_> = table.columns.iter().map(|column| format!("quote({column})")).collect();
        let sql = format!("SELECT {} FROM {}", quoted.join(", "), table.name);
        let mut select = connection.prepare(&sql).unwrap();
        let found = select
            .query_map([], |row| (0..quoted.len()).map(|at| row.get(at)).collect::<Result<Vec<String>, _>>());
        rows.extend(found.unwrap().map(Result::unwrap).map(|row| (table.id(&row), row)));
    }
    rows
}

/// The policies of a use case, as SQLite evaluates their texts on plain tables.
struct Model<'m> {
    case: &'m UseCase,
    tables: &'m [Table],
    asker: &'m Asker,
    connection: Connection,
    state: Rows,
}

impl<'m> Model<'m> {
    fn new(case: &'m UseCase, tables: &'m [Table], asker: &'m Asker, state: Rows) -> Self {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&case.schema).unwrap();
        for table in tables {
            // The same declarations: values keep their affinity. OLD and NEW have names that nothing else has.
            let create = names(
                &connection,
                &format!("SELECT sql FROM main.sqlite_schema WHERE name = '{}'", table.name),
            );
            let body = create[0].split_once('(').unwrap().1;
            connection.execute_batch(&format!("CREATE TEMP TABLE row_{}({body}", table.name)).unwrap();
            for side in ["OLD", "NEW"] {
                let twin = format!("{side}_{}", table.name);
                connection.execute_batch(&format!("CREATE TEMP TABLE {twin}({body}")).unwrap();
                for column in &table.columns {
                    let sql = format!("ALTER TABLE temp.{twin} RENAME COLUMN {column} TO {side}_{column}");
                    connection.execute_batch(&sql).unwrap();
                }
            }
        }
        let mut model = Self { case, tables, asker, connection, state: Rows::new() };
        model.set(state);
        model
    }

    fn set(&mut self, state: Rows) {
        for table in self.tables {
            self.connection.execute_batch(&format!("DELETE FROM main.{}", table.name)).unwrap();
        }
        for ((table, _), row) in &state {
            let sql = format!("INSERT INTO main.{table} VALUES({})", row.join(", "));
            self.connection.execute_batch(&sql).unwrap();
        }
        self.state = state;
    }

    fn table(&self, id: &Id) -> &'m Table {
        self.tables.iter().find(|table| table.name == id.0).unwrap()
    }

    fn policy(&self, table: &str, verb: Verb) -> Option<String> {
        let found = self.case.policies.iter().find(|(of, which, _)| of == table && *which == verb);
        found.map(|(.., text)| written(text, self.asker))
    }

    /// What the user sees of all tables.
    fn visible(&self) -> Rows {
        let mut visible = Rows::new();
        for table in self.tables {
            let Some(policy) = self.policy(&table.name, Verb::Select) else { continue };
            let key: Vec<_> = table.key.iter().map(|at| format!("quote({})", table.columns[*at])).collect();
            let sql = format!("SELECT {} FROM main.{} WHERE {policy}", key.join(", "), table.name);
            let mut select = self.connection.prepare(&sql).unwrap();
            let ids = select.query_map([], |row| {
                (0..key.len()).map(|at| row.get(at)).collect::<Result<Vec<String>, _>>()
            });
            for id in ids.unwrap().map(Result::unwrap).map(|key| (table.name.clone(), key)) {
                visible.insert(id.clone(), self.state[&id].clone());
            }
        }
        visible
    }

    /// Whether a policy is true with these rows, of which `row` is the one of bare columns.
    fn says(&self, table: &Table, verb: Verb, row: &[String], old: &[String], new: &[String]) -> bool {
        let Some(policy) = self.policy(&table.name, verb) else { return false };
        let name = &table.name;
        for (twin, values) in [("row", row), ("OLD", old), ("NEW", new)] {
            let sql = format!(
                "DELETE FROM temp.{twin}_{name}; INSERT INTO temp.{twin}_{name} VALUES({})",
                values.join(", ")
            );
            self.connection.execute_batch(&sql).unwrap();
        }
        let policy = policy.replace("OLD.", "OLD.OLD_").replace("NEW.", "NEW.NEW_");
        let sql = format!(
            "SELECT ({policy}) IS TRUE FROM temp.row_{name} AS {name}, temp.OLD_{name} AS OLD, temp.NEW_{name} AS NEW"
        );
        self.connection.query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    fn grants(&self, id: &Id, new: Option<&Vec<String>>) -> bool {
        let table = self.table(id);
        let says =
            |verb, row: &[String], old: &[String], new: &[String]| self.says(table, verb, row, old, new);
        match (self.state.get(id), new) {
            (None, None) => false,
            (None, Some(new)) => says(Verb::Insert, new, new, new),
            (Some(old), _) if !says(Verb::Select, old, old, old) => false,
            (Some(old), None) => says(Verb::Delete, old, old, old),
            (Some(old), Some(new)) => says(Verb::Update, old, old, new) && says(Verb::Update, new, old, new),
        }
    }

    /// What a round makes of the state: everything is judged on it, what is granted is done, and again.
    fn judge(&mut self, wanted: &BTreeMap<Id, Option<Vec<String>>>, verdicts: &mut [usize; 2]) {
        let mut left: Vec<_> =
            wanted.iter().filter(|(id, row)| self.state.get(*id) != row.as_ref()).collect();
        loop {
            let (granted, rest): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|(id, row)| self.grants(id, row.as_ref()));
            verdicts[0] += granted.len();
            if granted.is_empty() {
                verdicts[1] += rest.len();
                return;
            }
            let mut state = self.state.clone();
            for (id, row) in granted {
                match row {
                    Some(row) => state.insert(id.clone(), row.clone()),
                    None => state.remove(id),
                };
            }
            self.set(state);
            left = rest;
        }
    }
}

/// A write of one row, and its id. What is there is changed by its columns one by one, or taken away.
fn write(table: &Table, here: &Rows, me: &Asker, chance: &mut Chance) -> (Id, String) {
    let row = table.row(me, chance);
    let known: Vec<_> = here.keys().filter(|(of, _)| *of == table.name).collect();
    if known.is_empty() || chance.below(3) == 0 {
        let sql = format!("INSERT OR REPLACE INTO {} VALUES({})", table.name, row.join(", "));
        return (table.id(&row), sql);
    }
    let id = chance.of(&known).clone();
    let plain: Vec<_> = (0..table.columns.len()).filter(|at| !table.key.contains(at)).collect();
    let sql = if plain.is_empty() || chance.below(4) == 0 {
        format!("DELETE FROM {} WHERE {}", table.name, table.is(&id))
    } else {
        let at = plain[chance.below(plain.len())];
        let value = match table.columns[at].as_str() {
            "sku" => format!("'{} {}'", id.1.join(" ").replace('\'', ""), chance.below(2)),
            _ => row[at].clone(),
        };
        format!("UPDATE {} SET {} = {value} WHERE {}", table.name, table.columns[at], table.is(&id))
    };
    (id, sql)
}

/// What `policy test` says of a write alone.
fn tried(
    law: &mut Law,
    asker: &Asker,
    table: &Table,
    state: &Rows,
    id: &Id,
    new: Option<&Vec<String>>,
) -> bool {
    let json = |row: &[String], places: &[usize]| -> Map<String, Value> {
        let value = |literal: &String| match literal.as_str() {
            "NULL" => Value::Null,
            number if !number.starts_with('\'') => number.parse::<i64>().unwrap().into(),
            text => text[1..text.len() - 1].replace("''", "'").into(),
        };
        places.iter().map(|at| (table.columns[*at].clone(), value(&row[*at]))).collect()
    };
    let all: Vec<_> = (0..table.columns.len()).collect();
    let attempt = match (state.get(id), new) {
        (None, None) => return false,
        (None, Some(new)) => Attempt::Insert(json(new, &all)),
        (Some(_), Some(new)) => Attempt::Update(json(new, &all)),
        (Some(old), None) => Attempt::Delete(json(old, &table.key)),
    };
    let (policies, identity, connection) = law.now().unwrap();
    let user = asker.user.as_ref().unwrap();
    let wanted = Probe { table: &table.name, user, rows: 0, attempt: Some(&attempt) };
    probe(connection, policies, identity, &wanted).unwrap().allowed == Some(true)
}

/// A use case with devices of its users, round by round.
struct Run<'r> {
    case: &'r UseCase,
    tables: &'r [Table],
    server: Server,
    shell: Connection,
    law: Law,
    devices: Vec<(Asker, Device)>,
    chance: Chance,
    time: u64,
    /// Writes that the model let in and refused, and rows that devices were compared in.
    verdicts: [usize; 2],
    compared: usize,
}

impl Run<'_> {
    fn state(&self) -> Rows {
        read(&self.shell, self.tables)
    }

    /// The owner writes as they like.
    fn owner_writes(&mut self, most: usize) -> BTreeSet<Id> {
        let mut touched = BTreeSet::new();
        for _ in 0..self.chance.below(most + 1) {
            let table = &self.tables[self.chance.below(self.tables.len())];
            let somebody = &self.devices[self.chance.below(self.devices.len())].0;
            let (id, sql) = write(table, &self.state(), somebody, &mut self.chance);
            self.server.run(&sql);
            touched.insert(id);
        }
        touched
    }

    fn sync(&mut self, at: usize) {
        let (asker, device) = &mut self.devices[at];
        sync_as(device, &self.server, asker, BOTH, &mut |_| false);
    }

    /// Each device has what SQLite says that its user sees of the whole tables.
    fn check_devices(&mut self, place: &str) {
        for at in 0..self.devices.len() {
            self.sync(at);
            self.sync(at);
            let (asker, device) = &self.devices[at];
            let model = Model::new(self.case, self.tables, asker, self.state());
            let visible = model.visible();
            assert_eq!(read(&device.sql, self.tables), visible, "{place}: {:?}", asker.user_id());
            assert_eq!(device.quarantine(), 0, "{place}");
            self.compared += visible.len();
        }
    }

    /// One device writes something, of which it has not seen what the owner did meanwhile.
    fn round(&mut self, place: &str) {
        let at = self.chance.below(self.devices.len());
        self.sync(at);
        let others = self.owner_writes(3);
        let mut wanted = BTreeMap::new();
        for _ in 0..=self.chance.below(6) {
            let table = &self.tables[self.chance.below(self.tables.len())];
            let here = read(&self.devices[at].1.sql, self.tables);
            let (id, sql) = write(table, &here, &self.devices[at].0, &mut self.chance);
            // Which of two writes to one row wins is not what this is about.
            if !others.contains(&id) {
                let device = &self.devices[at].1;
                self.time += 1_000;
                device.run_at(self.time, &sql);
                wanted.insert(id, None);
            }
        }
        let here = read(&self.devices[at].1.sql, self.tables);
        for (id, row) in &mut wanted {
            *row = here.get(id).cloned();
        }
        let asker = self.devices[at].0.clone();
        let mut model = Model::new(self.case, self.tables, &asker, self.state());
        for (id, row) in &wanted {
            if model.state.get(id) != row.as_ref() {
                let expected = model.grants(id, row.as_ref());
                let table = model.table(id);
                let tried = tried(&mut self.law, &asker, table, &model.state, id, row.as_ref());
                assert_eq!(tried, expected, "{place}: `policy test` on {id:?} {row:?}");
            }
        }
        model.judge(&wanted, &mut self.verdicts);
        self.sync(at);
        assert_eq!(self.state(), model.state, "{place}: {:?} wrote {wanted:?}", asker.user_id());
    }
}

fn run(case: &UseCase, seed: u64, rounds: usize) -> ([usize; 2], usize) {
    let server = case.server();
    let shell = server.shell();
    let tables = Table::all(&shell);
    let law = Law::new(server.shell()).unwrap();
    let mut chance = Chance(seed);
    let both = |asker: Asker| Asker { rights: Rights { read: true, ..asker.rights }, ..asker };
    // The first user has two devices.
    let people: Vec<_> = users().into_iter().map(both).collect();
    let people = [0, 0, 1, 2, 4].map(|at: usize| people[at].clone());
    let devices = people.into_iter().enumerate();
    let devices: Vec<_> =
        devices.map(|(at, asker)| (asker, Device::new(seed * 10 + at as u64, &case.schema))).collect();
    for _ in 0..30 {
        let row = |chance: &mut Chance| {
            let table = &tables[chance.below(tables.len())];
            format!(
                "INSERT OR IGNORE INTO {} VALUES({})",
                table.name,
                table.row(&devices[chance.below(5)].0, chance).join(", ")
            )
        };
        server.run(&row(&mut chance));
    }
    let (verdicts, compared) = ([0; 2], 0);
    let (tables, time) = (&tables[..], LATER);
    let mut run = Run { case, tables, server, shell, law, devices, chance, time, verdicts, compared };
    run.check_devices(&format!("{}, seed {seed}, at first", case.title));
    for round in 0..rounds {
        let place = format!("{}, seed {seed}, round {round}", case.title);
        run.round(&place);
        if round % 4 == 3 {
            run.check_devices(&place);
        }
    }
    (run.verdicts, run.compared)
}

#[test]
fn all_use_cases_read_and_write_as_sqlite_says_of_their_policies() {
    let (seeds, rounds) = match std::env::var("CLOUDSYNC_SEEDS") {
        Ok(seeds) => (seeds.parse().unwrap(), 200),
        Err(_) => (2, 40),
    };
    let cases = use_cases();
    assert_eq!(cases.len(), 5);
    let wished = std::env::var("CLOUDSYNC_CASE").unwrap_or_default();
    for case in cases.iter().filter(|case| case.title.contains(&wished)) {
        let (mut verdicts, mut compared) = ([0; 2], 0);
        for seed in 1..=seeds {
            let (of_run, rows) = run(case, seed, rounds);
            verdicts = [verdicts[0] + of_run[0], verdicts[1] + of_run[1]];
            compared += rows;
        }
        println!("{}: {verdicts:?} writes let in and refused, {compared} rows compared", case.title);
        assert!(verdicts.iter().all(|count| *count >= 5) && compared >= 50, "{verdicts:?} {compared}");
    }
}
