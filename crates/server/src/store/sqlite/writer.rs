//! The one thread that writes a database: it takes in uploads and folds what others wrote.
//!
//! Turns that arrive while it commits wait in a queue and are taken together in the next transaction, each in a
//! savepoint of its own. Nobody is answered before that transaction is on disk. Large uploads are taken one by one, each in
//! a transaction of its own, and everybody else's turns go between: whoever sends little waits for one of them at most.

use super::CREATE;
use super::connection::Wrapped;
use super::host::Located;
use super::standing;
use super::turn::{self, Outcome};
use crate::events::Feed;
use crate::ledger::{self, Posting};
use crate::metrics::METRICS;
use crate::policy::Law;
use crate::store::{Asker, StoreError};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::message::Request;
use cloudsync_replica::{Error, ForeignKeys, Replica};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Turns that are taken in one transaction at most.
const GROUP_TURNS_MAX: usize = 64;
/// Bytes of a final chunk from which an upload is large; so is one of several chunks.
const LARGE_BYTES: usize = 64 << 10;

enum Job {
    Turn {
        request: Vec<u8>,
        asker: Asker,
        now_ms: u64,
        asked: Instant,
        is_large: bool,
        reply: Sender<Result<Outcome, StoreError>>,
    },
    Fold {
        reply: Sender<Result<(), StoreError>>,
    },
    Post {
        posting: Posting,
        reply: Sender<Result<(), StoreError>>,
    },
    #[cfg(test)]
    Panic,
}

impl Job {
    const fn is_large(&self) -> bool {
        matches!(self, Self::Turn { is_large: true, .. })
    }

    /// Answers with an error. Whoever has stopped waiting for the answer asks again.
    fn fail(self, error: StoreError) {
        match self {
            Self::Turn { reply, .. } => drop(reply.send(Err(error))),
            Self::Fold { reply } | Self::Post { reply, .. } => drop(reply.send(Err(error))),
            #[cfg(test)]
            Self::Panic => {}
        }
    }
}

/// The handle of the thread. When it is dropped the thread takes what is in its queue, and has closed its file.
pub(super) struct Writer {
    // Dropped first: without it the thread ends.
    jobs: Sender<Job>,
    _thread: Ended,
}

/// Waits for the end of a thread when it is dropped.
struct Ended(Option<JoinHandle<()>>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // Its panics are in the log already.
            let _ = thread.join();
        }
    }
}

impl Writer {
    pub(super) fn start(located: &Located, feed: Arc<Feed>) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let (opened, outcome) = channel();
        let located = located.clone();
        let name = format!("writer {}", located.path.file_stem().unwrap_or_default().to_string_lossy());
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                let mut file = match open(&located) {
                    Ok(file) => file,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                // What is there already is news for whoever was away.
                feed.tell(None, file.replica.version().unwrap_or(0));
                // The opener may have given up; then there are no jobs either.
                drop(opened.send(Ok(())));
                // A panic costs the turns of its group: their transaction is undone when the file is closed.
                while catch_unwind(AssertUnwindSafe(|| run(file, &queue, &feed))).is_err() {
                    file = match reopen(&located, &queue) {
                        Some(file) => file,
                        None => return,
                    };
                }
            })
            .map_err(|error| StoreError::Failed(format!("cannot start a thread: {error}")))?;
        outcome.recv().map_err(|_| gone())??;
        Ok(Self { jobs, _thread: Ended(Some(thread)) })
    }

    /// Takes a turn; returns when it is on disk.
    pub(super) fn turn(
        &self,
        request: &Request<'_>,
        asker: &Asker,
        now_ms: u64,
    ) -> Result<Outcome, StoreError> {
        let (reply, outcome) = channel();
        let is_large = request.upload.as_ref().is_some_and(|upload| {
            upload.is_final && (upload.chunk > 0 || upload.payload.len() >= LARGE_BYTES)
        });
        let request = request.encode();
        let asked = Instant::now();
        self.jobs
            .send(Job::Turn { request, asker: asker.clone(), now_ms, asked, is_large, reply })
            .map_err(|_| gone())?;
        outcome.recv().map_err(|_| broken_off())?
    }

    /// Enters what an answer brings; returns when it is on disk.
    pub(super) fn post(&self, posting: Posting) -> Result<(), StoreError> {
        let (reply, outcome) = channel();
        self.jobs.send(Job::Post { posting, reply }).map_err(|_| gone())?;
        outcome.recv().map_err(|_| broken_off())?
    }

    /// Folds what other processes wrote.
    pub(super) fn fold(&self) -> Result<(), StoreError> {
        let (reply, outcome) = channel();
        self.jobs.send(Job::Fold { reply }).map_err(|_| gone())?;
        outcome.recv().map_err(|_| broken_off())?
    }
}

