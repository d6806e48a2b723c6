//! `cloudsync policy`: who may see and write which rows.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Place;
use crate::auth::User;
use crate::error::{Error, Result};
use crate::folder::DatabaseName;
use crate::http::now_ms;
use crate::policy::{Attempt, Change, Plan, Probe, Probed, Verb};
use crate::store::sqlite;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Set policies of a table; a running server obeys at once
    Set {
        /// The database
        database: String,
        /// The table
        table: String,
        #[command(flatten)]
        expressions: Expressions,
    },
    /// Show the policies of a database or a table
    Show {
        /// The database
        database: String,
        /// The table
        table: Option<String>,
        /// Show every change instead, the latest first
        #[arg(long)]
        history: bool,
    },
    /// Take policies away: those that are named, or all of the table
    Clear {
        /// The database
        database: String,
        /// The table
        table: String,
        /// Which ones: select, insert, update, delete
        #[arg(value_parser = verb)]
        policies: Vec<Verb>,
    },
    /// Try the policies of a table as a user: what they see, and whether they might write something
    Test {
        /// The database
        database: String,
        /// The table
        table: String,
        /// The user's id, as auth_userid() gives it
        #[arg(long)]
        user: String,
        /// The user's claims, as auth_json() gives them
        #[arg(long, value_name = "JSON", default_value = "{}")]
        claims: String,
        /// Rows to show
        #[arg(long, default_value_t = 10)]
        rows: usize,
        #[command(flatten)]
        attempt: Write,
    },
    /// Say what another SELECT policy would change, before it is set: for how many users, devices and rows
    Plan {
        /// The database
        database: String,
        /// The table
        table: String,
        /// The other policy; without it, what taking the present one away would change
        #[arg(long, value_name = "SQL")]
        select: Option<String>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct Expressions {
    /// Which rows a user sees
    #[arg(long, value_name = "SQL")]
    select: Option<String>,
    /// Which rows a user may insert
    #[arg(long, value_name = "SQL")]
    insert: Option<String>,
    /// Which changes a user may make, from OLD to NEW
    #[arg(long, value_name = "SQL")]
    update: Option<String>,
    /// Which rows a user may delete
    #[arg(long, value_name = "SQL")]
    delete: Option<String>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct Write {
    /// A row to insert
    #[arg(long, value_name = "JSON")]
    insert: Option<String>,
    /// The key of a row, and columns to change
    #[arg(long, value_name = "JSON")]
    update: Option<String>,
    /// The key of a row to delete
    #[arg(long, value_name = "JSON")]
    delete: Option<String>,
}

fn verb(text: &str) -> std::result::Result<Verb, String> {
    let known = Verb::ALL.into_iter().find(|verb| verb.name().eq_ignore_ascii_case(text));
    known.ok_or_else(|| "use select, insert, update or delete".to_owned())
}

fn object(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| Error::Policy(format!("{text:?} is no JSON object: {error}")))
}

impl Write {
    fn attempt(&self) -> Result<Option<Attempt>> {
        Ok(match (&self.insert, &self.update, &self.delete) {
            (Some(row), ..) => Some(Attempt::Insert(object(row)?)),
            (_, Some(row), _) => Some(Attempt::Update(object(row)?)),
            (.., Some(row)) => Some(Attempt::Delete(object(row)?)),
            (None, None, None) => None,
        })
    }
}

impl PolicyCommand {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        match self {
            Self::Set { database, table, expressions } => set(place, &database, &table, &expressions),
            Self::Show { database, table, history: true } => history(place, &database, table.as_deref()),
            Self::Show { database, table, history: false } => show(place, &database, table.as_deref()),
            Self::Clear { database, table, policies } => clear(place, &database, &table, &policies),
            Self::Test { database, table, user, claims, rows, attempt } => {
                let user = User { id: user, claims: object(&claims)? };
                let attempt = attempt.attempt()?;
                let probe = Probe { table: &table, user: &user, rows, attempt: attempt.as_ref() };
                let probed = sqlite::probe_policies(&place.database(&database)?, &probe)?;
                place.print(&probed, |probed| told(&user.id, probed))
            }
            Self::Plan { database, table, select } => {
                let path = place.database(&database)?;
                let users = place.open()?.1.known_users(&DatabaseName::new(&database)?)?;
                let plan = sqlite::plan_policy(&path, (&table, select.as_deref()), users)?;
                place.print(&plan, planned)
            }
        }
    }
}

