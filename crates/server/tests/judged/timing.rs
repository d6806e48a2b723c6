//! How long a refusal takes tells nothing of rows that its reader may not see.

use crate::evenly::assert_equally_long;
use crate::place::{NOT_ALLOWED, Place};
use cloudsync_server::policy::Verb::{Insert, Select};
use std::time::Duration;

const SAMPLES: usize = 1_000;

/// How long refused insertions take, under a key that is taken and one that is free, in turns.
fn samples(place: &Place, seed: u64) -> (Vec<Duration>, Vec<Duration>) {
    let (mut taken, mut free) = (place.device(seed), place.device(seed + 1));
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        for (device, key, samples) in
            [(&mut taken, "taken", &mut samples.0), (&mut free, "free_", &mut samples.1)]
        {
            device.run(&format!("INSERT INTO notes VALUES('{key}', 'p1', 'x')"));
            let (told, took) = place.timed(device, "eve");
            assert_eq!(told, [(NOT_ALLOWED.to_owned(), None)]);
            samples.push(took);
        }
    }
    samples
}

#[test]
fn a_taken_key_and_a_free_one_take_equally_long() {
    let schema =
        "CREATE TABLE members(project TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY(user, project));
        CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, project TEXT, body TEXT);";
    let place = Place::new(schema);
    // Each look at the members is a scan.
    let member =
        "EXISTS(SELECT 1 FROM members AS m WHERE m.project = notes.project AND m.user = auth_userid())";
    place.set("notes", Select, member);
    place.set("notes", Insert, member);
    place.server.run(
        "INSERT INTO notes VALUES('taken', 'p2', 'secret');
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 500)
         INSERT INTO members SELECT 'p' || n, 'user' || n FROM n",
    );
    assert_equally_long(|attempt| samples(&place, 2 * attempt));
}
