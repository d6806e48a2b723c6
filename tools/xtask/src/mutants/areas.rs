//! Where mistakes are planted, and which tests are asked about them: fast ones first, the others only about what survived.

/// Files whose mutants are judged by the same tests.
pub(super) struct Area {
    pub(super) name: &'static str,
    /// Globs, as cargo-mutants takes them.
    pub(super) files: &'static [&'static str],
    pub(super) stages: &'static [Stage],
}

/// Tests of one package.
pub(super) struct Stage {
    pub(super) package: &'static str,
    /// What `cargo test` is told beside the package.
    pub(super) args: &'static str,
}

pub(super) const AREAS: &[Area] = &[
    Area {
        name: "merge",
        files: &["crates/core/src/merge/**", "crates/core/src/marks.rs"],
        stages: &[Stage { package: "cloudsync-core", args: "" }],
    },
    Area {
        name: "fold",
        files: &["crates/replica/src/fold.rs", "crates/replica/src/fold/**"],
        stages: &[
            Stage { package: "cloudsync-replica", args: "--test capture --test filters --test algorithms" },
            Stage {
                package: "cloudsync-replica",
                args: "--lib --test connections --test random --test random_schema --test schema_changes --test unique \
                       --test merge --test filters_random --test rounds",
            },
        ],
    },
    Area {
        name: "ledger",
        files: &["crates/server/src/ledger/**"],
        stages: &[
            Stage { package: "cloudsync-server", args: "--lib --test ledger" },
            Stage {
                package: "cloudsync-server",
                args: "--test recomputations --test events --test large_values",
            },
        ],
    },
];
