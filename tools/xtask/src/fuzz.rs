//! `cargo xtask fuzz`: the tests of `crates/extension/tests/mutations.rs`, for longer.

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::project::Project;

/// Targets among those tests; each has its share of the time.
const TARGETS: f64 = 6.0;

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    let (mut minutes, mut seed) = (1.0, std::process::id().to_string());
    let mut args = args.iter();
    while let Some(argument) = args.next() {
        let value = args.next().with_context(|| format!("{argument} wants a number"))?;
        match argument.as_str() {
            "--minutes" => minutes = value.parse::<f64>().with_context(|| format!("{value} is no number"))?,
            "--seed" => seed.clone_from(value),
            other => bail!("`{other}` is not --minutes or --seed"),
        }
    }
    let mut command = project.cargo();
    command.args(["test", "--package", "cloudsync-extension", "--test", "mutations", "--", "--nocapture"]);
    command.arg("--test-threads=1").env("CLOUDSYNC_FUZZ_SEED", &seed);
    command.env("CLOUDSYNC_FUZZ_SECONDS", format!("{:.0}", (minutes * 60.0 / TARGETS).max(1.0)));
    println!("seed {seed}");
    process::run(&mut command)
}
