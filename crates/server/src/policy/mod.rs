//! Row-level security: who may see and write which rows.
//!
//! For each synced table there are up to four policies, one for each [`Verb`]: boolean SQL expressions of the owner. What
//! no policy allows is denied to users; keys are trusted and are not judged. A policy that is NULL denies.
//!
//! `words` makes sure that an expression stays in its place, `compile` has SQLite check it and say what it reads, `twin`
//! has rows evaluated that are not in their table, `identity` says who asks, `judge` what they may, `work` how much of it there
//! may be, `kept` has what was compiled before, `probe` tries them and `plan` compares, `history` is how policies are stored,
//! `law` is all of that for one connection. What surprises of a policy is found by [`schema_check`](crate::schema_check).
//!
//! | policy | what it may name |
//! | --- | --- |
//! | SELECT | the row's columns, bare, by the table's name, or as `OLD.` or `NEW.` |
//! | INSERT | the same of the row as it would be, or as `NEW.` |
//! | DELETE | the same of the row that would go, or as `OLD.` |
//! | UPDATE | `OLD.` the row as it is, `NEW.` as it would be; where columns stand bare, the policy must be true for both |

mod compile;
mod history;
mod identity;
mod judge;
mod kept;
mod law;
mod plan;
mod probe;
pub(crate) mod twin;
pub(crate) mod words;
mod work;

pub use compile::Policy;
pub use history::{Change, Entry, change, history, prepare_file};
pub use identity::{Assumed, Identity};
pub use judge::Judge;
pub(crate) use judge::is_of_expression;
pub use kept::forget_compiled;
pub use law::Law;
pub use plan::{Known, PLANNED_USERS_MAX, Plan, Shift, plan};
pub use probe::{Attempt, Probe, Probed, SHOWN_ROWS_MAX, probe};
pub use twin::attach;
pub use work::{PolicySteps, Work};

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::store::StoreError;

/// What somebody wants to do with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// See it.
    Select,
    /// Bring it to life.
    Insert,
    /// Change it.
    Update,
    /// Delete it.
    Delete,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Select, Self::Insert, Self::Update, Self::Delete];

    /// Its word in SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }
}

/// Why a policy is not taken or not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The expression breaks a rule.
    #[error("the {} policy of table \"{table}\" is refused: {why}", verb.name())]
    Refused {
        /// The table.
        table: String,
        /// The policy's verb.
        verb: Verb,
        /// What is wrong, in words.
        why: String,
    },
    /// What is asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The file of the database failed.
    #[error(transparent)]
    Store(StoreError),
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl From<PolicyError> for cloudsync_replica::Error {
    fn from(error: PolicyError) -> Self {
        Self::State(error.to_string())
    }
}

/// The policies of one database, compiled for one connection's view of it.
#[derive(Debug, Default)]
pub struct Policies {
    tables: BTreeMap<String, Vec<Policy>>,
    stamp: Option<Stamp>,
    compiled: u64,
}

/// What policies were compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    schema_version: i64,
    /// The last change of a policy.
    last: i64,
}

impl Stamp {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let schema_version =
            connection.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))?;
        Ok(Self { schema_version, last: history::last(connection)? })
    }
}

impl Policies {
    /// Reads and compiles the policies of a database, to which [`attach`] has given its schema for twins. A policy that
    /// does not fit the present schema is there with its [fault](Policy::fault), and denies.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn load(connection: &mut Connection) -> Result<Self, PolicyError> {
        let mut policies = Self::default();
        policies.refresh(connection)?;
        Ok(policies)
    }

    /// Compiles anew if policies or the schema changed, also in the transaction that is open. True if that was so.
    ///
    /// What was compiled in a transaction that is rolled back must be [forgotten](Self::forget).
    ///
    /// # Errors
    /// When SQLite fails; then there are no policies, and everything is denied.
    pub fn refresh(&mut self, connection: &mut Connection) -> Result<bool, PolicyError> {
        let stamp = Stamp::read(connection)?;
        if self.stamp == Some(stamp) {
            return Ok(false);
        }
        self.forget();
        let schema = kept::Schema::read(connection)?;
        let mut compiled = Vec::new();
        for (table, verb, text) in history::present(connection)? {
            let key = schema.key(&table, verb, &text);
            let policy = match kept::find(&key) {
                Some(policy) => policy,
                None => {
                    let policy = compile::compile(connection, &table, verb, &text)?;
                    compiled.push((key, policy.clone()));
                    policy
                }
            };
            self.tables.entry(table.to_ascii_lowercase()).or_default().push(policy);
        }
        // Outside of a transaction the schema may have changed meanwhile.
        if !compiled.is_empty() && Stamp::read(connection)? == stamp {
            compiled.iter().for_each(|(key, policy)| kept::keep(*key, policy));
        }
        self.stamp = Some(stamp);
        self.compiled += 1;
        Ok(true)
    }

    /// Forgets everything, so that the next [`refresh`](Self::refresh) compiles anew.
    pub fn forget(&mut self) {
        *self = Self { compiled: self.compiled, ..Self::default() };
    }

    /// Counts how often they were compiled: what was made of them before is out of date.
    #[must_use]
    pub const fn compiled(&self) -> u64 {
        self.compiled
    }

    /// A policy that is good; without one everything of the kind is denied.
    #[must_use]
    pub fn of(&self, table: &str, verb: Verb) -> Option<&Policy> {
        self.of_table(table).find(|policy| policy.verb() == verb).filter(|policy| policy.fault().is_none())
    }

    /// The policy that says which rows of a table a user sees.
    #[must_use]
    pub fn select_of(&self, table: &str) -> Option<&Policy> {
        self.of(table, Verb::Select)
    }

    /// All policies of a table, also those with a fault.
    pub fn of_table(&self, table: &str) -> impl Iterator<Item = &Policy> {
        self.tables.get(&table.to_ascii_lowercase()).into_iter().flatten()
    }

    /// All policies.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.tables.values().flatten()
    }
}
