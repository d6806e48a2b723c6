//! Programs of the system that a command needs: found, or installed, or named.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Finds a program, installing the Debian package that holds it when it is missing and this user may.
///
/// # Errors
/// The program is missing and cannot be installed; the text says what to install.
pub(crate) fn ensure_program(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = process::find_program(name) {
        return Ok(found);
    }
    println!("{name} is not installed");
    install_package(package)?;
    match process::find_program(name) {
        Some(found) => Ok(found),
        None => bail!("`{name}` is still missing after installing {package}: put it on PATH and try again"),
    }
}

/// Installs a Debian package as root, or through `sudo` where that asks no password.
///
/// # Errors
/// There is no `apt-get`, no right to use it, or it failed; the text names the package.
pub(crate) fn install_package(package: &str) -> Result<()> {
    let remedy = format!("install the package `{package}` with your system's package manager and try again");
    if process::find_program("apt-get").is_none() {
        bail!("cannot install by myself here: {remedy}");
    }
    let Some(prefix) = root_prefix() else {
        bail!("not allowed to install: {remedy}");
    };
    // An index from long ago names files that are gone, and a fresh machine has none.
    for arguments in [&["update", "-q"][..], &["install", "-y", "-q", package][..]] {
        let mut command = Command::new(prefix.first().copied().unwrap_or("apt-get"));
        command.args(prefix.get(1..).unwrap_or_default());
        if !prefix.is_empty() {
            command.arg("apt-get");
        }
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        if process::run(&mut command).is_err() {
            bail!("apt-get failed: {remedy}");
        }
    }
    Ok(())
}

/// What to put before `apt-get`: nothing as root, `sudo -n` where it works.
fn root_prefix() -> Option<&'static [&'static str]> {
    let user = process::capture(Command::new("id").arg("-u")).ok()?;
    if user.trim() == "0" {
        return Some(&[]);
    }
    let sudo = &["sudo", "-n"];
    process::succeeds(Command::new("sudo").args(["-n", "true"])).then_some(sudo)
}
