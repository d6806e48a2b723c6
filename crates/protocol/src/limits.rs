//! Every bound on what may grow or come from outside, in one place.

/// Bytes of the uncompressed body of a payload chunk at which a sender closes it and begins the next.
pub const CHUNK_BYTES_TARGET: usize = 1 << 20;
/// Most bytes of the uncompressed body of a payload, wherever it comes from.
pub const CHUNK_BYTES_MAX: usize = 64 << 20;
/// Most bytes of the uncompressed body of a chunk in a request or answer: a chunk of the target size, and one row more.
pub const TURN_CHUNK_BYTES_MAX: usize = 4 << 20;
/// Bytes of values of one row beyond which its large values travel in pieces before it.
pub const ROW_BYTES_MAX: usize = 512 << 10;
/// Bytes that the values of such a row may take together which do not travel in pieces; each may take its share.
pub const ROW_REST_BYTES_MAX: usize = 256 << 10;
/// Most bytes of the values of one row that travel in pieces; SQLite stores no row that is larger.
pub const SET_BYTES_MAX: u64 = 1 << 31;
/// Most bytes of the large values of one row that a server judges by policies: they are in memory meanwhile.
pub const JUDGED_ROW_BYTES_MAX: u64 = 256 << 20;
/// Most pieces in one chunk.
pub const CHUNK_PIECES_MAX: usize = 64;
/// Most bytes of pieces that a replica keeps for changes in its quarantine. A change that there is no room for is
/// dropped on a device, which counts it, and refused by the server.
pub const HELD_BYTES_MAX: u64 = 4 << 30;
/// How long pieces stay that came by hand without their row, in milliseconds.
pub const PIECES_MS_MAX: u64 = 24 * 3_600_000;
/// Most rows in one chunk.
pub const CHUNK_ROWS_MAX: usize = 1 << 18;
/// Most tables, or groups of rows with one set of columns, in one chunk.
pub const CHUNK_GROUPS_MAX: usize = 1 << 16;
/// Most sites in one chunk.
pub const CHUNK_SITES_MAX: usize = 1 << 16;
/// Most column names in one chunk, and most columns of all its groups together.
pub const CHUNK_COLUMNS_MAX: usize = 1 << 19;
/// Most cells in one chunk: rows times columns over all its groups. A sender that closes its chunks in time never
/// comes near it; it bounds what a receiver unfolds from well-compressed columns.
pub const CHUNK_CELLS_MAX: usize = 1 << 23;
/// Most cells in one chunk whose clock is not that of their row.
pub const CHUNK_EXCEPTIONS_MAX: usize = 1 << 20;
/// Longest table or column name, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;
/// Most bytes of what a replica keeps aside for tables and columns that it does not have yet; beyond it all of it is
/// dropped, and fetched again when they come.
pub const KEPT_BYTES_MAX: u64 = 16 << 20;
/// Most bytes of a request or answer: a chunk and what goes with it.
pub const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + (4 << 20);
/// Most bytes of the place in a download that a server hands out: a key and what goes with it.
pub const POSITION_BYTES_MAX: usize = 128 << 10;
/// Most tables in a schema description.
pub const SCHEMA_TABLES_MAX: usize = 10_000;
/// Most columns, UNIQUE constraints and columns in such constraints, of all tables in a schema description together:
/// each takes some twenty times the memory that it takes in a message.
pub const SCHEMA_COLUMNS_MAX: usize = 1 << 18;
/// Longest text of a type, default or collation in a schema description, in bytes.
pub const SCHEMA_TEXT_BYTES_MAX: usize = 4096;
/// How far ahead of its own clock a replica accepts a change, in milliseconds.
pub const CLOCK_AHEAD_MS_MAX: u64 = 60_000;
/// Longest error text in an answer, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 4096;
/// Chunks after which a device ends a round, at the end of the row that is on its way. The server commits a round at once,
/// and everybody else waits for that.
pub const UPLOAD_CHUNKS_TARGET: u32 = 4;
/// Most chunks of one round, which the server commits together; all but the last are staged on its disk. There is room
/// for a row of any size behind as many chunks as a round has without one.
pub const UPLOAD_CHUNKS_MAX: u32 = 3_072;
/// Most bytes of chunks that a site may leave staged on the server: a round of the most chunks.
pub const STAGED_SITE_BYTES_MAX: u64 = 4 << 30;
/// Most bytes of chunks of all sites that are staged in one database of the server.
pub const STAGED_BYTES_MAX: u64 = 16 << 30;
/// How long after its last chunk an unfinished round may be forgotten by the server, in milliseconds. The device then
/// begins it again.
pub const STAGED_MS_MAX: u64 = 24 * 3_600_000;
/// Most verdicts in one answer; more of them come with the next rounds.
pub const VERDICTS_MAX: usize = 4_096;
/// Most ranges of keys that one request may ask the server to check.
pub const CHECK_RANGES_MAX: usize = 64;
/// Most bytes of the names, keys and digests of such ranges.
pub const CHECK_BYTES_MAX: usize = 1 << 20;
/// Rows after which a device ends a range: what differs in it costs at most so many rows.
pub const RANGE_ROWS_MAX: u64 = 256;
/// Rows that a server looks through for one request; ranges for which none are left are answered another time.
pub const CHECK_ROWS_MAX: u64 = 1 << 15;
/// Bytes of rows that a server, or a device, looks through for one request; the range at which they end is finished.
pub const CHECK_ROW_BYTES_TARGET: usize = 16 << 20;
/// Most steps of SQLite's machine that policies may take for one such request of a user.
pub const CHECK_STEPS_MAX: u64 = 50_000_000;
/// Longest reason of a verdict, in bytes.
pub const VERDICT_REASON_BYTES_MAX: usize = 512;
/// Bytes of tables, keys and reasons in one answer at which its list of verdicts ends.
pub const VERDICT_LIST_BYTES_TARGET: usize = 1 << 20;
/// Largest row that goes with verdicts, and bytes of such rows at which the list of verdicts ends.
pub const VERDICT_ROWS_BYTES_TARGET: usize = 512 << 10;
/// Most bytes of the payload that goes with verdicts: an answer has room for it beside a chunk of any size.
pub const VERDICT_PAYLOAD_BYTES_MAX: usize = 2 << 20;
/// Longest expression of a policy, in bytes.
pub const POLICY_BYTES_MAX: usize = 8 << 10;
/// Most steps of SQLite's machine that the policies of one round may take.
pub const POLICY_STEPS_MAX: u64 = 500_000_000;
