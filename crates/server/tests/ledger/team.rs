//! Devices of users, a server with policies, and somebody who knows everything and reads each answer.

use crate::bench::Device;
use crate::server::Server;
use cloudsync_core::key::{KeyCollation, pack_part};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Answer, Reason, Request, Turn};
use cloudsync_protocol::payload::{Opened, Payload};
use cloudsync_protocol::range::{Checked, Finding};
use cloudsync_protocol::verdict::Verdicts;
use cloudsync_replica::Zstd;
use cloudsync_server::auth::User;
use cloudsync_server::policy::{Change, Verb};
use cloudsync_server::store::sqlite::{SqliteStore, change_policies};
use cloudsync_server::store::{Asker, Rights, Store};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{Value as Owned, ValueRef};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;

const BOTH: Goal = Goal { push: true, pull: true };
const TURNS_MAX: usize = 400;
/// Keys of so many bytes are in no position by chance.
const TELLING_KEY_BYTES: usize = 8;

/// A table and a packed key.
type RowKey = (String, Vec<u8>);

pub(crate) fn key(text: &str) -> Vec<u8> {
    let mut key = Vec::new();
    pack_part(&mut key, cloudsync_core::value::ValueRef::Text(text.as_bytes()), KeyCollation::Binary, true)
        .unwrap();
    key
}

/// Rows of a table, in order.
fn content(sql: &Connection, table: &str, condition: &str) -> Vec<Vec<Owned>> {
    let mut select = sql.prepare(&format!("SELECT * FROM {table} WHERE {condition} ORDER BY id")).unwrap();
    let columns = select.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at)).collect();
    select.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn shown(row: &[Owned]) -> String {
    let value = |value: &Owned| match value {
        Owned::Blob(blob) => format!("({} bytes)", blob.len()),
        Owned::Text(text) => format!("{text:.60}"),
        other => format!("{other:?}"),
    };
    row.iter().map(value).collect::<Vec<_>>().join(", ")
}

/// A device and whose it is.
pub(crate) struct Member {
    pub(crate) user: String,
    pub(crate) claims: serde_json::Value,
    pub(crate) device: Device,
    /// Tables and keys of which the device ever knew; a copy of its file, and it of its copies.
    knew: Rc<RefCell<HashSet<RowKey>>>,
    /// What the last sync received: rows alive, rows dead, evictions; pieces of large values; and in how many turns.
    pub(crate) got: [usize; 3],
    /// Of the rows alive those that came whole.
    pub(crate) whole: usize,
    pub(crate) pieces: usize,
    /// Rows that it repaired.
    pub(crate) repaired: u64,
    pub(crate) turns: usize,
}

impl Member {
    pub(crate) fn run(&self, sql: &str) {
        self.device.run(sql);
    }

    /// Whoever this is a copy of, and under whose site it may ask.
    pub(crate) fn is_copy_of(&mut self, other: &Self) {
        self.claims = other.claims.clone();
        self.knew = Rc::clone(&other.knew);
    }

    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        self.device.rows(sql)
    }

    pub(crate) fn asker(&self) -> Asker {
        let claims = self.claims.as_object().unwrap().clone();
        let user = Some(Arc::new(User { id: self.user.clone(), claims }));
        Asker { rights: Rights { read: true, write: true, schema: false }, user }
    }
}

pub(crate) struct Team {
    pub(crate) server: Server,
    schema: String,
    pub(crate) policies: BTreeMap<String, String>,
    tables: Vec<String>,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    Lost,
    /// Nobody goes on with this sync.
    Ends,
}

impl Team {
    /// Tables that sync, and one that does not, whose name begins with `local_`.
    pub(crate) fn new(schema: &str) -> Self {
        let server = Server::in_memory(schema);
        let shell = Connection::open(&server.path).unwrap();
        let mut tables = shell.prepare("SELECT name FROM cloudsync_tables ORDER BY name").unwrap();
        let tables = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        Self { server, schema: schema.to_owned(), policies: BTreeMap::new(), tables }
    }

    /// Sets what is seen of a table; what is seen may be written.
    pub(crate) fn sees(&mut self, table: &str, text: &str) {
        self.shows(table, Some(text));
        for verb in [Verb::Insert, Verb::Delete] {
            self.set(table, verb, Some(text));
        }
        self.set(table, Verb::Update, Some("OLD.id = NEW.id"));
    }

    /// Sets only what is seen of a table, or takes that away.
    pub(crate) fn shows(&mut self, table: &str, text: Option<&str>) {
        self.policies.insert(table.to_owned(), text.unwrap_or("0").to_owned());
        self.set(table, Verb::Select, text);
    }

