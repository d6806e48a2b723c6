//! Payloads: what a chunk of changes is as bytes (format version 1).
//!
//! A chunk holds rows in *groups*: rows of one table of which one set of columns travels. A group is written by
//! columns (all keys, all clocks, all values of the first column, and so on), each in the smallest of a few forms,
//! so that it is small even before it is compressed. [`Encoder`] gathers rows and writes; [`Opened`] takes the frame
//! off and [`Payload`] reads values where they lie. Any bytes give a payload or a [`PayloadError`], and what reading
//! takes in memory is bounded by the body and by [`limits`](crate::limits) before it is taken.
//!
//! # Frame
//! ```text
//! magic        c5 5c
//! version      1 byte: 1
//! flags        1 byte: 1 = no chunk of this stream follows; other bits are 0
//! method       1 byte: how the body is compressed; 0 = not at all, 1 = reserved for lz4, 2 = zstd
//! versions     2 varints: the first and the last version of the sender that the chunk covers, 0 if none
//! body length  varint: bytes of the body before compression, at most CHUNK_BYTES_MAX
//! body         compressed, up to the checksum
//! checksum     8 bytes, little-endian: XXH3-64 (seed 0) of everything before
//! ```
//! A *varint* is an unsigned LEB128 of at most 64 bits in its shortest form; a *zigzag* is a signed integer `n` as the
//! varint of `(n << 1) ^ (n >> 63)`. Sums and differences of integers wrap around at 64 bits.
//!
//! # Body
//! ```text
//! sites        varint count (at most CHUNK_SITES_MAX), 16 bytes each
//! names        varint count (at most CHUNK_COLUMNS_MAX); each a varint length (1 to NAME_BYTES_MAX) and UTF-8; all differ
//! groups       varint count (at most CHUNK_GROUPS_MAX), then each group:
//!   table        varint: index into the names
//!   flags        1 byte: 1 = whole: the rows carry every cell that the sender knows; 2 = boundaries follow; 4 = writes
//!                follow; 8 = deletions follow: the rows are dead; 16 = concurrent: their authors had not seen what
//!                the receiver wrote there; 32 = evicted, which stands alone; 64 = inserted: the sender inserted the
//!                rows, knowing nothing of them; other bits are 0. 2 stands without 4 and 8, 8 with 1, and 64 with 1
//!                and without 2, 4 and 8. Of an evicted group only rows and keys follow: rows that the receiver may no
//!                longer hold. They go before any row of the chunk comes, and only a server says so to a device
//!   columns      varint count (at most COLUMNS_MAX), for each a varint index into the names; all differ
//!   rows         varint count, at least 1
//!   keys         strings, one for each row: the packed key, 1 to KEY_BYTES_MAX bytes
//!   lives        integers, one for each row: causal length, 1 to LIFE_MAX; even only if whole and without columns, and
//!                without boundaries; with deletions always even
//!   times        integers, one for each row: time of the row's clock, 1 to TIME_MAX
//!   sites        integers, one for each row: site of the row's clock, an index into the sites
//!   exceptions   varint count of cells with another clock; four lists of integers, one for each of those cells:
//!                row, column (an index into the group's columns), time minus that of the row's clock, site;
//!                ascending by row, then column
//!   marks        if flagged: of boundaries, then of writes, then of deletions, for each row two lists of integers: time
//!                minus that of the row's clock, site; for deletions first of the write that each has seen, then its own
//!   values       a column for each of the columns
//! ```
//! ```text
//! pieces       nothing; or a varint count (1 to CHUNK_PIECES_MAX), for each: set 16 bytes, varint: where it begins in
//!              the set, varint length (at least 1), bytes
//! ```
//! Nothing follows the pieces. All groups together have at most CHUNK_ROWS_MAX rows, CHUNK_COLUMNS_MAX columns,
//! CHUNK_CELLS_MAX cells (rows times columns) and CHUNK_EXCEPTIONS_MAX exceptions.
//!
//! # Integers
//! A list of `n` integers, `n` being known; nothing at all if `n` is 0. A mode byte, then:
//!
//! | mode | form | content |
//! | --- | --- | --- |
//! | 0 | constant | zigzag: the value of all |
//! | 1 | linear | zigzags `a`, `d`: value `i` is `a + i * d` |
//! | 2 | as they are | `n` zigzags |
//! | 3 | differences | `n` zigzags: each value minus the one before; the first minus 0 |
//! | 4 | packed | byte: bits `b`; zigzag: base; then each value minus base in `b` bits |
//!
//! Packed with `b` = 1, 2 or 4: several to a byte, the first in the lowest bits, `ceil(n * b / 8)` bytes. With `b` =
//! 8, 16, ... 64: byte planes, `n` bytes with the lowest byte of each value, then `n` bytes with the next, and so on.
//!
//! # Strings
//! A list of `n` byte strings; nothing at all if `n` is 0. A mode byte, then:
//!
//! | mode | form | content |
//! | --- | --- | --- |
//! | 0 | plain | integers: the lengths; then all the bytes |
//! | 1 | constant | varint length, bytes: the value of all |
//! | 2 | planes | varint: width `w`, 1 to 64; `w` planes |
//! | 3 | UUIDs | 16 planes: the bytes of UUIDs, which stand for their lower-case text of 36 bytes. Not for keys |
//! | 4 | dictionary | varint: number of entries, at most `n`; strings: the entries, themselves without dictionary; integers: `n` indexes of entries. For values only |
//! | 5 | integer keys | integers: each stands for the packed key that is this integer alone. For keys only |
//! | 6 | numbered | prefix and suffix, each a varint length and bytes; integers, none negative: each stands for the prefix, its decimal digits, and the suffix. All such strings of a chunk have at most CHUNK_BYTES_MAX bytes |
//!
//! A *plane* holds one byte of each string. A mode byte, then: 0 = one byte, that of all; 1 = `n` bytes; 2 = `n` bytes,
//! each the difference (modulo 256) to the one before, the first to 0. Of `w` planes at least a quarter, rounded up,
//! have mode 1 or 2.
//!
//! # Columns
//! A column of values, one for each row. A mode byte, then:
//!
//! | mode | content |
//! | --- | --- |
//! | 0 | nothing: all are NULL |
//! | 1, 2, 3, 4 | all are integers, reals, texts, blobs: a list of them |
//! | 5, 6, 7, 8 | the same with NULLs: a bitmap of `ceil(rows / 8)` bytes, the first row in the lowest bit, 1 = NULL, the bits beyond the rows 0; then a list of the others, of which there is one at least |
//! | 9 | for each row a byte: its kind (0 NULL, 1 integer, 2 real, 3 text, 4 blob, 5 reference); then a list for each kind, ascending |
//!
//! Integers are a list as above; texts and blobs are strings. A list of reals is a mode byte, then: 0 = integers whose
//! 64 bits are those of the IEEE 754 binary64 values; 1 = byte: exponent `e`, 0 to 9; integers, each of which stands for
//! the binary64 nearest to it, divided by `10^e` in binary64. Writers use 1 only where that gives every value back bit
//! for bit.
//!
//! # Pieces
//! A row that is too large for a chunk travels with references in the place of its large values. The bytes of these
//! values, one after the other, are a *set*, named by their XXH3-128 (seed 0, big-endian). Pieces of it, which neither
//! overlap nor leave gaps, travel before the row, in the same chunk or in chunks before. A reference is a string: a byte
//! (3 text, 4 blob), the set (16 bytes), and three varints: bytes of the set (at most SET_BYTES_MAX), where the value
//! begins in it, and its length, at least 1. The references of one row name one set. Whoever puts a value together
//! checks that all pieces are there, and that the set has its name.
//!
//! # Example
//! One update, of the column `body` of the table `notes` (`tests/vectors/v1-one-update.hex`):
//! ```text
//! c5 5c 01 01 00 0c 0c 4e     frame: version 1, final, stored, versions 12 to 12, a body of 78 bytes
//! 01 a1a1..a1                 1 site
//! 02 05 "notes" 04 "body"     2 names
//! 01                          1 group
//! 00 00 01 01 01              table: name 0; not whole; 1 column: name 1; 1 row
//! 00 00 22 30 018bcf..07      keys: plain, lengths constant 17; a key that is a UUID
//! 00 02                       lives: constant 1
//! 00 d0afabfef962             times: constant 1700000001000
//! 00 00                       sites: constant 0
//! 00                          no exceptions
//! 03 01 08 "buy milk"         column 0: texts, constant
//! 010930ddfd68da2a            checksum
//! ```

