//! What the command line asks for.

use crate::plan::Plan;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) const HELP: &str = "usage: cargo xtask sim [--seed N] [--seconds S | --minutes M | --runs N] [CASE...] [--trace] [--hash]
  --seed N         the first seed, and the only one unless a length is given
  --seconds S      runs seed after seed for that long; 10 without any option
  --minutes M      the same in minutes
  --runs N         runs that many seeds
  --dense          has everything go wrong in each history, and often; most leave some of it out
  --calm           two days in each history that are as busy as --busy asks for and hardly more; most do several times as
                   much in an hour
  --no-shrink      does not look for a shorter history of a seed that fails
  --busy           fails unless the world was busy: 5 devices at once, each with 60 rows and 12 syncs in an hour, and
                   something going wrong in 1 % of the steps
  --marks          counts how often the rare branches were reached, and fails when one never was
  --common         fails when a branch was never reached that is common; for several seeds
  --totals         prints what was counted as JSON, for the page of figures
  --trace          prints what happens
  --hash           prints a hash of each history: of all messages and all changes of disks
  --watch ROW      prints the clock of a row whenever it changes; ROW is table:key, the packed key in hexadecimal
what a shortened case consists of:
  --devices D      devices at the start; the seed decides otherwise
  --until T        ends after so many steps
  --skip A-B,C     leaves these steps out
  --without KIND   leaves out crashes, power, disks, server-disks, jumps, copies, restores, server-restores, joins,
                   alterations, couriers, processes, users, policies, claims, user-changes, server-writes, filters,
                   families (foreign keys), renames, rights, switches, unchecked or likings; may be given several times";

/// What can be left out of a case.
pub(crate) const KINDS: &[&str] = &[
    "crashes",
    "power",
    "disks",
    "server-disks",
    "jumps",
    "copies",
    "restores",
    "server-restores",
    "joins",
    "alterations",
    "couriers",
    "processes",
    "policies",
    "claims",
    "user-changes",
    "users",
    "server-writes",
    "filters",
    "families",
    "renames",
    "rights",
    "switches",
    "unchecked",
    "likings",
];

/// One history: a seed, and what of it is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// Everything goes wrong, whatever the seed would leave out.
    pub(crate) dense: bool,
    /// Not busier than a busy world has to be, for two days.
    pub(crate) calm: bool,
    pub(crate) devices: Option<usize>,
    pub(crate) until: Option<u64>,
    pub(crate) skipped: Vec<(u64, u64)>,
    pub(crate) without: BTreeSet<&'static str>,
    pub(crate) trace: bool,
    pub(crate) hashes: bool,
    pub(crate) watched: Option<String>,
}

impl Case {
    pub(crate) fn is_skipped(&self, tick: u64) -> bool {
        self.skipped.iter().any(|(first, last)| (*first..=*last).contains(&tick))
    }

    /// Leaves out these steps, too.
    pub(crate) fn skip(&mut self, first: u64, last: u64) {
        self.skipped.push((first, last));
        self.skipped.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (first, last) in self.skipped.drain(..) {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        self.skipped = merged;
    }

    /// Takes out of the plan what is left out.
    pub(crate) fn limit(&self, plan: &mut Plan) {
        if self.dense {
            plan.fill(1);
            (plan.rights, plan.switches) = (true, true);
        }
        if self.calm {
            plan.calm_down(self.seed);
        }
        plan.devices = self.devices.unwrap_or(plan.devices);
        plan.ticks = plan.ticks.min(self.until.unwrap_or(u64::MAX));
        for kind in &self.without {
            match *kind {
                "crashes" => plan.crashes = 0,
                "power" => plan.power_losses = 0,
                "disks" => plan.disk_faults = 0,
                "server-disks" => plan.server_faults = 0,
                "jumps" => plan.clock_jumps = 0,
                "copies" => plan.copies = 0,
                "restores" => plan.restores = 0,
                "server-restores" => plan.server_restores = 0,
                "joins" => plan.joins = 0,
                "alterations" => plan.alterations = 0,
                "couriers" => plan.couriers = 0,
                "processes" => plan.processes = 0,
                "policies" => plan.policy_changes = 0,
                "claims" => plan.claim_changes = 0,
                "user-changes" => plan.user_changes = 0,
                "users" => plan.users = 0,
                "server-writes" => plan.server_writes = false,
                "filters" => plan.filters = 0,
                "families" => plan.families = false,
                "renames" => plan.renames = 0,
                "rights" => plan.rights = false,
                "switches" => plan.switches = false,
                "unchecked" => plan.checks = true,
                // Not drawn at all.
                _ => {}
            }
        }
    }
}

/// The arguments that run this case again.
impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "--seed {}", self.seed)?;
        if self.dense {
            write!(out, " --dense")?;
        }
        if self.calm {
            write!(out, " --calm")?;
        }
        if let Some(devices) = self.devices {
            write!(out, " --devices {devices}")?;
        }
        if let Some(until) = self.until {
            write!(out, " --until {until}")?;
        }
        if !self.skipped.is_empty() {
            let ranges = self.skipped.iter().map(|(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            });
            write!(out, " --skip {}", ranges.collect::<Vec<_>>().join(","))?;
        }
        self.without.iter().try_for_each(|kind| write!(out, " --without {kind}"))
    }
}