    pub(crate) fn set(&self, table: &str, verb: Verb, text: Option<&str>) {
        let wanted = Change { table, verb, text, by: "test", now_ms: 1 };
        change_policies(&self.server.path, &[wanted]).unwrap();
    }

    pub(crate) fn member(&self, seed: u64, user: &str) -> Member {
        self.member_on(Device::new(seed, &self.schema), user)
    }

    /// Somebody with a device that has the tables.
    pub(crate) fn member_on(&self, mut device: Device, user: &str) -> Member {
        device.replica.set_sees_part(true).unwrap();
        Member {
            user: user.to_owned(),
            claims: serde_json::json!({}),
            device,
            knew: Rc::default(),
            got: [0; 3],
            whole: 0,
            pieces: 0,
            repaired: 0,
            turns: 0,
        }
    }

    pub(crate) fn run(&self, sql: &str) {
        self.server.run(sql);
    }

    /// The server is stopped and started.
    pub(crate) fn restart(&mut self) {
        self.restart_with(|| ());
    }

    /// The server is stopped and started, and something happens in between.
    pub(crate) fn restart_with(&mut self, act: impl FnOnce()) {
        let path = self.server.path.clone();
        self.server.store = SqliteStore::open(&path.with_extension("other")).unwrap();
        act();
        self.server.store = SqliteStore::open(&path).unwrap();
    }

    /// A plain connection on which the functions of policies speak of somebody.
    fn as_user(&self, member: &Member) -> Connection {
        let shell = Connection::open(&self.server.path).unwrap();
        let (id, claims) = (member.user.clone(), member.claims.to_string());
        let flags = FunctionFlags::SQLITE_UTF8;
        shell.create_scalar_function("auth_userid", 0, flags, move |_| Ok(id.clone())).unwrap();
        shell.create_scalar_function("auth_json", 0, flags, move |_| Ok(claims.clone())).unwrap();
        shell
    }

    /// The keys that somebody sees, by the policies as plain SQL.
    fn visible(&self, member: &Member) -> HashSet<RowKey> {
        let shell = self.as_user(member);
        let mut visible = HashSet::new();
        for table in &self.tables {
            let Some(policy) = self.policies.get(table) else { continue };
            let mut select = shell.prepare(&format!("SELECT id FROM {table} WHERE {policy}")).unwrap();
            let ids = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
            visible.extend(ids.map(|id| (table.clone(), key(&id.unwrap()))));
        }
        visible
    }

    /// The keys of all rows.
    fn keys(&self) -> HashSet<RowKey> {
        let shell = Connection::open(&self.server.path).unwrap();
        let mut keys = HashSet::new();
        for table in &self.tables {
            let mut select = shell.prepare(&format!("SELECT id FROM {table}")).unwrap();
            let ids = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
            keys.extend(ids.map(|id| (table.clone(), key(&id.unwrap()))));
        }
        keys
    }

    /// Whether a listening device would be woken.
    pub(crate) fn concerns(&self, member: &Member) -> bool {
        self.server.store.refresh().unwrap();
        let cursor: i64 = member.device.get("SELECT value FROM cloudsync_settings WHERE key = 'cursor'");
        let site: Vec<u8> = member.device.get(
            "SELECT site_id FROM cloudsync_sites WHERE ordinal = \
            (SELECT value FROM cloudsync_settings WHERE key = 'site')",
        );
        let site = cloudsync_core::id::SiteId(site.try_into().unwrap());
        let claims = member.claims.as_object().unwrap().clone();
        let user = User { id: member.user.clone(), claims };
        self.server.store.concerns(&user, site, cursor as u64).unwrap()
    }

    pub(crate) fn sync(&self, member: &mut Member) {
        self.sync_with(member, &mut |_| Fate::Arrives);
    }

    /// Syncs until nothing is left to do, or somebody gives up.
    pub(crate) fn sync_with(&self, member: &mut Member, fate: &mut dyn FnMut(usize) -> Fate) {
        self.sync_to(member, BOTH, fate);
    }

    /// What the server says to a device that it refuses for its schema.
    pub(crate) fn refusal(&self, member: &mut Member) -> String {
        let bytes = member.device.replica.prepare(BOTH, true).unwrap();
        let now = member.device.world.now.get();
        let answer = self.server.store.turn(&Request::decode(&bytes).unwrap(), &member.asker(), now).unwrap();
        match Answer::decode(&answer).unwrap() {
            Answer::Refusal(refusal) => {
                assert!(member.device.replica.mend(&refusal).is_err());
                refusal.text
            }
            Answer::Turn(turn) => panic!("it was taken: {turn:?}"),
        }
    }

