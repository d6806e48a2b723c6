//! Compiling: SQLite itself checks an expression and says what it reads.
//!
//! The expression is prepared on a row of the table's twin, under an authorizer. What is read of the twin is the row's
//! own, everything else is what the policy reads of the database.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloudsync_protocol::limits::POLICY_BYTES_MAX;
use cloudsync_replica::quote_identifier;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OptionalExtension as _};

use super::{PolicyError, Verb, twin, words};

/// Functions that give the same for the same values and database, and do nothing else. Aggregates whose outcome depends
/// on an order that nothing fixes are not among them, and neither is anything that knows the time.
const FUNCTIONS: &[&str] = &[
    "->",
    "->>",
    "abs",
    "auth_json",
    "auth_userid",
    "avg",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "format",
    "glob",
    "hex",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_length",
    "json_extract",
    "json_object",
    "json_quote",
    "json_type",
    "json_valid",
    "length",
    "like",
    "likelihood",
    "likely",
    "lower",
    "ltrim",
    "max",
    "min",
    "nullif",
    "octet_length",
    "printf",
    "quote",
    "replace",
    "round",
    "rtrim",
    "sign",
    "substr",
    "substring",
    "sum",
    "total",
    "trim",
    "typeof",
    "unhex",
    "unicode",
    "unlikely",
    "upper",
];
/// Those of them that never fail, whatever they are given.
const FAILING_NEVER: &[&str] = &[
    "auth_json",
    "auth_userid",
    "coalesce",
    "count",
    "hex",
    "if",
    "ifnull",
    "iif",
    "instr",
    "length",
    "likely",
    "lower",
    "ltrim",
    "max",
    "min",
    "nullif",
    "rtrim",
    "sign",
    "substr",
    "substring",
    "trim",
    "typeof",
    "unicode",
    "unlikely",
    "upper",
];
/// Functions of FROM that read their arguments and nothing else.
const TABLE_FUNCTIONS: &[&str] = &["json_each", "json_tree"];

/// A compiled policy.
#[derive(Debug, Clone)]
pub struct Policy {
    table: String,
    verb: Verb,
    text: String,
    expression: String,
    own: BTreeSet<String>,
    reads: BTreeSet<(String, String)>,
    is_bare: bool,
    may_fail: bool,
    fault: Option<String>,
}

impl Policy {
    /// The table, as its schema writes it.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What it is a policy of.
    #[must_use]
    pub const fn verb(&self) -> Verb {
        self.verb
    }

    /// The expression as it was set.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The condition, in parentheses. Of a SELECT policy it can stand in `SELECT ... FROM main."t" WHERE`, where bare
    /// columns are the row's. `auth_userid()` and `auth_json()` must be [assumed](super::Identity::assume).
    #[must_use]
    pub fn condition(&self) -> &str {
        &self.expression
    }

    /// The columns of the row itself on which it depends.
    #[must_use]
    pub const fn own_columns(&self) -> &BTreeSet<String> {
        &self.own
    }

    /// The tables and columns that it reads beside the row, in subqueries; the table itself may be among them. The column
    /// is empty where only the existence of rows counts.
    #[must_use]
    pub const fn reads(&self) -> &BTreeSet<(String, String)> {
        &self.reads
    }

    /// True for an UPDATE policy that names columns without OLD or NEW, and must be true for both rows.
    #[must_use]
    pub const fn is_bare(&self) -> bool {
        self.is_bare
    }

    /// True when there may be values on which it fails, malformed JSON say. Then it denies.
    #[must_use]
    pub const fn may_fail(&self) -> bool {
        self.may_fail
    }