/// What to run.
pub(crate) struct Options {
    pub(crate) case: Case,
    pub(crate) shrinks: bool,
    pub(crate) marks: bool,
    pub(crate) common: bool,
    pub(crate) busy: bool,
    pub(crate) totals: bool,
    limit: Limit,
}

enum Limit {
    Runs(u64),
    Until(Instant),
}

impl Options {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let (mut seed, mut runs, mut seconds) = (None, None, None);
        let mut case = Case::default();
        let (mut shrinks, mut marks, mut common, mut totals, mut busy) = (true, false, false, false, false);
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value\n{HELP}"));
            let number = |text: String| -> Result<u64> {
                text.parse().with_context(|| format!("{arg} wants a number, not {text}"))
            };
            match arg.as_str() {
                "--seed" => seed = Some(number(value()?)?),
                "--runs" => runs = Some(number(value()?)?),
                "--seconds" => seconds = Some(number(value()?)?),
                "--minutes" => seconds = Some(number(value()?)?.saturating_mul(60)),
                "--devices" => case.devices = Some(number(value()?)?.clamp(1, 100) as usize),
                "--until" => case.until = Some(number(value()?)?),
                "--skip" => case.skipped = parse_ranges(&value()?)?,
                "--without" => {
                    let wanted = value()?;
                    let kind = KINDS.iter().find(|kind| **kind == wanted);
                    case.without.insert(kind.with_context(|| format!("nothing is called {wanted}\n{HELP}"))?);
                }
                "--dense" => case.dense = true,
                "--calm" => case.calm = true,
                "--no-shrink" => shrinks = false,
                "--marks" => marks = true,
                "--common" => common = true,
                "--busy" => busy = true,
                "--totals" => totals = true,
                "--trace" => case.trace = true,
                "--hash" => case.hashes = true,
                "--watch" => case.watched = Some(value()?),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}\n{HELP}"),
            }
        }
        let limit = match (runs, seconds, seed) {
            (Some(runs), ..) => Limit::Runs(runs),
            (None, None, Some(_)) => Limit::Runs(1),
            (None, seconds, _) => Limit::Until(Instant::now() + Duration::from_secs(seconds.unwrap_or(10))),
        };
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        case.seed = seed.unwrap_or(elapsed.as_millis() as u64 % 1_000_000_000_000);
        Ok(Some(Self { case, shrinks, marks, common, busy, totals, limit }))
    }

    pub(crate) fn goes_on(&self, done: u64) -> bool {
        match self.limit {
            Limit::Runs(runs) => done < runs,
            Limit::Until(end) => Instant::now() < end,
        }
    }
}

fn parse_ranges(text: &str) -> Result<Vec<(u64, u64)>> {
    let range = |part: &str| -> Result<(u64, u64)> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Ok((first.parse()?, last.parse()?))
    };
    text.split(',').map(|part| range(part).with_context(|| format!("{part} is no range of steps"))).collect()
}
