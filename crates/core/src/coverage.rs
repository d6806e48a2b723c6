//! Whether tests and the simulator really get to the rare branches.
//!
//! `reached!("name")` stands in such a branch. It counts in builds that are not optimised, and where the feature `coverage` is
//! on; elsewhere it is nothing at all. Nothing is registered: a name's place follows from its bytes, and the simulator, which
//! reads the names from the source, checks that no two share one.

/// Places for counts.
#[cfg(any(feature = "coverage", debug_assertions))]
pub const PLACES: usize = 1 << 16;

/// How often each place was reached.
#[cfg(any(feature = "coverage", debug_assertions))]
pub static REACHED: [core::sync::atomic::AtomicU64; PLACES] =
    [const { core::sync::atomic::AtomicU64::new(0) }; PLACES];

/// The place of a name (FNV-1a).
#[cfg(any(feature = "coverage", debug_assertions))]
#[must_use]
pub const fn place(name: &str) -> usize {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    (hash % PLACES as u64) as usize
}

/// Counts that a rare branch was reached.
#[cfg(any(feature = "coverage", debug_assertions))]
#[macro_export]
macro_rules! reached {
    ($name:literal) => {{
        const PLACE: usize = $crate::coverage::place($name);
        $crate::coverage::REACHED[PLACE].fetch_add(1, ::core::sync::atomic::Ordering::Relaxed);
    }};
}

/// Says that a rare branch is reached here; costs nothing.
#[cfg(not(any(feature = "coverage", debug_assertions)))]
#[macro_export]
macro_rules! reached {
    ($name:literal) => {};
}
