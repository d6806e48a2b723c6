//! What is wrong with a server's folder, or with one database file of a server or a device, and what to do about it.
//!
//! It reads only, unless it is told to fix what is safe: triggers that do not fit their tables, and what evictions left.

mod file;
mod folder;

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::schema_check::{Finding, Severity};

/// What is looked at, and how.
pub struct Examination<'e> {
    /// Mend what is safe to mend.
    pub fix: bool,
    /// Leave out reading the whole of each file.
    pub quick: bool,
    /// How many rows of each table are compared with what is known of them.
    pub rows_max: u64,
    /// Told of each step.
    pub progress: &'e mut dyn FnMut(&str),
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was looked at.
    pub path: String,
    /// `folder` or `file`.
    pub kind: &'static str,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// What was mended.
    pub fixed: Vec<String>,
    /// Numbers, by the file they are of.
    pub facts: Map<String, Value>,
}

impl Report {
    fn new(path: &Path, kind: &'static str) -> Self {
        let path = path.display().to_string();
        Self { path, kind, findings: Vec::new(), fixed: Vec::new(), facts: Map::new() }
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        subject: impl Into<String>,
        text: impl Into<String>,
        remedy: &str,
    ) {
        let (subject, text, remedy) = (subject.into(), text.into(), remedy.to_owned());
        self.findings.push(Finding { severity, code, subject, text, remedy });
    }

    /// How much of it wants something to be done.
    #[must_use]
    pub fn wrong(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity != Severity::Advice).count()
    }
}

/// Looks at a folder or a file.
///
/// # Errors
/// [`Error::Backup`] when there is neither. What is wrong with what is there is in the report.
pub fn examine(path: &Path, examination: &mut Examination<'_>) -> Result<Report> {
    let mut report = if path.is_dir() {
        let mut report = Report::new(path, "folder");
        folder::examine(path, examination, &mut report)?;
        report
    } else if path.is_file() {
        let mut report = Report::new(path, "file");
        file::examine(path, &path.display().to_string(), examination, &mut report);
        report
    } else {
        let why = "there is neither a data folder nor a database file: check the path".to_owned();
        return Err(Error::Backup { path: path.to_owned(), why });
    };
    report.findings.sort_by_key(|finding| finding.severity);
    Ok(report)
}
