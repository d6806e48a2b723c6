//! What an owner should know of a policy that was set: none of it is wrong, all of it surprises.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::{Policies, Policy, Verb};

/// Advice for policies of a table that were set, given those that hold and the tables that sync.
///
/// # Errors
/// When SQLite fails.
pub fn advise(
    connection: &Connection,
    policies: &Policies,
    synced: &BTreeSet<String>,
    set: &[&Policy],
) -> rusqlite::Result<Vec<String>> {
    let mut advice = Vec::new();
    let syncs = |table: &str| synced.iter().any(|name| name.eq_ignore_ascii_case(table));
    for policy in set {
        let table = policy.table();
        if !syncs(table) {
            advice.push(format!("\"{table}\" does not sync: its policies count once it does"));
        }
        let read: BTreeSet<_> = policy.reads().iter().map(|(read, _)| read.as_str()).collect();
        for read in read.into_iter().filter(|read| !syncs(read)) {
            advice.push(format!(
                "the {} policy of \"{table}\" reads \"{read}\", which does not sync: what is written there changes what users may from the server's next look on",
                policy.verb().name()
            ));
        }
        if policy.verb() == Verb::Select && !is_for_all(policy) {
            of_keys(connection, policy, &mut advice)?;
            of_uniques(connection, policy, &mut advice)?;
        }
        if policy.verb() == Verb::Select {
            of_families(connection, policies, policy, &syncs, &mut advice)?;
        }
    }
    advice.sort();
    advice.dedup();
    Ok(advice)
}

/// A policy that does not depend on the row.
fn is_for_all(policy: &Policy) -> bool {
    policy.own_columns().is_empty()
}

/// Keys that two users choose alike collide, though neither sees the other's row.
fn of_keys(connection: &Connection, policy: &Policy, advice: &mut Vec<String>) -> rusqlite::Result<()> {
    // language=SQLite
    let sql = "SELECT name, type FROM pragma_table_info(?1, 'main') WHERE pk > 0";
    let mut select = connection.prepare(sql)?;
    let key = select.query_map([policy.table()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let key: Vec<(String, String)> = key.collect::<Result<_, _>>()?;
    if let [(name, kind)] = &key[..]
        && kind.to_ascii_uppercase().contains("INT")
    {
        advice.push(format!(
            "the key \"{name}\" of \"{}\" is a number: users who do not see each other's rows choose the same ones, and are refused; keys of cloudsync_uuid() do not collide",
            policy.table()
        ));
    }
    Ok(())
}

/// UNIQUE constraints that no column carries on which visibility depends.
fn of_uniques(connection: &Connection, policy: &Policy, advice: &mut Vec<String>) -> rusqlite::Result<()> {
    // language=SQLite
    let sql = "SELECT i.name, group_concat(c.name, ', ') FROM pragma_index_list(?1, 'main') AS i, pragma_index_info(i.name, 'main') AS c \
               WHERE i.\"unique\" AND i.origin <> 'pk' GROUP BY i.name";
    let mut select = connection.prepare(sql)?;
    let indexes = select.query_map([policy.table()], |row| row.get::<_, Option<String>>(1))?;
    for columns in indexes {
        let columns = columns?.unwrap_or_default();
        let is_carried =
            |column: &str| policy.own_columns().iter().any(|own| own.eq_ignore_ascii_case(column));
        if !columns.split(", ").any(is_carried) {
            advice.push(format!(
                "UNIQUE({columns}) of \"{}\" counts rows that a user does not see: that an insertion is refused tells that such a row exists; add a column on which the SELECT policy depends, the tenant say",
                policy.table()
            ));
        }
    }
    Ok(())
}

/// Foreign keys between tables of which users see different rows.
fn of_families(
    connection: &Connection,
    policies: &Policies,
    policy: &Policy,
    syncs: &dyn Fn(&str) -> bool,
    advice: &mut Vec<String>,
) -> rusqlite::Result<()> {
    // language=SQLite
    let sql = "SELECT m.name, f.\"table\", f.\"from\" FROM main.sqlite_master AS m, pragma_foreign_key_list(m.name, 'main') AS f \
               WHERE m.type = 'table' AND (m.name = ?1 COLLATE NOCASE OR f.\"table\" = ?1 COLLATE NOCASE)";
    let mut select = connection.prepare(sql)?;
    let keys = select.query_map([policy.table()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for key in keys {
        let (child, parent, column): (String, String, String) = key?;
        let parents = policies.select_of(&parent);
        if child.eq_ignore_ascii_case(&parent) && is_for_all(policy)
            || !syncs(&child)
            || !syncs(&parent)
            || policies.select_of(&child).is_none()
            || parents.is_some_and(is_for_all)
        {
            continue;
        }
        advice.push(format!(
            "\"{child}\".\"{column}\" refers to \"{parent}\": a user may see a row and not the one that it refers to, and then has it without; let the policy of \"{child}\" look at \"{parent}\", too, where that must not be"
        ));
    }
    Ok(())
}
