//! The end of a run: faults are over, everybody comes to rest, and what is left is checked.

use crate::device::Wish;
use crate::oracle;
use crate::world::{BOTH, World};
use anyhow::{Context, Result, bail};
use cloudsync_protocol::client::Retry;

/// Rounds of syncs in which everybody must come to rest.
const SETTLING_ROUNDS_MAX: usize = 12;
/// Turns that one sync may take.
const TURNS_MAX: usize = 500;

impl World {
    /// Faults are over: everybody syncs until nothing moves any more.
    pub(crate) fn settle(&mut self) -> Result<()> {
        for _ in 0..SETTLING_ROUNDS_MAX {
            let mut moved = 0;
            for at in 0..self.devices.len() {
                self.now_ms.set(self.now() + 50);
                moved += self.sync(at)?;
                self.show_watched()?;
            }
            if moved == 0 {
                return Ok(());
            }
        }
        bail!("still moving after {SETTLING_ROUNDS_MAX} rounds of syncs");
    }

    /// One whole sync over a perfect network. Gives the rows that moved.
    fn sync(&mut self, at: usize) -> Result<u64> {
        let device = &mut self.devices[at];
        let name = device.name.clone();
        device.crash()?;
        let process = &mut device.processes[0];
        let mut wish = process.start(BOTH, Retry::none()).with_context(|| format!("device {name}"))?;
        for _ in 0..TURNS_MAX {
            match wish {
                Wish::Send(request) => {
                    let answer = self.server.turn(&request, self.now_ms.get())?;
                    wish = process.answered(&answer).with_context(|| format!("device {name}"))?;
                }
                Wish::Pause(_) => wish = process.resume()?,
                Wish::Over { failed: true, .. } => bail!("device {name} does not get through to the server"),
                Wish::Over { received, sent, .. } => {
                    self.note(|| format!("{name} settles: received {received}, sent {sent}"));
                    return Ok(received + sent);
                }
            }
        }
        bail!("device {name} does not come to an end of one sync")
    }

    pub(crate) fn check(&mut self) -> Result<()> {
        oracle::check_file(&self.server.db, "the server")?;
        let (rows, clocks) = (oracle::rows(&self.server.db)?, oracle::clocks(&self.server.db)?);
        for device in &mut self.devices {
            let name = &device.name;
            oracle::check_at_rest(&mut device.processes[0], name)?;
            let db = &device.processes[0].db;
            if let Some(difference) = oracle::difference(&clocks, &oracle::clocks(db)?) {
                bail!("server and {name} differ in a clock: {difference}");
            }
            if let Some(difference) = oracle::difference(&rows, &oracle::rows(db)?) {
                bail!("server and {name} differ in a row under equal clocks: {difference}");
            }
        }
        self.model.check(&rows)
    }
}
