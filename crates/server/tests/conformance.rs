//! What every store must do, whatever it keeps its rows in.
#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Makes a test of each case for each store.
macro_rules! for_every_store {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $case() { super::$case(&crate::subject::Memory::new()); })*
        }
        mod sqlite {
            $(#[test] fn $case() { super::$case(&crate::subject::Sqlite::new()); })*
        }
    };
}

#[path = "conformance/checks.rs"]
mod checks;
#[path = "conformance/chunks.rs"]
mod chunks;
#[path = "conformance/device.rs"]
mod device;
#[path = "conformance/feed.rs"]
mod feed;
#[path = "conformance/file.rs"]
mod file;
#[path = "conformance/merging.rs"]
mod merging;
#[path = "conformance/moving.rs"]
mod moving;
#[path = "conformance/principals.rs"]
mod principals;
#[path = "conformance/refusing.rs"]
mod refusing;
#[path = "conformance/schedules.rs"]
mod schedules;
#[path = "conformance/schemas.rs"]
mod schemas;
#[path = "conformance/standings.rs"]
mod standings;
#[path = "conformance/subject.rs"]
mod subject;