    /// Why it cannot be evaluated; then it denies.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

/// Compiles an expression. What is wrong with it is in the policy's fault.
pub(super) fn compile(
    connection: &mut Connection,
    table: &str,
    verb: Verb,
    text: &str,
) -> Result<Policy, PolicyError> {
    let mut policy = Policy {
        table: table.to_owned(),
        verb,
        text: text.to_owned(),
        expression: String::new(),
        own: BTreeSet::new(),
        reads: BTreeSet::new(),
        is_bare: false,
        may_fail: false,
        fault: None,
    };
    match fill(connection, &mut policy) {
        Ok(()) => {}
        Err(Fault::Wrong(why)) => policy.fault = Some(why),
        Err(Fault::Failed(error)) => return Err(error),
    }
    Ok(policy)
}

enum Fault {
    /// The expression is the owner's to mend.
    Wrong(String),
    Failed(PolicyError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn wrong<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Wrong(why.into()))
}

fn fill(connection: &mut Connection, policy: &mut Policy) -> Result<(), Fault> {
    let bytes = policy.text.len();
    if bytes > POLICY_BYTES_MAX {
        return wrong(format!("it has {bytes} bytes, more than {POLICY_BYTES_MAX}"));
    }
    let cleaned = words::clean(&policy.text).map_err(Fault::Wrong)?;
    if words::names(&cleaned, twin::SCHEMA) {
        return wrong(format!("it names {}", twin::SCHEMA));
    }
    match twin::ensure(connection, &policy.table) {
        Ok(Some(name)) => policy.table = name,
        Ok(None) => return wrong(format!("the database has no table \"{}\"", policy.table)),
        // The definition needs something that this program does not have, a function say.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) => {
            return wrong(format!("the table cannot be evaluated here: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    policy.expression = match policy.verb {
        Verb::Select => select_condition(connection, &policy.table, &cleaned)?,
        Verb::Insert | Verb::Update | Verb::Delete => format!("({cleaned})"),
    };
    let found = inspect(connection, &twin_query(policy, true))?;
    (policy.own, policy.reads, policy.may_fail) = (found.own, found.reads, found.may_fail);
    policy.is_bare =
        policy.verb == Verb::Update && prepare_strictly(connection, &twin_query(policy, false)).is_err();
    let is_joined = joins_by_name(connection, &cleaned)?;
    if is_joined {
        read_opened(connection, policy)?;
    }
    check_reads(connection, policy)?;
    if is_joined {
        read_whole_rows(connection, &mut policy.reads)?;
    }
    Ok(())
}

/// Whether tables may be joined by columns that USING or NATURAL names: SQLite compares those without telling its
/// authorizer, nor of their tables if nothing else is read. A view may do that, too.
fn joins_by_name(connection: &Connection, cleaned: &str) -> rusqlite::Result<bool> {
    let is_joined = |text: &str| ["USING", "NATURAL"].iter().any(|word| words::names(text, word));
    // language=SQLite
    let sql = "SELECT sql FROM main.sqlite_schema WHERE type = 'view' AND sql IS NOT NULL";
    let mut views = connection.prepare_cached(sql)?;
    let views = views.query_map([], |row| row.get::<_, String>(0))?;
    let views = views.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(is_joined(cleaned) || views.iter().any(|view| is_joined(view)))
}

/// Adds the tables that the query opens.
fn read_opened(connection: &Connection, policy: &mut Policy) -> Result<(), Fault> {
    let mut explain = connection.prepare(&format!("EXPLAIN {}", twin_query(policy, true)))?;
    let steps = explain.query_map([], |step| {
        Ok((step.get::<_, String>("opcode")?, step.get::<_, i64>("p2")?, step.get::<_, i64>("p3")?))
    })?;
    // language=SQLite
    let sql = "SELECT tbl_name FROM main.sqlite_schema WHERE rootpage = ?1";
    let mut owner = connection.prepare_cached(sql)?;
    for step in steps {
        let (opcode, root, database) = step?;
        // The main database is the first one; indexes are opened in the place of their tables.
        if !["OpenRead", "ReopenIdx"].contains(&&*opcode) || database != 0 {
            continue;
        }
        let Some(table) = owner.query_row([root], |row| row.get::<_, String>(0)).optional()? else {
            return wrong("it reads the schema, which is not a table of the app");
        };
        policy.reads.insert((checked_name(&table).map_err(Fault::Wrong)?, String::new()));
    }
    Ok(())
}

/// Makes all columns of the tables that are read count as read.
fn read_whole_rows(connection: &Connection, reads: &mut BTreeSet<(String, String)>) -> rusqlite::Result<()> {
    let tables: BTreeSet<_> = reads.iter().map(|(table, _)| table.clone()).collect();
    // language=SQLite
    let sql = "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden <> 1";
    let mut select = connection.prepare_cached(sql)?;
    for table in tables {
        let columns = select.query_map([&table], |row| row.get::<_, String>(0))?;
        for column in columns {
            reads.insert((table.clone(), column?));
        }
    }
    Ok(())
}

/// The condition of a SELECT policy over the bare row. Where it names the row as OLD or NEW, that is the row, too; the
/// columns of a subquery in FROM keep affinity and collation.
fn select_condition(connection: &Connection, table: &str, cleaned: &str) -> Result<String, Fault> {
    let mut condition = format!("({cleaned})");
    for alias in ["NEW", "OLD"] {
        if words::qualifies_by(cleaned, alias) && !table.eq_ignore_ascii_case(alias) {
            // language=SQLite
            let sql = "SELECT name FROM pragma_table_xinfo(?1, 'main')";
            let mut names = connection.prepare_cached(sql)?;
            let names = names.query_map([table], |row| row.get::<_, String>(0))?;
            let table = quote_identifier(table);
            let columns: Result<Vec<_>, _> = names
                .map(|name| name.map(|name| quote_identifier(&name)))
                .map(|name| name.map(|name| format!("{table}.{name} AS {name}")))
                .collect();
            let columns = columns?.join(", ");
            condition = format!("EXISTS(SELECT 1 FROM (SELECT {columns}) AS {alias} WHERE {condition})");
        }
    }
    Ok(condition)
}

/// A query on the twin that gives what the policy says; `bare` brings the row that bare columns mean.
fn twin_query(policy: &Policy, bare: bool) -> String {
    let table = quote_identifier(&policy.table);
    let twin = format!("{}.{table}", twin::SCHEMA);
    let condition = &policy.expression;
    let inner = if bare {
        format!("EXISTS(SELECT 1 FROM {twin} AS {} WHERE {condition})", inner_name(&policy.table))
    } else {
        format!("EXISTS(SELECT 1 WHERE {condition})")
    };
    match policy.verb {
        Verb::Select => format!("SELECT 1 FROM {twin} WHERE {condition}"),
        Verb::Insert => format!("SELECT {inner} FROM {twin} AS NEW"),
        Verb::Delete => format!("SELECT {inner} FROM {twin} AS OLD"),
        Verb::Update => format!("SELECT {inner} FROM {twin} AS OLD, {twin} AS NEW"),
    }
}

/// The name of the row that bare columns mean: the table's own, unless that would hide one of the two rows.
pub(super) fn inner_name(table: &str) -> String {
    let hides = ["NEW", "OLD"].iter().any(|name| table.eq_ignore_ascii_case(name));
    if hides { "cloudsync_row".to_owned() } else { quote_identifier(table) }
}

/// What SQLite's authorizer told of a statement.
#[derive(Debug, Default)]
struct Found {
    own: BTreeSet<String>,
    reads: BTreeSet<(String, String)>,
    may_fail: bool,
    refused: Option<String>,
}

impl Found {
    fn see(&mut self, context: &AuthContext<'_>) -> Authorization {
        let why = match context.action {
            AuthAction::Select | AuthAction::Recursive => return Authorization::Allow,
            AuthAction::Read { table_name, column_name } => match self.read(context, table_name, column_name)
            {
                Ok(()) => return Authorization::Allow,
                Err(why) => why,
            },
            AuthAction::Function { function_name } => {
                let is_in =
                    |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(function_name));
                self.may_fail |= !is_in(FAILING_NEVER);
                if is_in(FUNCTIONS) {
                    return Authorization::Allow;
                }
                format!(
                    "it calls {function_name}(), which may give different answers for the same row; docs/policies.md lists the functions that it may call"
                )
            }
            action => format!("it does more than read: {action:?}"),
        };
        self.refused.get_or_insert(why);
        Authorization::Deny
    }

    fn read(&mut self, context: &AuthContext<'_>, table: &str, column: &str) -> Result<(), String> {
        match context.database_name {
            Some(twin::SCHEMA) => {
                if !column.is_empty() {
                    self.own.insert(column.to_owned());
                }
                return Ok(());
            }
            Some("main") | None => {}
            Some(_) => return Err(format!("it reads \"{table}\", which is not in this database")),
        }
        self.may_fail |= TABLE_FUNCTIONS.iter().any(|known| known.eq_ignore_ascii_case(table));
        self.reads.insert((checked_name(table)?, column.to_owned()));
        Ok(())
    }
}

/// The name of a table that is the app's.
fn checked_name(table: &str) -> Result<String, String> {
    let lower = table.to_ascii_lowercase();
    if lower.starts_with("cloudsync_") || lower.starts_with("sqlite_") {
        return Err(format!("it reads \"{table}\", which is not a table of the app"));
    }
    Ok(table.to_owned())
}

/// Prepares a query under the authorizer.
fn inspect(connection: &mut Connection, sql: &str) -> Result<Found, Fault> {
    let found = Arc::new(Mutex::new(Found::default()));
    let seen = Arc::clone(&found);
    connection.authorizer(Some(move |context: AuthContext<'_>| lock(&seen).see(&context)))?;
    let prepared = prepare_strictly(connection, sql);
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    let found = std::mem::take(&mut *lock(&found));
    match (found.refused.clone(), prepared) {
        (Some(why), _) => wrong(why),
        (None, Err(error)) => wrong(message(&error)),
        (None, Ok(())) => Ok(found),
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepares a query in which a name in double quotes that is no column is an error, and not a text.
fn prepare_strictly(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    let before = connection.db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    let prepared = connection
        .prepare(sql)
        .and_then(|statement| if statement.readonly() { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) });
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, before)?;
    prepared
}

/// What SQLite says of an expression, without the statement around it.
fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        error => error.to_string(),
    }
}

/// Checks that everything that is read can be watched, and leaves in `reads` only tables.
fn check_reads(connection: &Connection, policy: &mut Policy) -> Result<(), Fault> {
    let tables: BTreeSet<_> = policy.reads.iter().map(|(table, _)| table.clone()).collect();
    for table in tables {
        match kind(connection, &table)? {
            Kind::Table => {
                for (_, column) in policy.reads.iter().filter(|(read, _)| *read == table) {
                    check_column(connection, &table, column)?;
                }
            }
            // SQLite has told of the tables behind it as well.
            Kind::View => policy.reads.retain(|(read, _)| *read != table),
            Kind::Other if TABLE_FUNCTIONS.iter().any(|known| known.eq_ignore_ascii_case(&table)) => {
                policy.reads.retain(|(read, _)| *read != table);
            }
            Kind::Other => {
                return wrong(format!("it reads \"{table}\", whose changes cannot be watched"));
            }
        }
    }
    let table = policy.table.clone();
    policy.own.iter().try_for_each(|column| check_column(connection, &table, column))
}

/// SQLite's own numbers of rows are not the same everywhere.
fn check_column(connection: &Connection, table: &str, column: &str) -> Result<(), Fault> {
    // language=SQLite
    let sql = "SELECT 1 FROM pragma_table_xinfo(?1, 'main') WHERE name = ?2 COLLATE NOCASE";
    let exists = connection.prepare_cached(sql)?.query_row([table, column], |_| Ok(())).optional()?.is_some();
    if exists || column.is_empty() {
        return Ok(());
    }
    wrong(format!("it reads {column} of \"{table}\", which is no column of it"))
}

enum Kind {
    Table,
    View,
    Other,
}

fn kind(connection: &Connection, name: &str) -> rusqlite::Result<Kind> {
    // language=SQLite
    let sql = "SELECT CASE WHEN sql LIKE 'CREATE VIRTUAL%' THEN '' ELSE type END FROM main.sqlite_master \
               WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE";
    let found: Option<String> =
        connection.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?;
    Ok(match found.as_deref() {
        Some("table") => Kind::Table,
        Some("view") => Kind::View,
        _ => Kind::Other,
    })
}
