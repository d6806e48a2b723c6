//! The thread that holds the connection on which the server tells what is new.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::auto::engine::{Engine, Target};
use crate::auto::pace::Backoff;
use crate::net::{Events, NotListening};

/// First and last bound of the pauses between two tries.
const PAUSE_MS: (u64, u64) = (500, 60_000);
/// Longest pause where the server has no events, or does not take the key.
const REFUSED_PAUSE: Duration = Duration::from_secs(300);
/// A connection that lived for so long is none that fails at once.
const GOOD_AFTER: Duration = Duration::from_secs(10);

pub(super) fn start(engine: Arc<Engine>) -> io::Result<()> {
    thread::Builder::new().name("cloudsync-event".to_owned()).spawn(move || run(&engine)).map(drop)
}

fn run(engine: &Engine) {
    let (mut backoff, mut tried) = (Backoff::default(), None);
    while let Some((target, number)) = next_target(engine) {
        if tried != Some(number) {
            (backoff, tried) = (Backoff::default(), Some(number));
        }
        let begun = Instant::now();
        let outcome = listen(engine, &target, number);
        engine.say(|shared| {
            if shared.targets == number {
                shared.end_listening();
            }
        });
        if begun.elapsed() > GOOD_AFTER {
            backoff.reset();
        }
        let pause = match outcome {
            Err(NotListening::Refused) => REFUSED_PAUSE,
            Ok(()) | Err(NotListening::Lost) => {
                backoff.pause(PAUSE_MS.0, PAUSE_MS.1, RandomState::new().hash_one(begun))
            }
        };
        // A new target is tried at once.
        engine.wait(Some(Instant::now() + pause), |shared| {
            (shared.stop || shared.targets != number).then_some(())
        });
    }
}

/// Waits until there is something to listen to; `None` at the end.
fn next_target(engine: &Engine) -> Option<(Target, u64)> {
    engine.wait(None, |shared| match (&shared.target, shared.stop) {
        (_, true) => Some(None),
        (Some(target), false) => Some(Some((target.clone(), shared.targets))),
        (None, false) => None,
    })?
}

/// Listens until the connection ends.
fn listen(engine: &Engine, target: &Target, number: u64) -> Result<(), NotListening> {
    // The same error stops the turns, which say it.
    let mut events = Events::new(&target.address, &target.secret, target.authority.as_deref())
        .map_err(|_| NotListening::Refused)?;
    let stop = events.stopper();
    let goes_on = engine.say(|shared| {
        let goes_on = !shared.stop && shared.targets == number;
        if goes_on {
            shared.event_stop = Some(stop);
        }
        goes_on
    });
    if !goes_on {
        return Ok(());
    }
    events.open(&target.site, target.cursor)?;
    engine.say(|shared| {
        if shared.targets == number {
            shared.listening = true;
            // The way to the server is open: whoever sleeps because it was not shall try again.
            shared.calls += 1;
        }
    });
    while let Some(version) = events.next() {
        let goes_on = engine.say(|shared| {
            if let Some(version) = version
                && shared.targets == number
            {
                shared.told = shared.told.max(version);
                shared.calls += 1;
            }
            !shared.stop && shared.targets == number
        });
        if !goes_on {
            break;
        }
    }
    Ok(())
}
