//! What the C side of a virtual table is made of.

use std::ffi::{c_char, c_int, c_uchar, c_void};

use super::{sqlite3, sqlite3_context, sqlite3_value};

pub const SQLITE_VTAB_INNOCUOUS: c_int = 2;
pub const SQLITE_VTAB_DIRECTONLY: c_int = 3;

pub const SQLITE_INDEX_CONSTRAINT_EQ: c_uchar = 2;
pub const SQLITE_INDEX_CONSTRAINT_GT: c_uchar = 4;
pub const SQLITE_INDEX_CONSTRAINT_LE: c_uchar = 8;
pub const SQLITE_INDEX_CONSTRAINT_LT: c_uchar = 16;
pub const SQLITE_INDEX_CONSTRAINT_GE: c_uchar = 32;

/// `xCreate` and `xConnect`.
pub type ConnectFunction = unsafe extern "C" fn(
    *mut sqlite3,
    *mut c_void,
    c_int,
    *const *const c_char,
    *mut *mut sqlite3_vtab,
    *mut *mut c_char,
) -> c_int;
/// `xFilter`.
pub type FilterFunction = unsafe extern "C" fn(
    *mut sqlite3_vtab_cursor,
    c_int,
    *const c_char,
    c_int,
    *mut *mut sqlite3_value,
) -> c_int;

/// The callbacks of a virtual table. SQLite reads as many of them as `version` says; after those of version 1 come
/// only ones that we do not have, so the struct ends there.
#[repr(C)]
pub struct sqlite3_module {
    pub version: c_int,
    pub create: Option<ConnectFunction>,
    pub connect: Option<ConnectFunction>,
    pub best_index: Option<unsafe extern "C" fn(*mut sqlite3_vtab, *mut sqlite3_index_info) -> c_int>,
    pub disconnect: Option<unsafe extern "C" fn(*mut sqlite3_vtab) -> c_int>,
    pub destroy: Option<unsafe extern "C" fn(*mut sqlite3_vtab) -> c_int>,
    pub open: Option<unsafe extern "C" fn(*mut sqlite3_vtab, *mut *mut sqlite3_vtab_cursor) -> c_int>,
    pub close: Option<unsafe extern "C" fn(*mut sqlite3_vtab_cursor) -> c_int>,
    pub filter: Option<FilterFunction>,
    pub next: Option<unsafe extern "C" fn(*mut sqlite3_vtab_cursor) -> c_int>,
    pub eof: Option<unsafe extern "C" fn(*mut sqlite3_vtab_cursor) -> c_int>,
    pub column: Option<unsafe extern "C" fn(*mut sqlite3_vtab_cursor, *mut sqlite3_context, c_int) -> c_int>,
    pub rowid: Option<unsafe extern "C" fn(*mut sqlite3_vtab_cursor, *mut i64) -> c_int>,
    /// `xUpdate`, `xBegin`, `xSync`, `xCommit`, `xRollback`, `xFindFunction`, `xRename`: none in a table that is only
    /// read and that nobody creates.
    pub unused: [Option<unsafe extern "C" fn()>; 7],
}

/// The part of a connected table that SQLite reads and writes; ours follows it.
#[repr(C)]
pub struct sqlite3_vtab {
    pub module: *const sqlite3_module,
    pub references: c_int,
    pub error: *mut c_char,
}

/// The part of a cursor that SQLite reads; ours follows it.
#[repr(C)]
pub struct sqlite3_vtab_cursor {
    pub table: *mut sqlite3_vtab,
}

#[repr(C)]
pub struct sqlite3_index_constraint {
    pub column: c_int,
    pub operator: c_uchar,
    pub usable: c_uchar,
    pub term_offset: c_int,
}

#[repr(C)]
pub struct sqlite3_index_orderby {
    pub column: c_int,
    pub descending: c_uchar,
}

#[repr(C)]
pub struct sqlite3_index_constraint_usage {
    pub argument: c_int,
    pub omit: c_uchar,
}

/// What `xBestIndex` is asked and answers, as of SQLite 3.10.
#[repr(C)]
pub struct sqlite3_index_info {
    pub constraint_count: c_int,
    pub constraints: *const sqlite3_index_constraint,
    pub order_count: c_int,
    pub order: *const sqlite3_index_orderby,
    pub usage: *mut sqlite3_index_constraint_usage,
    pub number: c_int,
    pub text: *mut c_char,
    pub free_text: c_int,
    pub order_consumed: c_int,
    pub cost: f64,
    pub rows: i64,
    pub flags: c_int,
    pub columns_used: u64,
}
