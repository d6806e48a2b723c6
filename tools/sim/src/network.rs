//! The network, as a queue of what will happen: messages are lost, late, out of order between devices, and old copies
//! of requests arrive long after their answers.

use crate::random::Dice;
use crate::rights::Bearer;
use std::collections::BTreeMap;

/// A device; which of its processes is meant the number of the attempt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) device: usize,
}

/// What can happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A device does something.
    Tick { device: usize },
    /// Somebody works on the server's file, or the server restarts.
    ServerTick,
    /// A request reaches the server, with the key or token under which it was sent.
    Request { from: Address, attempt: u64, bytes: Vec<u8>, bearer: Bearer, is_copy: bool },
    /// An answer reaches its device.
    Answer { to: Address, attempt: u64, bytes: Vec<u8> },
    /// The device gives up waiting for an answer.
    Timeout { to: Address, attempt: u64 },
    /// A pause of the session is over.
    Resume { to: Address, attempt: u64 },
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Messages lost, of a thousand.
    pub(crate) loss: u64,
    /// Requests copied, of a thousand.
    pub(crate) copies: u64,
    /// Longest way of a message, in milliseconds.
    pub(crate) latency_ms_max: u64,
    /// How long a device waits for an answer, in milliseconds.
    pub(crate) timeout_ms: u64,
    /// Latest arrival of a copy, in milliseconds.
    pub(crate) copy_ms_max: u64,
}

impl Faults {
    /// The network of one run.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            loss: *dice.pick(&[0, 50, 200, 400]),
            copies: *dice.pick(&[0, 50, 200]),
            latency_ms_max: *dice.pick(&[20, 500, 8_000]),
            timeout_ms: *dice.pick(&[400, 10_000]),
            copy_ms_max: *dice.pick(&[1_000, 120_000]),
        }
    }
}

/// Everything that will happen, in order of time and then of planning.
pub(crate) struct Network {
    queue: BTreeMap<(u64, u64), Event>,
    planned: u64,
    attempts: u64,
    faults: Faults,
    dice: Dice,
}

impl Network {
    pub(crate) fn new(faults: Faults, dice: Dice) -> Self {
        Self { queue: BTreeMap::new(), planned: 0, attempts: 0, faults, dice }
    }

    /// Plans an event.
    pub(crate) fn plan(&mut self, at_ms: u64, event: Event) {
        self.planned += 1;
        self.queue.insert((at_ms, self.planned), event);
    }

    /// The next event and its time.
    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        self.queue.pop_first().map(|((at, _), event)| (at, event))
    }

    /// Sends a request and gives the number of the attempt, under which its answer or the timeout comes back.
    pub(crate) fn send(&mut self, now_ms: u64, from: Address, bytes: Vec<u8>, bearer: Bearer) -> u64 {
        let attempt = self.next_attempt();
        self.plan(now_ms + self.faults.timeout_ms, Event::Timeout { to: from, attempt });
        if self.dice.chance(self.faults.copies) {
            let at = now_ms + self.dice.below(self.faults.copy_ms_max);
            let (bytes, bearer) = (bytes.clone(), bearer.clone());
            self.plan(at, Event::Request { from, attempt, bytes, bearer, is_copy: true });
        }
        if !self.dice.chance(self.faults.loss) {
            let at = now_ms + self.way_ms();
            self.plan(at, Event::Request { from, attempt, bytes, bearer, is_copy: false });
        }
        attempt
    }

    /// Sends an answer.
    pub(crate) fn answer(&mut self, now_ms: u64, to: Address, attempt: u64, bytes: Vec<u8>) {
        if !self.dice.chance(self.faults.loss) {
            let at = now_ms + self.way_ms();
            self.plan(at, Event::Answer { to, attempt, bytes });
        }
    }

    /// Plans the end of a session's pause.
    pub(crate) fn pause(&mut self, now_ms: u64, to: Address, pause_ms: u64) -> u64 {
        let attempt = self.next_attempt();
        self.plan(now_ms + pause_ms, Event::Resume { to, attempt });
        attempt
    }

    fn next_attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    fn way_ms(&mut self) -> u64 {
        1 + self.dice.below(self.faults.latency_ms_max)
    }
}