/// Who gives commands, for the history.
fn by() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    user.map_or_else(|| "the command line".to_owned(), |user| format!("{user}, by the command line"))
}

fn set(place: &Place, database: &str, table: &str, expressions: &Expressions) -> Result<()> {
    let Expressions { select, insert, update, delete } = expressions;
    let (by, now_ms) = (by(), now_ms());
    let changes: Vec<_> = Verb::ALL
        .into_iter()
        .zip([select, insert, update, delete])
        .filter_map(|(verb, text)| {
            let text = Some(text.as_deref()?);
            Some(Change { table, verb, text, by: &by, now_ms })
        })
        .collect();
    let changed = sqlite::change_policies(&place.database(database)?, &changes)?;
    place.print(&changed, |changed| {
        let mut text = String::new();
        for policy in &changed.policies {
            let _ = writeln!(text, "{} of {}: {}", policy.policy.name(), policy.table, policy.expression);
        }
        for warning in &changed.warnings {
            let _ = writeln!(text, "{warning}");
        }
        text.trim_end().to_owned()
    })
}

fn clear(place: &Place, database: &str, table: &str, policies: &[Verb]) -> Result<()> {
    let path = place.database(database)?;
    let (by, now_ms) = (by(), now_ms());
    let present = sqlite::policies(&path, Some(table))?;
    let is_wanted = |verb: &Verb| policies.is_empty() || policies.contains(verb);
    let gone: Vec<_> = present.iter().map(|policy| policy.policy).filter(is_wanted).collect();
    let change = |verb: &Verb| Change { table, verb: *verb, text: None, by: &by, now_ms };
    sqlite::change_policies(&path, &gone.iter().map(change).collect::<Vec<_>>())?;
    place.print(&json!({ "table": table, "cleared": gone }), |_| {
        let names: Vec<_> = gone.iter().map(|verb| verb.name()).collect();
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        format!("{table}: cleared {names}; users may not do that any more")
    })
}

fn show(place: &Place, database: &str, table: Option<&str>) -> Result<()> {
    let policies = sqlite::policies(&place.database(database)?, table)?;
    place.print_list(&policies, ["TABLE", "POLICY", "EXPRESSION", "READS", "FAULT"], |policy| {
        let reads: Vec<_> = policy.reads.iter().map(String::as_str).collect();
        let expression = policy.expression.split_whitespace().collect::<Vec<_>>().join(" ");
        let fault = policy.fault.clone().unwrap_or_default();
        [policy.table.clone(), policy.policy.name().to_owned(), expression, reads.join(", "), fault]
    })
}

fn history(place: &Place, database: &str, table: Option<&str>) -> Result<()> {
    let entries = sqlite::policy_history(&place.database(database)?, table)?;
    place.print_list(&entries, ["WHEN", "WHO", "TABLE", "POLICY", "EXPRESSION"], |entry| {
        let expression = entry.expression.clone().unwrap_or_else(|| "(cleared)".to_owned());
        [
            entry.set.clone(),
            entry.set_by.clone(),
            entry.table.clone(),
            entry.verb.name().to_owned(),
            expression,
        ]
    })
}

fn told(user: &str, probed: &Probed) -> String {
    let mut text = format!("{user} sees {} of {} rows", probed.sees, probed.of);
    for row in &probed.rows {
        let _ = write!(text, "\n{}", Value::Object(row.clone()));
    }
    match (probed.allowed, &probed.why) {
        (Some(true), _) => text.push_str("\nallowed"),
        (Some(false), Some(why)) => {
            let _ = write!(text, "\nrefused: {why}");
        }
        (Some(false), None) | (None, _) => {}
    }
    text
}

fn planned(plan: &Plan) -> String {
    let Plan { users, devices, gains, loses, looked_at, more_users, shifts } = plan;
    let mut text = format!(
        "{users} of {looked_at} users with {devices} devices would gain {gains} rows and lose {loses}"
    );
    if *more_users {
        text.push_str("; there are more users, who were not looked at");
    }
    for shift in shifts.iter().take(20) {
        let claims = if shift.claims_known { "" } else { ", taken to have no claims" };
        let _ = write!(text, "\n{}: +{} -{}{claims}", shift.user, shift.gains, shift.loses);
    }
    text
}
