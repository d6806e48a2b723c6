//! The triggers of a filtered table.
//!
//! The values of NEW and OLD have neither the affinity nor always the collation of their columns, so an expression
//! over them could give something else than over the row. It is therefore evaluated on the row itself: before an
//! UPDATE, DELETE or REPLACE as it was, and after an INSERT or UPDATE as it is. What each write notes:
//!
//! | write | before | after |
//! | --- | --- | --- |
//! | in to in | | mask, or rekey |
//! | out to in | local | mask, or rekey |
//! | in to out | | leave |
//! | out to out | local | leave |
//! | insert | look, if it may replace a row inside | insert, or local if it is outside |
//! | delete of a row inside | look | |
//!
//! So the first note of a row says where it stood, and the fold sees where it stands.

use crate::capture::{
    NOTE_INSERT, NOTE_LEAVE, NOTE_LEAVE_REKEY, NOTE_LOCAL, NOTE_LOOK, NOTE_REKEY, NOW, key_list, key_stays,
    log_columns, mask, old_key_columns, old_key_list, trigger_name, victim_notes,
};
use crate::error::Result;
use crate::filter::RowFilter;
use crate::storage::quote_identifier;
use crate::table::{Column, Definition, Table};
use cloudsync_sqlite_ffi::{Connection, Value};

/// The CREATE statements of the triggers; `owner` is the table's name when they were made.
pub(crate) fn filtered_triggers(
    definition: &Definition,
    owner: &str,
    layout: i64,
    cells: &[&Column],
    filter: &RowFilter,
) -> Vec<String> {
    let inside = filter.condition();
    let table = quote_identifier(&definition.name);
    let columns = log_columns(definition);
    let create = |kind: &str, when: &str, body: &str| {
        let name = quote_identifier(&trigger_name(kind, owner));
        format!("CREATE TRIGGER main.{name} {when} ON {table} BEGIN {body} END")
    };
    let is_row = |prefix: &str| {
        let key = Table::key_columns(definition);
        let terms = key.iter().map(|column| {
            let name = quote_identifier(column.name());
            format!("{name} = {prefix}{name}")
        });
        terms.collect::<Vec<_>>().join(" AND ")
    };
    let is_outside = format!("CASE WHEN {inside} THEN 0 ELSE 1 END");
    // Notes the row under a key of OLD or NEW as it is stored, if the condition holds for it.
    let note_stored = |what: i64, prefix: &str, condition: &str| {
        format!(
            "INSERT INTO cloudsync_log(at, layout, what, {columns}) SELECT {NOW}, {layout}, {what}, {} FROM {table} \
             WHERE {} AND {condition};",
            key_list(definition, ""),
            is_row(prefix),
        )
    };
    let now_inside = format!("EXISTS(SELECT 1 FROM {table} WHERE {} AND {inside})", is_row("NEW."));
    let new = key_list(definition, "NEW.");
    let insert = format!(
        "INSERT INTO cloudsync_log(at, layout, what, {columns}) VALUES({NOW}, {layout}, \
         CASE WHEN {now_inside} THEN {NOTE_INSERT} ELSE {NOTE_LOCAL} END, {new});"
    );
    let stays = key_stays(definition);
    let update = format!(
        "INSERT INTO cloudsync_log(at, layout, what, {columns}, {old_columns}) VALUES({NOW}, {layout}, \
         CASE WHEN {now_inside} THEN CASE WHEN {stays} THEN {mask} ELSE {NOTE_REKEY} END \
         WHEN {stays} THEN {NOTE_LEAVE} ELSE {NOTE_LEAVE_REKEY} END, {new}, {old});",
        old_columns = old_key_columns(definition),
        mask = mask(cells),
        old = old_key_list(definition),
    );
    let (victims, _) = victim_notes(definition, layout, &format!(" AND {inside}"), &|_, _| String::new());
    let look_at_target = note_stored(NOTE_LOOK, "NEW.", &inside);
    let before_update = format!(
        "{} {} {victims}",
        note_stored(NOTE_LOCAL, "OLD.", &is_outside),
        note_stored(NOTE_LOOK, "NEW.", &format!("NOT ({stays}) AND {inside}")),
    );
    vec![
        create("insert", "AFTER INSERT", &insert),
        create("update", "AFTER UPDATE", &update),
        create("delete", "BEFORE DELETE", &note_stored(NOTE_LOOK, "OLD.", &inside)),
        create("before_insert", "BEFORE INSERT", &format!("{look_at_target} {victims}")),
        create("before_update", "BEFORE UPDATE", &before_update),
    ]
}

/// The expression as the triggers of a table have it; `None` where they are not those of a filtered table.
pub(super) fn stored_expression(
    db: &Connection,
    definition: &Definition,
    owner: &str,
    layout: i64,
    cells: &[&Column],
) -> Result<Option<String>> {
    /// No expression holds it.
    const PLACE: &str = "\u{1}";
    let filter = RowFilter::unchecked(PLACE);
    let triggers = filtered_triggers(definition, owner, layout, cells, &filter);
    let Some(delete) = triggers.iter().find(|sql| sql.contains("BEFORE DELETE")) else { return Ok(None) };
    let delete = delete.replacen("CREATE TRIGGER main.", "CREATE TRIGGER ", 1);
    let Some((before, after)) = delete.split_once(PLACE) else { return Ok(None) };
    let sql = "SELECT sql FROM main.sqlite_master WHERE type = 'trigger' AND name = ?1";
    let stored = db.query_text(sql, &[Value::from(trigger_name("delete", owner).as_str())])?;
    let expression = stored.as_deref().and_then(|sql| sql.strip_prefix(before)?.strip_suffix(after));
    Ok(expression.map(str::to_owned))
}
