//! Damage that no change tells of: rows written behind the triggers, and clocks that are lost, once everybody is at rest. Idle
//! syncs must find it, and their repairs must have an end.

use crate::device::Device;
use crate::disk;
use crate::oracle::{self, Written};
use crate::random::Dice;
use crate::workload::{self, TABLES};
use crate::world::World;
use anyhow::{Context, Result, bail};
use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, params};

/// Syncs in which a damaged device must become sound. Each checks a slice, which large rows make short.
pub(crate) const HEALING_SYNCS_MAX: usize = 60;

impl World {
    /// Damages some devices, and syncs each until it is sound again. Gives true if what was written there may be taken for
    /// edits, of which the others have not heard.
    pub(crate) fn damage_and_heal(&mut self, dice: &mut Dice) -> Result<bool> {
        let mut edited = false;
        for at in 0..self.devices.len() {
            if !dice.chance(400) {
                continue;
            }
            let process = &self.devices[at].processes[0];
            let (mut done, mut edits) = (Vec::new(), Written::new());
            for _ in 0..1 + dice.below(3) {
                done.extend(damage(&process.db, dice, &mut edits)?);
            }
            if !self.plan.checks {
                done.extend(fill_later(&process.db, dice, &mut edits)?);
            }
            let name = self.devices[at].name.clone();
            edited |= !edits.is_empty();
            self.sign(Some(at), &edits);
            self.model.wrote(&name, edits, false);
            self.note(|| format!("{name} is damaged: {}", done.join(", ")));
            self.stats.fault("damage");
            edited |= self.edit_elsewhere(at)?;
            self.heal(at).with_context(|| format!("device {name}, damaged: {}", done.join(", ")))?;
        }
        Ok(edited)
    }

    /// Sometimes another device writes before the damage is found, and changes of what is gone come. Gives true if it did.
    fn edit_elsewhere(&mut self, at: usize) -> Result<bool> {
        let mut later = self.later_dice();
        let other = later.below(self.devices.len() as u64) as usize;
        if self.plan.checks || other == at || self.devices[other].holder.is_some() {
            return Ok(false);
        }
        for _ in 0..8 {
            let device = &self.devices[other];
            let (name, mut written) = (device.name.clone(), Written::new());
            device.machine.enter();
            workload::write(&device.processes[0].db, &mut later, &name, &mut written)?;
            self.sign(Some(other), &written);
            self.model.wrote(&name, written, false);
        }
        self.sync(other)?;
        Ok(true)
    }

    fn heal(&mut self, at: usize) -> Result<()> {
        let mut found = None;
        for _ in 0..HEALING_SYNCS_MAX {
            found = match self.difference(at)? {
                None => self.renamed_difference(at)?,
                found => found,
            };
            if found.is_none() {
                return Ok(());
            }
            disk::set_now_ms(self.now() + 50);
            self.sync(at)?;
        }
        bail!("not repaired after {HEALING_SYNCS_MAX} syncs: {}", found.unwrap_or_default())
    }
}

/// What was repaired last on a device.
pub(crate) fn last_repair(device: &Device) -> Result<Option<String>> {
    let eye = device.eye();
    if !eye.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'cloudsync_repairs'")?.exists([])? {
        return Ok(None);
    }
    let sql =
        "SELECT tbl || ':' || lower(hex(pk)) || ' ' || what FROM cloudsync_repairs ORDER BY id DESC LIMIT 1";
    let last = eye.prepare(sql)?.query_map([], |row| row.get(0))?.next().transpose()?;
    Ok(last.map(|last: String| format!("{}: {last}", device.name)))
}

/// Writes into the column that came later, behind the triggers, where nobody ever wrote anything.
fn fill_later(db: &Connection, dice: &mut Dice, edits: &mut Written) -> Result<Option<String>> {
    let table = &TABLES[0];
    let sql = "SELECT id FROM notes WHERE later IS NULL LIMIT 1";
    if !table.has_later(db)? || !db.prepare(sql)?.exists([])? {
        return Ok(None);
    }
    let id: Value = db.query_row(sql, [], |row| row.get(0))?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let text = format!("later {}", dice.below(1 << 40));
    let changed = db.execute("UPDATE notes SET later = ?1 WHERE id = ?2", params![text, id]);
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    changed?;
    edits.push(oracle::look(db, table, &[id])?);
    Ok(Some("filled of notes".to_owned()))
}

/// Changes or removes a row or its clock, behind the triggers. Says what was done. What is written into a column that came
/// later may be taken for an edit: a row that is older has no clock there, and nobody has another value for it.
fn damage(db: &Connection, dice: &mut Dice, edits: &mut Written) -> Result<Option<String>> {
    let table = dice.pick(TABLES);
    let columns = table.settable(db)?;
    let any = format!("SELECT rowid FROM {} LIMIT 1 OFFSET {}", table.name, dice.below(8));
    let is_rowid = db.prepare(&any).is_ok();
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let (what, changed) = match dice.below(4) {
        0 if !columns.is_empty() && is_rowid => {
            let column: &str = dice.pick::<&str>(&columns);
            let sql = format!("UPDATE OR IGNORE {} SET {column} = ?1 WHERE rowid IN ({any})", table.name);
            let changed = db.execute(&sql, [workload::value_of(dice, column)])?;
            if table.later == Some(column) && changed > 0 {
                let key = table.key.join(", ");
                let sql = format!("SELECT {key} FROM {} WHERE rowid IN ({any})", table.name);
                let key = db.query_row(&sql, [], |row| {
                    (0..table.key.len()).map(|i| row.get(i)).collect::<rusqlite::Result<Vec<_>>>()
                })?;
                edits.push(oracle::look(db, table, &key)?);
            }
            ("changed", changed)
        }
        1 if is_rowid => {
            ("removed", db.execute(&format!("DELETE FROM {} WHERE rowid IN ({any})", table.name), [])?)
        }
        2 => ("emptied", db.execute(&format!("DELETE FROM {}", table.name), [])?),
        _ => {
            let sql = "DELETE FROM cloudsync_clocks WHERE pk IN (SELECT pk FROM cloudsync_clocks LIMIT 1 OFFSET ?1)";
            ("a clock", db.execute(sql, [dice.between(0, 40)])?)
        }
    };
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    Ok((changed > 0).then(|| format!("{what} of {}", table.name)))
}