fn gone() -> StoreError {
    StoreError::Failed("the writer of the database has stopped; restart the server".to_owned())
}

fn broken_off() -> StoreError {
    StoreError::Failed("the turn was broken off by a mistake in the server; its log has more".to_owned())
}

/// Opens the file again. While that fails, turns fail; `None` once nobody is there to ask for any.
fn reopen(located: &Located, queue: &Receiver<Job>) -> Option<Wrapped> {
    loop {
        match open(located) {
            Ok(file) => return Some(file),
            Err(error) => queue.recv().ok()?.fail(error),
        }
    }
}

fn open(located: &Located) -> Result<Wrapped, StoreError> {
    let mut file = Wrapped::open(located)?;
    file.replica.create()?;
    file.prepare_policies()?;
    file.replica.transact(|replica| {
        let db = replica.connection();
        db.execute(CREATE)?;
        db.execute(ledger::CREATE)?;
        ledger::prepare(&db)?;
        standing::add_user(&db)?;
        replica.give_ordinals()?;
        if replica.state_number("epoch")?.is_none() {
            replica.set_state_number("epoch", replica.now())?;
        }
        Ok(())
    })?;
    file.replica.own_connection(ForeignKeys::Enforced);
    file.set_impatient()?;
    Ok(file)
}

fn run(mut file: Wrapped, queue: &Receiver<Job>, feed: &Feed) {
    let _open = file.shelf.open();
    let mut large = VecDeque::new();
    while let Some(small) = next_group(queue, &mut large) {
        if !small.is_empty() {
            take_group(&mut file, feed, small);
        }
        if let Some(job) = large.pop_front() {
            take_group(&mut file, feed, vec![job]);
        }
    }
}

/// The small turns that wait, once there is anything to do; large uploads go to those that have their turn one by one.
/// `None` once nobody is there to ask.
fn next_group(queue: &Receiver<Job>, large: &mut VecDeque<Job>) -> Option<Vec<Job>> {
    let first = if large.is_empty() { Some(queue.recv().ok()?) } else { None };
    let mut small = Vec::new();
    for job in first.into_iter().chain(queue.try_iter()) {
        if job.is_large() {
            large.push_back(job);
        } else {
            small.push(job);
        }
        if small.len() >= GROUP_TURNS_MAX {
            break;
        }
    }
    Some(small)
}

/// Takes turns in one transaction, and answers them.
fn take_group(file: &mut Wrapped, feed: &Feed, jobs: Vec<Job>) {
    let Wrapped { replica, law, watch, .. } = file;
    let begun = Instant::now();
    for job in &jobs {
        if let Job::Turn { asked, .. } = job {
            METRICS.queue_wait(begun.duration_since(*asked));
        }
    }
    let mut outcomes = Vec::with_capacity(jobs.len());
    if let Err(error) = watch.put_in_place(replica, law) {
        // Users are not answered until it works.
        tracing::warn!(%error, "what policies read cannot be watched");
    }
    let mut news = Unsaid { newest: feed.newest(), versions: Vec::new() };
    let mut is_again = false;
    let committed = replica.outlasting_rollbacks(|replica| {
        if std::mem::replace(&mut is_again, true) {
            law.forget();
        }
        outcomes.clear();
        news = Unsaid { newest: feed.newest(), versions: Vec::new() };
        replica.with_apply_settings(|replica| {
            replica.transact(|replica| {
                standing::fold(replica)?;
                ledger::stamp(replica)?;
                news.note(replica, None)?;
                for job in &jobs {
                    outcomes.push(match job {
                        Job::Turn { request, asker, now_ms, .. } => {
                            let (site, outcome) = take(replica, law, request, asker, *now_ms);
                            ledger::stamp(replica)?;
                            news.note(replica, site)?;
                            Some(outcome)
                        }
                        Job::Fold { .. } => None,
                        Job::Post { posting, .. } => {
                            ledger::post(replica, posting)?;
                            None
                        }
                        #[cfg(test)]
                        Job::Panic => panic!("as the test wants"),
                    });
                    // What follows would stand in no transaction.
                    replica.require_transaction()?;
                }
                Ok(())
            })
        })
    });
    METRICS.applied(begun.elapsed());
    if committed.is_ok() {
        news.versions.into_iter().for_each(|(site, version)| feed.tell(site, version));
    } else {
        law.forget();
    }
    reply(jobs, outcomes, committed.err().as_ref());
}

