//! The memory that bodies take while they arrive, and who gives way when it is short.
//!
//! Room is taken as bytes arrive, not as they are announced. When there is none left for a body, the slowest of those
//! that hold some give way: they are refused as by a busy server, and their callers try again. So callers who send a
//! lot and then stop keep nobody out, however good their key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Error;
use axum::body::Bytes;
use cloudsync_protocol::limits::MESSAGE_BYTES_MAX;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::HttpError;

/// Most bytes of bodies that are in memory at once.
const BYTES_MAX: usize = 8 * MESSAGE_BYTES_MAX;
/// How long a body waits for room altogether.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// How long it waits before it asks others to give way.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// How long a body may be on its way before it has to give way to others.
const GRACE: Duration = Duration::from_secs(2);
/// Bodies that hold less are left alone: they are in nobody's way.
const WORTH_BYTES: usize = 64 * 1024;
/// Bodies are counted in units of this many bytes, because a semaphore counts to 2^32 at one go.
const UNIT_BYTES: usize = 1024;

/// Room for bodies.
pub(super) struct Bodies {
    /// Most bytes of one body.
    each_max: usize,
    room: Arc<Semaphore>,
    arriving: Arc<Mutex<Register>>,
}

/// The bodies that are on their way.
#[derive(Default)]
struct Register {
    next: u64,
    bodies: HashMap<u64, Arriving>,
}

struct Arriving {
    since: Instant,
    bytes: usize,
    give_way: Arc<Notify>,
}

/// The place of one body in the register, until it is dropped.
struct Entry {
    register: Arc<Mutex<Register>>,
    number: u64,
    give_way: Arc<Notify>,
}

/// A body that arrived whole, and the room that it takes as long as it is kept.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Room for bodies of at most so many bytes each.
    pub(super) fn new(each_max: usize) -> Self {
        Self { each_max: each_max.min(MESSAGE_BYTES_MAX), ..Self::with_room_for(BYTES_MAX) }
    }

    fn with_room_for(bytes: usize) -> Self {
        Self {
            each_max: MESSAGE_BYTES_MAX,
            room: Arc::new(Semaphore::new(bytes / UNIT_BYTES)),
            arriving: Arc::default(),
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`HttpError::BadRequest`] when it breaks off, [`HttpError::TooLarge`], and [`HttpError::Busy`] when there is no
    /// room for it or it had to give way.
    pub(super) async fn read(
        &self,
        parts: impl Stream<Item = Result<Bytes, Error>> + Send + Unpin,
    ) -> Result<Body, HttpError> {
        let entry = self.enter();
        tokio::select! {
            // Whoever gives way asks nobody else to.
            biased;
            () = entry.give_way.notified() => Err(HttpError::Busy),
            body = self.collect(parts, &entry) => body,
        }
    }

    async fn collect(
        &self,
        mut parts: impl Stream<Item = Result<Bytes, Error>> + Send + Unpin,
        entry: &Entry,
    ) -> Result<Body, HttpError> {
        let mut body = Body { bytes: Vec::new(), room: None };
        while let Some(part) = parts.next().await {
            let part = part.map_err(|_| {
                HttpError::BadRequest("the body did not arrive whole: send the request again".into())
            })?;
            let bytes = body.bytes.len() + part.len();
            if bytes > self.each_max {
                return Err(self.too_large());
            }
            let held = body.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let missing = bytes.div_ceil(UNIT_BYTES).saturating_sub(held);
            if missing > 0 {
                let more = self.take_room(missing, entry).await?;
                match &mut body.room {
                    Some(room) => room.merge(more),
                    None => body.room = Some(more),
                }
            }
            body.bytes.extend_from_slice(&part);
            entry.note(body.bytes.len());
        }
        Ok(body)
    }

    async fn take_room(&self, units: usize, entry: &Entry) -> Result<OwnedSemaphorePermit, HttpError> {
        let count = u32::try_from(units).map_err(|_| self.too_large())?;
        let end = Instant::now() + ROOM_WAIT;
        let mut acquiring = Box::pin(Arc::clone(&self.room).acquire_many_owned(count));
        // The place in the queue for room is kept all the while.
        while Instant::now() < end {
            match timeout(ASK_AFTER, &mut acquiring).await {
                Ok(room) => return room.map_err(|_| HttpError::Busy),
                Err(_) => self.arriving().make_room(units * UNIT_BYTES, entry.number),
            }
        }
        match timeout_at(end, acquiring).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(HttpError::Busy),
        }
    }

    /// Refuses a body that is announced with more bytes than it may have.
    ///
    /// # Errors
    /// [`HttpError::TooLarge`].
    pub(super) fn check_announced(&self, bytes: u64) -> Result<(), HttpError> {
        if bytes > self.each_max as u64 { Err(self.too_large()) } else { Ok(()) }
    }

    fn too_large(&self) -> HttpError {
        HttpError::TooLarge(self.each_max)
    }

    fn enter(&self) -> Entry {
        let give_way = Arc::new(Notify::new());
        let mut register = self.arriving();
        let number = register.next;
        register.next += 1;
        let arriving = Arriving { since: Instant::now(), bytes: 0, give_way: Arc::clone(&give_way) };
        register.bodies.insert(number, arriving);
        Entry { register: Arc::clone(&self.arriving), number, give_way }
    }

    fn arriving(&self) -> MutexGuard<'_, Register> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    /// Tells the slowest bodies to give way to one, until that brings so many bytes.
    fn make_room(&mut self, bytes: usize, for_number: u64) {
        let now = Instant::now();
        let mut slow: Vec<(u64, &Arriving)> = (self.bodies.iter())
            .filter(|(number, body)| **number != for_number && body.bytes >= WORTH_BYTES)
            .filter(|(_, body)| now.duration_since(body.since) >= GRACE)
            .map(|(_, body)| (body.bytes_per_second(now), body))
            .collect();
        slow.sort_by_key(|(speed, _)| *speed);
        let mut freed = 0;
        for (_, body) in slow {
            if freed >= bytes {
                return;
            }
            freed += body.bytes;
            body.give_way.notify_one();
        }
    }
}

