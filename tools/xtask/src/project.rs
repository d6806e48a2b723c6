//! Where things are: the workspace, its build folder and what `build` leaves in `dist`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The workspace that this command was started in.
pub(crate) struct Project {
    root: PathBuf,
    target: PathBuf,
    metadata: Value,
}

impl Project {
    /// Asks cargo where the workspace and its build folder are, so that `CARGO_TARGET_DIR` and
    /// configuration files are respected.
    pub(crate) fn open() -> Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
        let path = |field: &str| -> Result<PathBuf> {
            let value = metadata.get(field).and_then(Value::as_str);
            Ok(PathBuf::from(value.with_context(|| format!("cargo metadata has no {field}"))?))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")?, metadata })
    }

    /// The folder of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's build folder; everything fetched or generated for tests goes below it too.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What `cargo metadata --no-deps` said.
    pub(crate) fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// The folder of what users get.
    pub(crate) fn dist(&self) -> PathBuf {
        self.root.join("dist")
    }

    /// The folder that holds the extension, where `.load ./cloudsync` finds it.
    pub(crate) fn dist_lib(&self) -> PathBuf {
        self.dist().join("lib")
    }

    /// The loadable extension.
    pub(crate) fn library(&self) -> PathBuf {
        self.dist_lib().join("cloudsync.so")
    }

    /// The server.
    pub(crate) fn server(&self) -> PathBuf {
        self.dist().join("cloudsync")
    }

    /// A cargo command in the workspace's folder, without the variables that `cargo run` set for this
    /// program: build scripts that watch them would run again and again.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new("cargo");
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Has a command of cargo compile what is run hundreds of times: optimised a little, with the assertions of a debug build,
    /// in a folder of its own.
    pub(crate) fn for_many_runs<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("CARGO_TARGET_DIR", self.target.join("mutants").join("build"));
        command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "0")
    }
}
