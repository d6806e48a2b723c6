//! `cargo xtask arrows`: which crate of the workspace may depend on which.
//!
//! Each boundary between crates stops a mistake that the compiler can then catch, but cargo lets anyone
//! depend on anyone. This is the missing check: it reads what the manifests declare, whatever the feature,
//! the target or the name it is renamed to.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::project::Project;

/// What each product crate may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("cloudsync-core", &[]),
    ("cloudsync-protocol", &["cloudsync-core"]),
    ("cloudsync-sqlite-ffi", &[]),
    ("cloudsync-replica", &["cloudsync-core", "cloudsync-protocol", "cloudsync-sqlite-ffi"]),
    ("cloudsync-extension", &["cloudsync-replica", "cloudsync-protocol", "cloudsync-sqlite-ffi"]),
    (
        "cloudsync-server",
        &["cloudsync-core", "cloudsync-protocol", "cloudsync-replica", "cloudsync-sqlite-ffi"],
    ),
];

/// Tools may depend on anything, and nothing depends on them.
const TOOLS: &[&str] = &["xtask", "cloudsync-bench", "cloudsync-sim", "cloudsync-fuzz"];

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    if let Some(argument) = args.first() {
        bail!("arrows takes no argument, and got `{argument}`");
    }
    check(project)
}

/// Judges the workspace's own manifests.
pub(crate) fn check(project: &Project) -> Result<()> {
    let graph = Graph::from_metadata(project.metadata())?;
    let faults = graph.faults();
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} dependencies that the design does not allow", faults.len());
    }
    println!("{} dependencies between {} crates, all allowed", graph.arrows.len(), graph.crates.len());
    Ok(())
}

/// The crates of the workspace and the dependencies between them.
struct Graph {
    crates: Vec<String>,
    arrows: Vec<Arrow>,
}

/// One crate depends on another.
struct Arrow {
    from: String,
    to: String,
    /// Only the tests of `from` need it.
    dev: bool,
}

impl Graph {
    /// Reads the output of `cargo metadata --no-deps`.
    fn from_metadata(metadata: &Value) -> Result<Self> {
        let packages = metadata.get("packages").and_then(Value::as_array).context("no packages")?;
        let name_of = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
        let crates: Vec<String> = packages.iter().filter_map(name_of).collect();
        let mut arrows = Vec::new();
        for package in packages {
            let from = name_of(package).context("a package without a name")?;
            let dependencies = package.get("dependencies").and_then(Value::as_array);
            for dependency in dependencies.context("a package without a list of dependencies")? {
                let to = name_of(dependency).context("a dependency without a name")?;
                if crates.contains(&to) {
                    let dev = dependency.get("kind").and_then(Value::as_str) == Some("dev");
                    arrows.push(Arrow { from: from.clone(), to, dev });
                }
            }
        }
        Ok(Self { crates, arrows })
    }

    /// One line per arrow that is not allowed, and per crate that the table does not know.
    fn faults(&self) -> Vec<String> {
        let unknown = self.crates.iter().filter(|name| !is_tool(name) && allowed(name).is_none());
        let unknown = unknown.map(|name| format!("{name}: not in the table of crates in arrows.rs"));
        let refused = self.arrows.iter().filter(|arrow| !arrow.is_allowed()).map(|arrow| {
            let Arrow { from, to, dev } = arrow;
            let kind = if *dev { " (dev)" } else { "" };
            let may = allowed(from).map_or_else(String::new, |names| names.join(", "));
            format!(
                "{from} -> {to}{kind}: {from} may depend on: {}",
                if may.is_empty() { "none" } else { &may }
            )
        });
        unknown.chain(refused).collect()
    }
}

impl Arrow {
    /// Tests of a product crate may use other product crates; a tool is used by nobody but tools.
    fn is_allowed(&self) -> bool {
        if is_tool(&self.from) {
            return true;
        }
        if is_tool(&self.to) {
            return false;
        }
        self.dev || allowed(&self.from).is_some_and(|names| names.contains(&self.to.as_str()))
    }
}

fn is_tool(name: &str) -> bool {
    TOOLS.contains(&name)
}

fn allowed(name: &str) -> Option<&'static [&'static str]> {
    ALLOWED.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of every crate, with the given dependencies: from, to, kind.
    fn faults(arrows: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        let names = ALLOWED.iter().map(|(name, _)| *name).chain(TOOLS.iter().copied());
        let packages: Vec<Value> = names
            .map(|name| {
                let own = arrows.iter().filter(|(from, _, _)| *from == name);
                let dependencies: Vec<Value> = own
                    .map(|(_, to, kind)| serde_json::json!({ "name": to, "kind": kind, "rename": "other" }))
                    .collect();
                serde_json::json!({ "name": name, "dependencies": dependencies })
            })
            .collect();
        Graph::from_metadata(&serde_json::json!({ "packages": packages })).unwrap().faults()
    }

    #[test]
    fn the_design_passes() {
        let all: Vec<_> = ALLOWED
            .iter()
            .flat_map(|(from, names)| names.iter().map(move |to| (*from, *to, None)))
            .chain([("xtask", "cloudsync-core", None), ("cloudsync-core", "serde", None)])
            .collect();
        assert_eq!(faults(&all), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_against_the_design_is_refused() {
        for (from, to) in [
            ("cloudsync-core", "cloudsync-protocol"),
            ("cloudsync-protocol", "cloudsync-replica"),
            ("cloudsync-extension", "cloudsync-server"),
            ("cloudsync-extension", "cloudsync-core"),
            ("cloudsync-sqlite-ffi", "cloudsync-core"),
            ("cloudsync-server", "cloudsync-sim"),
        ] {
            for kind in [None, Some("build")] {
                let found = faults(&[(from, to, kind)]);
                assert_eq!(found.len(), 1, "{from} -> {to}");
                assert!(found[0].starts_with(&format!("{from} -> {to}: ")), "{}", found[0]);
            }
        }
    }

    #[test]
    fn tests_may_use_products_but_never_tools() {
        assert_eq!(faults(&[("cloudsync-core", "cloudsync-server", Some("dev"))]).len(), 0);
        assert_eq!(faults(&[("cloudsync-core", "cloudsync-sim", Some("dev"))]).len(), 1);
    }

    #[test]
    fn a_crate_outside_the_table_is_refused() {
        let metadata = serde_json::json!({ "packages": [{ "name": "cloudsync-more", "dependencies": [] }] });
        assert_eq!(Graph::from_metadata(&metadata).unwrap().faults().len(), 1);
    }
}