impl Arriving {
    fn bytes_per_second(&self, now: Instant) -> u64 {
        let elapsed_ms = now.duration_since(self.since).as_millis().max(1);
        u64::try_from(self.bytes as u128 * 1000 / elapsed_ms).unwrap_or(u64::MAX)
    }
}

impl Entry {
    fn note(&self, bytes: usize) {
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(body) = register.bodies.get_mut(&self.number) {
            body.bytes = bytes;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.register.lock().unwrap_or_else(PoisonError::into_inner).bodies.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    const PART: Bytes = Bytes::from_static(&[7; WORTH_BYTES]);

    fn parts(count: usize) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin {
        stream::iter((0..count).map(|_| Ok(PART)))
    }

    /// Sends some parts, and then nothing for ever.
    fn stuck(count: usize) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin {
        parts(count).chain(stream::pending())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_give_way_and_others_wait_no_longer_than_the_grace() {
        let bodies = Arc::new(Bodies::with_room_for(8 * WORTH_BYTES));
        let slow: Vec<_> = (0..4)
            .map(|_| {
                let bodies = Arc::clone(&bodies);
                tokio::spawn(async move { bodies.read(stuck(2)).await.map(|body| body.bytes.len()) })
            })
            .collect();
        while bodies.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        // Four bodies that together need all the room.
        for _ in 0..4 {
            assert_eq!(bodies.read(parts(8)).await.unwrap().bytes.len(), 8 * WORTH_BYTES);
        }
        assert!(begun.elapsed() <= GRACE + 8 * ASK_AFTER, "{:?}", begun.elapsed());
        for slow in slow {
            assert_eq!(slow.await.unwrap(), Err(HttpError::Busy));
        }
        assert!(bodies.arriving().bodies.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_wait_for_one_another_do_not_hold_each_other_up() {
        let bodies = Arc::new(Bodies::with_room_for(4 * WORTH_BYTES));
        let begun = Instant::now();
        let both: Vec<_> = (0..2)
            .map(|_| {
                let bodies = Arc::clone(&bodies);
                let pausing = parts(4).then(|part| async {
                    tokio::task::yield_now().await;
                    part
                });
                tokio::spawn(async move { bodies.read(Box::pin(pausing)).await.map(drop) })
            })
            .collect();
        let mut taken = 0;
        for body in both {
            taken += usize::from(body.await.unwrap().is_ok());
        }
        assert!(taken >= 1 && begun.elapsed() < ROOM_WAIT, "{taken} after {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn small_and_young_bodies_are_left_alone_and_the_wait_is_bounded() {
        let bodies = Arc::new(Bodies::with_room_for(WORTH_BYTES));
        let small = stream::iter([Ok(Bytes::from_static(b"small"))]).chain(stream::pending());
        let reading = Arc::clone(&bodies);
        let small = tokio::spawn(async move { reading.read(small).await.map(drop) });
        tokio::task::yield_now().await;
        let begun = Instant::now();
        assert_eq!(bodies.read(parts(1)).await.map(drop), Err(HttpError::Busy));
        assert!(begun.elapsed() <= ROOM_WAIT + ASK_AFTER);
        assert!(!small.is_finished());
        small.abort();
    }
}
