//! Where mistakes are planted, and which tests are asked about them.

/// Files whose mutants are judged by the same tests.
pub(super) struct Area {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    /// The folder of the package.
    pub(super) folder: &'static str,
    /// Globs, as cargo-mutants takes them.
    pub(super) files: &'static [&'static str],
    /// What `cargo test` is told beside the package. Of these tests a mutant meets those that reach its function.
    pub(super) tests: &'static str,
}

pub(super) const AREAS: &[Area] = &[
    Area {
        name: "merge",
        package: "cloudsync-core",
        folder: "crates/core",
        files: &["crates/core/src/merge/**", "crates/core/src/marks.rs"],
        tests: "--lib --tests",
    },
    Area {
        name: "fold",
        package: "cloudsync-replica",
        folder: "crates/replica",
        files: &["crates/replica/src/fold.rs", "crates/replica/src/fold/**"],
        tests: "--lib --test capture --test filters --test algorithms --test connections --test random \
                --test random_schema --test schema_changes --test unique --test merge --test filters_random \
                --test rounds --test keys_and_values",
    },
    Area {
        name: "ledger",
        package: "cloudsync-server",
        folder: "crates/server",
        files: &["crates/server/src/ledger/**"],
        tests: "--lib --test ledger --test recomputations --test events --test large_values",
    },
];