use cloudsync_core::bytes::BytesError;

mod column;
mod decode;
mod encode;
mod evicted;
mod frame;
mod ints;
mod marks;
mod pieces;
mod planes;
mod string_list;
mod strings;

pub use decode::{Group, Opened, Payload};
pub use encode::{Encoder, GroupId};
pub use evicted::Evicted;
pub use frame::{Codec, Header, Stored};
pub use pieces::{Piece, Reference, SetHasher, SetId};

/// The newest format version that this code reads, and the one it writes.
pub const FORMAT_VERSION: u8 = 1;

/// Bytes that are no payload that can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The bytes do not begin like a payload.
    #[error("not a cloudsync payload")]
    NotPayload,
    /// A newer version of cloudsync made it.
    #[error(
        "payload format version {0} is newer than this version of cloudsync reads ({FORMAT_VERSION}); update cloudsync here"
    )]
    TooNew(u8),
    /// The bytes are not those that were sealed.
    #[error("the payload is damaged: checksum; fetch or export it again")]
    Checksum,
    /// The payload unfolds to more bytes than a chunk may have.
    #[error("the payload unfolds to {0} bytes, more than a chunk may have; export it in chunks")]
    TooLarge(u64),
    /// Compressed by a method that is unknown here, or damaged before it was sealed.
    #[error("the payload cannot be decompressed (method {0}); update cloudsync here or export it again")]
    Compression(u8),
    /// The checksum fits but the content breaks the format; the cause says where.
    #[error("the payload is malformed: {0}")]
    Malformed(#[from] BytesError),
}

/// The error of content that breaks the format in `what`.
const fn malformed(what: &'static str) -> PayloadError {
    PayloadError::Malformed(BytesError::OutOfBounds(what))
}
