//! `docs/sql.md` is what the table of functions says.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../examples/sql_docs.rs"]
mod sql_docs;

#[test]
fn sql_docs_are_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sql.md");
    let stored = std::fs::read_to_string(path).unwrap();
    assert!(
        stored == sql_docs::document(),
        "docs/sql.md is old: cargo run -p cloudsync-extension --example sql_docs > docs/sql.md"
    );
}
