//! Counts what is taken from the heap, so that a target can say how much an input may make of itself.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn take(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is handed to the system's allocator as it came; the counters touch no memory that it gives.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `System` with this layout, since all calls go there.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Runs `act`, which may hold so many bytes more than there are now at any time.
///
/// # Panics
/// When it held more.
pub fn within<T>(bytes_max: usize, act: impl FnOnce() -> T) -> T {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let outcome = act();
    let held = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(held <= bytes_max, "{held} bytes of memory for one input, more than {bytes_max}");
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_for_a_moment_counts() {
        within(2_000_000, || drop(vec![1_u8; 1_000_000]));
        let held = std::panic::catch_unwind(|| within(500_000, || drop(vec![1_u8; 1_000_000])));
        assert!(held.is_err());
    }
}
