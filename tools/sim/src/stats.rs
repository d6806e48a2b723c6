//! What a run did, for the figures that are published.

use crate::pace::{self, MS_PER_HOUR};
use std::collections::BTreeMap;
use std::fmt;

/// Counts of one run, or of many.
#[derive(Debug, Default, Clone)]
pub(crate) struct Stats {
    pub(crate) events: u64,
    /// Calls of sessions.
    pub(crate) steps: u64,
    /// Syncs that devices began.
    pub(crate) rounds: u64,
    /// Answers to users that were read for what they must not tell.
    pub(crate) answers_to_users: u64,
    /// Rows that apps wrote.
    pub(crate) rows: u64,
    /// Without long sleeps.
    pub(crate) simulated_ms: u64,
    pub(crate) slept_ms: u64,
    pub(crate) device_ms: u64,
    /// Sweeps of syncs until everybody was at rest, at most.
    pub(crate) sweeps_max: usize,
    pub(crate) faults: BTreeMap<String, u64>,
}

impl Stats {
    /// Counts a fault.
    pub(crate) fn fault(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// Takes over faults that were counted elsewhere.
    pub(crate) fn take_faults(&mut self, counts: &BTreeMap<&'static str, u64>) {
        for (kind, count) in counts {
            *self.faults.entry((*kind).to_owned()).or_default() += count;
        }
    }

    /// Adds another run.
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.steps += other.steps;
        self.rounds += other.rounds;
        self.rows += other.rows;
        self.answers_to_users += other.answers_to_users;
        self.simulated_ms += other.simulated_ms;
        self.device_ms += other.device_ms;
        self.sweeps_max = self.sweeps_max.max(other.sweeps_max);
        for (kind, count) in &other.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
    }

    /// The counts as the line of JSON that `cargo xtask` keeps for the page of figures; `more` are others of this run.
    pub(crate) fn totals(&self, more: &[(&str, u64)]) -> String {
        let own = [
            ("simulated_ms", self.simulated_ms),
            ("device_ms", self.device_ms),
            ("core_ms", (processor_minutes() * 60_000.0) as u64),
            ("rounds", self.rounds),
            ("rows", self.rows),
            ("events", self.events),
            ("steps", self.steps),
            ("answers to users", self.answers_to_users),
            ("sweeps", self.sweeps_max as u64),
        ];
        let counts = own.iter().chain(more).map(|(name, count)| format!("\"{name}\":{count}"));
        let faults = self.faults.iter().map(|(kind, count)| format!("\"fault: {kind}\":{count}"));
        format!("totals {{{}}}", counts.chain(faults).collect::<Vec<_>>().join(","))
    }

    /// What a world must be to count as busy: how many devices there are at once, rows and syncs of each in an hour, and steps
    /// of a hundred in which something goes wrong.
    fn bustle(&self) -> [(&'static str, f64, f64); 4] {
        let per = |count: f64, of: f64| if of > 0.0 { count / of } else { 0.0 };
        let device_hours = self.device_ms as f64 / MS_PER_HOUR as f64;
        let faults: u64 = self.faults.values().sum();
        [
            ("devices at once", per(device_hours, self.hours()), 5.0),
            ("rows of a device in an hour", per(self.rows as f64, device_hours), pace::ROWS as f64),
            ("syncs of a device in an hour", per(self.rounds as f64, device_hours), pace::SYNCS as f64),
            ("% of the steps faulty", 100.0 * per(faults as f64, self.events as f64), 1.0),
        ]
    }

    /// Says in what the world was not busy.
    pub(crate) fn idleness(&self) -> Option<String> {
        let too_little = self.bustle().into_iter().find(|(_, found, wanted)| found < wanted);
        too_little.map(|(what, found, wanted)| format!("not busy: {found:.1} {what}, and not {wanted}"))
    }

    fn hours(&self) -> f64 {
        self.simulated_ms as f64 / MS_PER_HOUR as f64
    }
}

/// Processor time that this process has used, in minutes; 0 where the system does not tell.
fn processor_minutes() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may contain anything: user and system time in ticks, of which Linux has 100 a second.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0 / 60.0
}

impl fmt::Display for Stats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes) = (self.hours(), processor_minutes());
        let rate = |count: f64| if minutes > 0.0 { count / minutes } else { 0.0 };
        writeln!(
            out,
            "{hours:.1} simulated hours, {:.1} device-hours, {} rounds, {} rows, {} steps; at rest after {} sweeps at most",
            self.device_ms as f64 / MS_PER_HOUR as f64,
            self.rounds,
            self.rows,
            self.events,
            self.sweeps_max
        )?;
        writeln!(
            out,
            "per minute of one core: {:.1} simulated hours, {:.0} steps, {:.0} rounds, {:.0} rows",
            rate(hours),
            rate(self.events as f64),
            rate(self.rounds as f64),
            rate(self.rows as f64)
        )?;
        let bustle = self.bustle().map(|(what, found, _)| format!("{found:.1} {what}"));
        writeln!(out, "{}; {} answers to users were read", bustle.join(", "), self.answers_to_users)?;
        let faults = self.faults.iter().map(|(kind, count)| format!("{kind} {count}"));
        writeln!(out, "faults: {}", faults.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_is_busy_or_says_in_what_it_is_not() {
        let hour = MS_PER_HOUR;
        let mut stats = Stats {
            simulated_ms: hour,
            device_ms: 6 * hour,
            rows: 360,
            rounds: 72,
            events: 90,
            ..Stats::default()
        };
        assert_eq!(stats.idleness().unwrap(), "not busy: 0.0 % of the steps faulty, and not 1");
        stats.fault("crash");
        assert_eq!(stats.idleness(), None);
        stats.rows -= 1;
        assert!(stats.idleness().unwrap().contains("59.8 rows of a device in an hour, and not 60"));
    }

    #[test]
    fn totals_are_one_line_of_json() {
        let mut stats = Stats { rounds: 3, ..Stats::default() };
        stats.fault("torn write");
        let line = stats.totals(&[("seeds", 2)]);
        assert!(
            line.starts_with("totals {\"simulated_ms\":0,") && line.ends_with(",\"fault: torn write\":1}"),
            "{line}"
        );
        assert!(line.contains("\"rounds\":3,") && line.contains("\"seeds\":2,"), "{line}");
    }
}