    /// Sends, and receives nothing.
    pub(crate) fn send(&self, member: &mut Member, fate: &mut dyn FnMut(usize) -> Fate) {
        self.sync_to(member, Goal { push: true, pull: false }, fate);
    }

    fn sync_to(&self, member: &mut Member, goal: Goal, fate: &mut dyn FnMut(usize) -> Fate) {
        (member.got, member.whole, member.pieces, member.repaired, member.turns) = ([0; 3], 0, 0, 0, 0);
        let asker = member.asker();
        let (mut schema, mut checks, mut checked) = (false, false, false);
        for turn in 0..TURNS_MAX {
            let bytes = if std::mem::take(&mut checks) {
                match member.device.replica.prepare_check(goal).unwrap() {
                    Some(bytes) => bytes,
                    None => return,
                }
            } else {
                member.device.replica.prepare(goal, schema).unwrap()
            };
            let request = Request::decode(&bytes).unwrap();
            self.note_known(member);
            let now = member.device.world.now.get();
            let answer = self.server.store.turn(&request, &asker, now).unwrap();
            let answer = Answer::decode(&answer).unwrap();
            if let Answer::Turn(turn) = &answer {
                self.check(member, turn);
                self.check_findings(member, &request, turn);
            }
            match fate(turn) {
                Fate::Lost => continue,
                Fate::Ends => return,
                Fate::Arrives => {}
            }
            match answer {
                Answer::Turn(turn) => {
                    member.turns += usize::from(request.check.ranges.is_empty());
                    let absorbed = member.device.replica.absorb(&turn).unwrap();
                    member.repaired += absorbed.rows_repaired;
                    schema = false;
                    if absorbed.more {
                        continue;
                    }
                    self.note_known(member);
                    checks = goal.pull && (absorbed.unchecked || absorbed.idle && !checked);
                    checked |= checks;
                    if !checks {
                        return;
                    }
                }
                Answer::Refusal(refusal) => {
                    schema = refusal.reason == Reason::NeedSchema;
                    if !schema {
                        member.device.replica.mend(&refusal).unwrap();
                    }
                }
            }
        }
        panic!("the sync does not come to an end");
    }

    /// What the device itself has is no secret to it.
    fn note_known(&self, member: &mut Member) {
        for table in &self.tables {
            let ids: Vec<String> = member.device.column(&format!("SELECT id FROM {table}"));
            member.knew.borrow_mut().extend(ids.into_iter().map(|id| (table.clone(), key(&id))));
        }
    }