/// Versions of a transaction that is not on disk yet, and who brought them.
struct Unsaid {
    newest: u64,
    versions: Vec<(Option<SiteId>, u64)>,
}

impl Unsaid {
    fn note(&mut self, replica: &Replica, site: Option<SiteId>) -> Result<(), Error> {
        let version = replica.version()?;
        if version > self.newest {
            self.newest = version;
            // What the server did itself, the site has not heard of either.
            let site = site.filter(|_| !standing::is_own(&replica.connection(), version).unwrap_or(false));
            self.versions.push((site, version));
        }
        Ok(())
    }
}

/// Takes a turn, and says whose it was.
fn take(
    replica: &mut Replica,
    law: &mut Law,
    request: &[u8],
    asker: &Asker,
    now_ms: u64,
) -> (Option<SiteId>, Result<Outcome, StoreError>) {
    match Request::decode(request) {
        Ok(request) => (Some(request.site), turn::turn(replica, law, &request, asker, now_ms)),
        Err(error) => (None, Err(StoreError::Failed(error.to_string()))),
    }
}

fn reply(jobs: Vec<Job>, outcomes: Vec<Option<Result<Outcome, StoreError>>>, failure: Option<&Error>) {
    let mut outcomes = outcomes.into_iter();
    for job in jobs {
        let outcome = outcomes.next().flatten();
        if let Some(error) = failure {
            let text = format!("nothing was stored: {error}");
            job.fail(if error.can_retry() { StoreError::Busy(text) } else { StoreError::Failed(text) });
            continue;
        }
        // Whoever has stopped waiting for the answer asks again.
        match job {
            Job::Turn { reply, .. } => drop(reply.send(outcome.unwrap_or_else(|| Err(gone())))),
            Job::Fold { reply } | Job::Post { reply, .. } => drop(reply.send(Ok(()))),
            #[cfg(test)]
            Job::Panic => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_turns_go_between_large_uploads() {
        let (jobs, queue) = channel();
        let asker =
            Asker { rights: crate::store::Rights { read: true, write: true, schema: true }, user: None };
        let ask = |now_ms, is_large| {
            let (reply, _) = channel();
            let (asker, asked) = (asker.clone(), Instant::now());
            jobs.send(Job::Turn { request: Vec::new(), asker, now_ms, asked, is_large, reply }).unwrap();
        };
        let numbers = |group: Vec<Job>| -> Vec<u64> {
            let number = |job: &Job| match job {
                Job::Turn { now_ms, .. } => *now_ms,
                Job::Fold { .. } | Job::Post { .. } | Job::Panic => 0,
            };
            group.iter().map(number).collect()
        };
        let mut large = VecDeque::new();
        ask(1, true);
        ask(2, true);
        ask(3, false);
        assert_eq!(numbers(next_group(&queue, &mut large).unwrap()), [3]);
        assert_eq!(large.pop_front().map(|job| numbers(vec![job])), Some(vec![1]));
        // While the first large one was taken, others came.
        (4..6).for_each(|number| ask(number, false));
        assert_eq!(numbers(next_group(&queue, &mut large).unwrap()), [4, 5]);
        assert_eq!(large.pop_front().map(|job| numbers(vec![job])), Some(vec![2]));
        drop(jobs);
        assert!(next_group(&queue, &mut large).is_none());
    }

    #[test]
    fn a_panic_costs_one_group_of_turns_only() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(&Located::here(&folder.path().join("store.db")), Arc::default()).unwrap();
        writer.fold().unwrap();
        writer.jobs.send(Job::Panic).unwrap();
        // This one may have been in the panic's group.
        let _ = writer.fold();
        writer.fold().unwrap();
    }
    #[test]
    fn a_file_that_cannot_be_opened_again_costs_turns_only_while_it_lasts() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let writer = Writer::start(&Located::here(&folder.join("store.db")), Arc::default()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        writer.jobs.send(Job::Panic).unwrap();
        // The first may have been in the panic's group.
        assert!(writer.fold().is_err() && writer.fold().is_err());
        std::fs::create_dir(&folder).unwrap();
        while writer.fold().is_err() {}
    }
}
