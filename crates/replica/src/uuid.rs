//! UUIDs that grow.

use crate::environment::Environment;
use cloudsync_core::id::{uuid_text, uuid_v7};
use std::cell::Cell;
use std::rc::Rc;

/// Makes UUIDs of version 7 that grow strictly, also within a millisecond and when the clock goes back.
pub struct UuidSource {
    environment: Rc<dyn Environment>,
    last: Cell<(u64, u16)>,
}

impl UuidSource {
    /// A source that reads time and randomness from `environment`.
    #[must_use]
    pub fn new(environment: Rc<dyn Environment>) -> Self {
        Self { environment, last: Cell::new((0, 0)) }
    }

    /// The next UUID, as 36 characters in lower case.
    #[must_use]
    pub fn next(&self) -> String {
        const COUNTER_MAX: u16 = 0x0fff;
        let (time, counter) = self.last.get();
        let now = self.environment.now_ms();
        let next = match (now > time, counter < COUNTER_MAX) {
            (true, _) => (now, 0),
            (false, true) => (time, counter + 1),
            (false, false) => (time + 1, 0),
        };
        self.last.set(next);
        let mut random = [0; 8];
        self.environment.random(&mut random);
        uuid_text(&uuid_v7(next.0, next.1, random)).iter().map(|byte| char::from(*byte)).collect()
    }
}