    /// No row is in an answer that may not be seen, and nothing is told of rows that the device never had.
    fn check(&self, member: &mut Member, turn: &Turn<'_>) {
        let visible = self.visible(member);
        assert_eq!(turn.rows_total, 0, "how much there is is told");
        for (_, key) in self.keys().iter().filter(|row| row.1.len() >= TELLING_KEY_BYTES) {
            let is_told = turn.position.windows(key.len()).any(|bytes| bytes == key);
            assert!(!is_told, "a key is in the position: {key:?}");
        }
        let mut payloads = vec![turn.payload.to_vec()];
        if !turn.verdicts.is_empty() {
            let verdicts = Verdicts::decode(turn.verdicts).unwrap();
            payloads.push(verdicts.payload.to_vec());
        }
        for (at, bytes) in payloads.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
            let opened = Opened::open(bytes, &Zstd).unwrap();
            self.check_payload(member, &opened.payload().unwrap(), &visible, at == 0);
        }
    }

    fn check_payload(
        &self,
        member: &mut Member,
        payload: &Payload<'_>,
        visible: &HashSet<RowKey>,
        counts: bool,
    ) {
        self.check_pieces(member, payload, visible);
        for evicted in payload.evicted() {
            for row in 0..evicted.rows() {
                let row = (evicted.table().to_owned(), evicted.key(row).to_vec());
                assert!(member.knew.borrow().contains(&row), "{} is told of {row:?}", member.user);
                assert!(!visible.contains(&row), "{} loses {row:?}", member.user);
                member.got[2] += usize::from(counts);
            }
        }
        for group in payload.groups() {
            for at in 0..group.rows() {
                let row = (group.table().to_owned(), group.key(at).to_vec());
                if group.life(at) % 2 == 0 {
                    assert!(member.knew.borrow().contains(&row), "{} is told of dead {row:?}", member.user);
                    member.got[1] += usize::from(counts);
                } else {
                    assert!(visible.contains(&row), "{} is sent {row:?}", member.user);
                    member.got[0] += usize::from(counts);
                    member.whole += usize::from(counts && group.whole());
                    member.knew.borrow_mut().insert(row);
                }
            }
        }
    }

    /// What is found of ranges tells of rows that are seen, and of no others.
    fn check_findings(&self, member: &mut Member, request: &Request<'_>, turn: &Turn<'_>) {
        if turn.checked.is_empty() {
            return;
        }
        let (visible, checked) = (self.visible(member), Checked::decode(turn.checked).unwrap());
        for (finding, range) in checked.findings.iter().zip(&request.check.ranges) {
            let told = match finding {
                Finding::Differs { until } => until,
                Finding::Large { key, .. } => key,
                Finding::Equal | Finding::Unknown | Finding::Later => continue,
                Finding::Empty => panic!("{} is told that a table is empty", member.user),
            };
            let row = (range.table.to_owned(), told.to_vec());
            assert!(told.is_empty() || visible.contains(&row), "{} is told of {row:?}", member.user);
        }
        if !checked.payload.is_empty() {
            let opened = Opened::open(checked.payload, &Zstd).unwrap();
            let payload = opened.payload().unwrap();
            assert!(payload.evicted().is_empty() && payload.pieces().is_empty());
            assert!(payload.groups().iter().all(|group| group.whole() && group.life(0) % 2 == 1));
            self.check_payload(member, &payload, &visible, false);
        }
    }

    /// Each piece of a large value is one of a value that is seen. Its row may then be told of.
    fn check_pieces(&self, member: &mut Member, payload: &Payload<'_>, visible: &HashSet<RowKey>) {
        if payload.pieces().is_empty() {
            return;
        }
        let values = self.large_values();
        for piece in payload.pieces() {
            let (start, end) = (piece.start as usize, piece.start as usize + piece.bytes.len());
            let of = values.iter().filter(|(_, value)| value.get(start..end) == Some(piece.bytes));
            let rows: Vec<_> = of.map(|(row, _)| row).filter(|row| visible.contains(row)).collect();
            assert!(!rows.is_empty(), "{} is sent a piece of a value that they do not see", member.user);
            member.knew.borrow_mut().extend(rows.into_iter().cloned());
            member.pieces += 1;
        }
    }

    /// The largest value of each row.
    fn large_values(&self) -> Vec<(RowKey, Vec<u8>)> {
        let shell = Connection::open(&self.server.path).unwrap();
        let mut values = Vec::new();
        for table in &self.tables {
            let mut select = shell.prepare(&format!("SELECT id, * FROM {table}")).unwrap();
            let columns = select.column_count();
            let mut rows = select.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let bytes = |at| match row.get_ref(at).unwrap() {
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
                    _ => &[],
                };
                let largest = (1..columns).map(bytes).max_by_key(|bytes| bytes.len()).unwrap_or_default();
                let id: String = row.get(0).unwrap();
                values.push(((table.clone(), key(&id)), largest.to_vec()));
            }
        }
        values
    }

    /// Each has what they see, byte for byte, and nothing else, and no check had to see to that.
    #[track_caller]
    pub(crate) fn assert_settled(&self, members: &mut [&mut Member]) {
        self.settle(members, |member| {
            assert_eq!(member.repaired, 0, "rows of {} had to be repaired", member.user);
        });
    }

    /// Each has what they see, byte for byte, and nothing else, whatever repairs that takes.
    #[track_caller]
    pub(crate) fn assert_mended(&self, members: &mut [&mut Member]) {
        self.settle(members, |_| ());
    }

    #[track_caller]
    fn settle(&self, members: &mut [&mut Member], check: impl Fn(&Member)) {
        for _ in 0..2 {
            for member in &mut *members {
                self.sync(member);
                check(member);
            }
        }
        for member in members {
            let quarantine = member.rows("SELECT tbl, reason FROM cloudsync_quarantine");
            assert_eq!(quarantine, [""; 0], "{}", member.user);
            assert!(!member.device.replica.has_unsent().unwrap());
            let mut rows = 0;
            for table in &self.tables {
                let seen = match self.policies.get(table) {
                    Some(policy) => content(&self.as_user(member), table, policy),
                    None => Vec::new(),
                };
                let found = content(&member.device.sql, table, "1");
                let short = |rows: &[Vec<Owned>]| rows.iter().map(|row| shown(row)).collect::<Vec<_>>();
                assert!(
                    found == seen,
                    "{table} of {}: {:?} is not {:?}",
                    member.user,
                    short(&found),
                    short(&seen)
                );
                rows += found.len();
            }
            self.sync(member);
            assert_eq!(member.got, [0; 3], "an idle sync brings {} something", member.user);
            let sql = "SELECT pk FROM cloudsync_clocks";
            let clocks: BTreeSet<Vec<u8>> = member.device.column(sql).into_iter().collect();
            assert!(clocks.len() >= rows);
            member.device.check();
        }
    }
}
