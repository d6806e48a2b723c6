//! What an owner should know of policies that were set: none of it is wrong, all of it surprises.
//!
//! What concerns a table, its key and its constraints is found by the same rules as when the table is looked at alone.

use std::collections::BTreeSet;

use super::constraints::{depends_on_rows, hidden_parents, uniques};
use super::{Finding, Scene, Severity, integer_key};
use crate::policy::{Policy, Verb};

/// What is found of policies that were set, the worst first.
///
/// # Errors
/// When SQLite cannot read the schema.
pub fn of_policies(scene: Scene<'_>, set: &[&Policy]) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for policy in set {
        findings.extend(of_tables(scene, policy));
        if policy.verb() != Verb::Select {
            continue;
        }
        let table = policy.table();
        if depends_on_rows(policy) {
            findings.extend(integer_key(scene, table)?);
            let uniques = uniques(scene, table)?.into_iter();
            findings.extend(uniques.filter(|finding| finding.code == "unique_without_tenant"));
        }
        // As a child, and as the parent of others.
        for child in related(scene, table)? {
            findings.extend(hidden_parents(scene, &child)?.into_iter().filter_map(|(parent, finding)| {
                let concerns = [&parent, &child].iter().any(|name| name.eq_ignore_ascii_case(table));
                concerns.then_some(finding)
            }));
        }
    }
    findings.sort_by(|a, b| (a.severity, &a.subject, a.code).cmp(&(b.severity, &b.subject, b.code)));
    findings.dedup();
    Ok(findings)
}

/// Tables that do not sync.
fn of_tables(scene: Scene<'_>, policy: &Policy) -> Vec<Finding> {
    let table = policy.table();
    let mut findings = Vec::new();
    if !scene.syncs(table) {
        findings.push(Finding::new(
            Severity::Advice,
            "policy_waits",
            table,
            "it does not sync",
            "its policies count once it does: `cloudsync table enable`",
        ));
    }
    let read: BTreeSet<_> = policy.reads().iter().map(|(read, _)| read.as_str()).collect();
    for read in read.into_iter().filter(|read| !scene.syncs(read)) {
        findings.push(Finding::new(
            Severity::Advice,
            "policy_reads_local",
            format!("{} of {table}", policy.verb().name()),
            format!("it reads {read}, which does not sync"),
            format!("what is written to {read} on the server changes what users may from its next look on"),
        ));
    }
    findings
}

/// A table, and those that refer to it.
fn related(scene: Scene<'_>, table: &str) -> rusqlite::Result<BTreeSet<String>> {
    // language=SQLite
    let sql = "SELECT m.name FROM main.sqlite_schema AS m, pragma_foreign_key_list(m.name, 'main') AS f \
               WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE";
    let mut select = scene.connection.prepare(sql)?;
    let children = select.query_map([table], |row| row.get(0))?;
    children.chain([Ok(table.to_owned())]).collect()
}
