use cloudsync_protocol::limits::TURN_CHUNK_BYTES_MAX;
use cloudsync_protocol::payload::{Opened, Stored};
use cloudsync_replica::Zstd;

use crate::chunk::Chunk;
use crate::{input, memory};

/// What opening may hold for each byte of an input, of its body, and at least.
const HELD_BYTES_MAX: usize = 64 << 20;

pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    let bytes = input::payload(choices, rest);
    memory::within(HELD_BYTES_MAX, || {
        if let Ok(opened) = Opened::open_within(&bytes, &Zstd, TURN_CHUNK_BYTES_MAX) {
            let _ = opened.payload();
        }
    });
    // Well-compressed columns unfold to more rows than are worth comparing.
    let small = Opened::open_within(&bytes, &Zstd, 1 << 18).is_ok_and(|opened| {
        opened.payload().is_ok_and(|payload| {
            payload.groups().iter().map(|group| group.rows() * (1 + group.columns().len())).sum::<usize>()
                < 20_000
        })
    });
    if !small {
        return;
    }
    let Ok(chunk) = Chunk::decode(&bytes, &Zstd) else { return };
    if has_twins(&chunk) {
        // An encoder knows each site once.
        return;
    }
    let encoded = chunk.encode(&Zstd);
    let again = Chunk::decode(&encoded, &Zstd).unwrap();
    // By text: no number that is none equals itself.
    assert_eq!(format!("{:?}", sorted(&chunk)), format!("{:?}", sorted(&again)));
    assert_eq!(again.encode(&Zstd), encoded, "one form for one chunk");
    assert_eq!(chunk.encode(&Stored), input::unfolded(&encoded));
}

fn has_twins(chunk: &Chunk) -> bool {
    let mut sites: Vec<_> = chunk.sites.iter().map(|site| site.0).collect();
    sites.sort_unstable();
    sites.windows(2).any(|pair| pair[0] == pair[1])
}

/// The chunk with the evicted rows of one table together.
fn sorted(chunk: &Chunk) -> Chunk {
    let mut evicted: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for (table, keys) in &chunk.evicted {
        match evicted.iter_mut().find(|(known, _)| known == table) {
            Some((_, known)) => known.extend(keys.iter().cloned()),
            None => evicted.push((table.clone(), keys.clone())),
        }
    }
    Chunk { evicted, ..chunk.clone() }
}
