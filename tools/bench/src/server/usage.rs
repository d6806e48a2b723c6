//! What a process has used, as Linux tells it.

use crate::memory::field;
use anyhow::{Context, Result};
use std::fs::read_to_string;

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// CPU seconds, user and system, of all threads that ever were.
    pub(super) cpu_s: f64,
    /// Most bytes of memory until now.
    pub(super) peak: u64,
    /// Bytes that it caused to be written to disks.
    pub(super) written: u64,
}

impl Usage {
    pub(super) fn of(process: u32) -> Result<Self> {
        let folder = format!("/proc/{process}");
        let read = |name: &str| {
            read_to_string(format!("{folder}/{name}")).with_context(|| format!("{folder}/{name}"))
        };
        let (status, io) = (read("status")?, read("io")?);
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        Ok(Self {
            cpu_s: ticks(&read("stat")?).context("/proc/PID/stat has another form")? as f64 / ticks_per_s,
            peak: field(&status, "VmHWM:")?,
            written: io
                .lines()
                .find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
                .unwrap_or(0),
        })
    }
}

/// CPU nanoseconds of the threads that a process has now: finer than ticks.
pub(super) fn cpu_ns_of_threads(process: u32) -> Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may have ended meanwhile.
        let text = read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// User and system time. The name of the program is in brackets and may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_found_whatever_its_name() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.cpu_s >= 0.0 && usage.peak > 0);
        assert!(cpu_ns_of_threads(std::process::id()).unwrap() > 0);
    }
}
