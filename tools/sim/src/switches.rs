//! The server's owner takes a name away for a while: a table is switched off there, and on again. Meanwhile devices that hold it
//! are refused with its name, lose nothing, and go on by themselves afterwards. And in the end, where all have come to the last
//! name of a table, the old one is dropped there.

use crate::random::Dice;
use crate::renames;
use crate::workload::{self, TABLES};
use crate::world::{BOTH, Outcome, World};
use anyhow::{Context, Result, bail, ensure};
use cloudsync_protocol::message::Answer;
use cloudsync_server::store::sqlite::{disable_table, enable_table, list_tables};

/// The stream of switches, so that worlds without them keep all of their draws.
const STREAM: u64 = 0x6e61_6d65_7367_6f21;
/// Worlds in which tables are switched off, of a thousand.
const OFTEN: u64 = 250;
/// Steps of the server in which one is switched off, of a thousand, and of those after it in which it comes back.
const OFF: u64 = 150;
const ON: u64 = 300;

/// Whether tables are switched off in the world of a seed.
pub(crate) fn are_drawn(seed: u64) -> bool {
    Dice::new(seed ^ STREAM).chance(OFTEN)
}

/// True for what a device is told of a table that is switched off.
pub(crate) fn is_refusal(text: &str) -> bool {
    text.contains("is switched off on the server")
}

impl World {
    /// The table that is switched off: a copy of the server's file may bring it back so.
    pub(crate) fn switched_off(&self) -> Result<Option<String>> {
        if !self.plan.switches {
            return Ok(None);
        }
        let mut select =
            self.server.eye()?.prepare_cached("SELECT name FROM cloudsync_tables WHERE NOT enabled")?;
        Ok(select.query_map([], |row| row.get(0))?.next().transpose()?)
    }

    /// Switches a table off, or the one on again that is off.
    pub(crate) fn switch_tables(&mut self) -> Result<()> {
        if !self.plan.switches || !self.server.has_tables()? {
            return Ok(());
        }
        let mut dice = Dice::new(self.case.seed ^ STREAM ^ self.ticks.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match self.switched_off()? {
            Some(table) if dice.chance(ON) => self.switch_on(&table),
            None if dice.chance(OFF) => {
                let table = dice.pick(TABLES).name;
                self.stats.fault("table switched off");
                let outcome = self.server.administer(|file| Ok(disable_table(file, table)?))?;
                self.note(|| format!("{table} is switched off: {outcome:?}"));
                if matches!(outcome, Outcome::Died) { self.server_recovers() } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// The last version of the app is everywhere, so the owner drops the old name of the table that changes its names. What went
    /// with it makes the server begin an epoch, and all bring what they hold.
    pub(crate) fn drop_old_name(&mut self) -> Result<()> {
        let old = renames::NAMES[0];
        let is_there = |tables: Vec<&str>| renames::NAMES.iter().all(|name| tables.contains(name));
        if !self.plan.switches || !is_there(renames::tables(self.server.eye()?)?) {
            return Ok(());
        }
        // Each has offered what it had under the old name.
        self.sweep_until_rest()?;
        let outcome =
            self.server.write(|db| Ok(db.execute_batch(&format!("DROP TABLE {old}")).map(|()| true)?))?;
        ensure!(matches!(outcome, Outcome::Done(true)), "dropping {old} on the server: {outcome:?}");
        let outcome = self.server.administer(|file| Ok(list_tables(file)?))?;
        self.note(|| format!("{old} is dropped on the server, which has {outcome:?}"));
        self.stats.fault("name taken away");
        self.server.acknowledge_anew()
    }

    fn switch_on(&mut self, table: &str) -> Result<()> {
        let known = workload::tables().find(|known| known.name == table).context("a table of another app")?;
        let outcome = self.server.administer(|file| Ok(enable_table(file, table, known.algorithm)?))?;
        self.note(|| format!("{table} is switched on: {outcome:?}"));
        if matches!(outcome, Outcome::Died) { self.server_recovers() } else { Ok(()) }
    }

    /// Whether an answer tells the truth of a table that is switched off, and takes nothing while one is.
    pub(crate) fn check_switches(&mut self, answer: &[u8]) -> Result<()> {
        let off = self.switched_off()?;
        match (Answer::decode(answer)?, off) {
            (Answer::Refusal(refusal), off) if is_refusal(&refusal.text) => {
                let is_true =
                    off.as_ref().is_some_and(|table| refusal.text.contains(&format!("\"{table}\"")));
                ensure!(is_true, "{off:?} is switched off, and a device is told: {}", refusal.text);
                self.stats.fault("refused for a table");
                Ok(())
            }
            (Answer::Turn(turn), Some(table)) if !turn.payload.is_empty() || turn.accepted.is_some() => {
                let is_repeated = turn.accepted.as_ref().is_some_and(|accepted| accepted.repeated);
                ensure!(is_repeated, "a turn is taken though {table} is switched off");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Faults are over. Who holds a table that is switched off is told so and loses nothing; then it is switched on.
    pub(crate) fn switch_all_on(&mut self) -> Result<()> {
        let Some(table) = self.switched_off()? else { return Ok(()) };
        for at in 0..self.devices.len() {
            // The first sync may hear no more than that an earlier round had arrived.
            self.try_sync(at, BOTH)?;
            let before = self.devices[at].processes[0].state()?;
            let is_through = self.try_sync(at, BOTH)?.is_some();
            let process = &mut self.devices[at].processes[0];
            // With a token that is over it hears no more than that.
            let is_told = is_refusal(&process.refused) || process.was_not_let_in();
            ensure!(!is_through && is_told, "{table} is off, and a device hears: {}", process.refused);
            ensure!(process.state()? == before, "a refusal for a table changes what a device has");
        }
        self.switch_on(&table)?;
        match self.switched_off()? {
            None => Ok(()),
            Some(table) => bail!("{table} is still switched off"),
        }
    }
}
