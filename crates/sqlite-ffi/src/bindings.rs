//! The C side as Rust sees it: opaque types, result codes, and the table of functions that SQLite hands to every
//! extension.
//!
//! [`Sqlite3ApiRoutines`] follows `sqlite3ext.h` (public domain) entry by entry up to the last one of SQLite 3.35.
//! Later entries are left out on purpose: in an older library the table ends there, and reading on is undefined.
//! Entries that this crate calls carry a type; the others only hold their place.

// The names and meanings are SQLite's: https://sqlite.org/c3ref/intro.html
#![allow(missing_docs, non_camel_case_types)]

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};
use std::marker::{PhantomData, PhantomPinned};

mod virtual_table;
pub use virtual_table::*;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _bytes: [u8; 0],
            _marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

opaque! {
    /// A database connection; only ever behind a pointer. Cast from and to the same-named type of other crates.
    sqlite3;
    /// A prepared statement.
    sqlite3_stmt;
    /// A value handed to a function.
    sqlite3_value;
    /// One call of a function.
    sqlite3_context;
    /// A value that is read or written in parts.
    sqlite3_blob;
}

/// How long a bound or returned buffer lives: [`SQLITE_STATIC`] or [`SQLITE_TRANSIENT`]. C declares a destructor
/// here; it is a data pointer because -1 is no valid Rust function pointer.
pub type Ownership = *const c_void;
/// The buffer outlives its use.
pub const SQLITE_STATIC: Ownership = std::ptr::null();
/// SQLite copies the buffer before it returns.
pub const SQLITE_TRANSIENT: Ownership = std::ptr::without_provenance(usize::MAX);

/// `xFunc` and `xStep`.
pub type ScalarFunction = unsafe extern "C" fn(*mut sqlite3_context, c_int, *mut *mut sqlite3_value);
/// `xFinal`.
pub type FinalFunction = unsafe extern "C" fn(*mut sqlite3_context);
/// `xDestroy`: frees user data.
pub type DestroyFunction = unsafe extern "C" fn(*mut c_void);

pub const SQLITE_OK: c_int = 0;
pub const SQLITE_ERROR: c_int = 1;
pub const SQLITE_BUSY: c_int = 5;
pub const SQLITE_LOCKED: c_int = 6;
pub const SQLITE_NOMEM: c_int = 7;
pub const SQLITE_READONLY: c_int = 8;
pub const SQLITE_INTERRUPT: c_int = 9;
pub const SQLITE_IOERR: c_int = 10;
pub const SQLITE_CORRUPT: c_int = 11;
pub const SQLITE_NOTFOUND: c_int = 12;
pub const SQLITE_FULL: c_int = 13;
pub const SQLITE_CANTOPEN: c_int = 14;
pub const SQLITE_SCHEMA: c_int = 17;
pub const SQLITE_TOOBIG: c_int = 18;
pub const SQLITE_CONSTRAINT: c_int = 19;
pub const SQLITE_MISMATCH: c_int = 20;
pub const SQLITE_MISUSE: c_int = 21;
pub const SQLITE_AUTH: c_int = 23;
pub const SQLITE_RANGE: c_int = 25;
pub const SQLITE_NOTADB: c_int = 26;
pub const SQLITE_NOTICE: c_int = 27;
pub const SQLITE_WARNING: c_int = 28;
pub const SQLITE_ROW: c_int = 100;
pub const SQLITE_DONE: c_int = 101;
pub const SQLITE_OK_LOAD_PERMANENTLY: c_int = SQLITE_OK | (1 << 8);

pub const SQLITE_CONSTRAINT_CHECK: c_int = SQLITE_CONSTRAINT | (1 << 8);
pub const SQLITE_CONSTRAINT_FOREIGNKEY: c_int = SQLITE_CONSTRAINT | (3 << 8);
pub const SQLITE_CONSTRAINT_NOTNULL: c_int = SQLITE_CONSTRAINT | (5 << 8);
pub const SQLITE_CONSTRAINT_PRIMARYKEY: c_int = SQLITE_CONSTRAINT | (6 << 8);
pub const SQLITE_CONSTRAINT_TRIGGER: c_int = SQLITE_CONSTRAINT | (7 << 8);
pub const SQLITE_CONSTRAINT_UNIQUE: c_int = SQLITE_CONSTRAINT | (8 << 8);
pub const SQLITE_CONSTRAINT_ROWID: c_int = SQLITE_CONSTRAINT | (10 << 8);
pub const SQLITE_CONSTRAINT_DATATYPE: c_int = SQLITE_CONSTRAINT | (12 << 8);

pub const SQLITE_INTEGER: c_int = 1;
pub const SQLITE_FLOAT: c_int = 2;
pub const SQLITE_TEXT: c_int = 3;
pub const SQLITE_BLOB: c_int = 4;

pub const SQLITE_UTF8: c_int = 1;
pub const SQLITE_DETERMINISTIC: c_int = 0x0000_0800;
pub const SQLITE_DIRECTONLY: c_int = 0x0008_0000;
pub const SQLITE_INNOCUOUS: c_int = 0x0020_0000;

pub const SQLITE_OPEN_READWRITE: c_int = 2;
pub const SQLITE_OPEN_NOMUTEX: c_int = 0x0000_8000;
pub const SQLITE_OPEN_PRIVATECACHE: c_int = 0x0004_0000;

pub const SQLITE_PREPARE_PERSISTENT: c_uint = 1;
pub const SQLITE_DBCONFIG_ENABLE_FKEY: c_int = 1002;
pub const SQLITE_DBCONFIG_ENABLE_TRIGGER: c_int = 1003;
pub const SQLITE_LIMIT_LENGTH: c_int = 0;
pub const SQLITE_TXN_READ: c_int = 1;
pub const SQLITE_TXN_WRITE: c_int = 2;

macro_rules! entry_type {
    () => { *const c_void };
    ($function:ty) => { Option<$function> };
}

macro_rules! api_routines {
    ($($name:ident $(: $function:ty)?,)*) => {
        /// `sqlite3_api_routines` of SQLite 3.35.
        #[repr(C)]
        pub struct Sqlite3ApiRoutines {
            $(pub $name: entry_type!($($function)?),)*
        }

        impl Sqlite3ApiRoutines {
            /// Gives the name of an entry that this crate calls and the library leaves empty, if there is one.
            pub(crate) fn first_missing(&self) -> Option<&'static str> {
                $($(
                    let entry: Option<$function> = self.$name;
                    if entry.is_none() {
                        return Some(stringify!($name));
                    }
                )?)*
                None
            }

            /// Counts the entries, used or not.
            #[cfg(test)]
            pub(crate) const ENTRIES: usize = [$(stringify!($name)),*].len();
        }
    };
}

api_routines! {
    aggregate_context,
    aggregate_count,
    bind_blob,
    bind_double: unsafe extern "C" fn(*mut sqlite3_stmt, c_int, f64) -> c_int,
    bind_int,
    bind_int64: unsafe extern "C" fn(*mut sqlite3_stmt, c_int, i64) -> c_int,
    bind_null: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> c_int,
    bind_parameter_count: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    bind_parameter_index,
    bind_parameter_name,
    bind_text,
    bind_text16,
    bind_value,
    busy_handler,
    busy_timeout,
    changes: unsafe extern "C" fn(*mut sqlite3) -> c_int,
    close,
    collation_needed,
    collation_needed16,
    column_blob: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> *const c_void,
    column_bytes: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> c_int,
    column_bytes16,
    column_count: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    column_database_name,
    column_database_name16,
    column_decltype,
    column_decltype16,
    column_double: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> f64,
    column_int,
    column_int64: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> i64,
    column_name: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> *const c_char,
    column_name16,
    column_origin_name,
    column_origin_name16,
    column_table_name,
    column_table_name16,
    column_text: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> *const c_uchar,
    column_text16,
    column_type: unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> c_int,
    column_value,
    commit_hook,
    complete,
    complete16,
    create_collation,
    create_collation16,
    create_function,
    create_function16,
    create_module,
    data_count: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    db_handle,
    declare_vtab: unsafe extern "C" fn(*mut sqlite3, *const c_char) -> c_int,
    enable_shared_cache,
    errcode,
    errmsg: unsafe extern "C" fn(*mut sqlite3) -> *const c_char,
    errmsg16,
    exec,
    expired,
    finalize: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    free: unsafe extern "C" fn(*mut c_void),
    free_table,
    get_autocommit: unsafe extern "C" fn(*mut sqlite3) -> c_int,
    get_auxdata,
    get_table,
    global_recover,
    interruptx: unsafe extern "C" fn(*mut sqlite3),
    last_insert_rowid: unsafe extern "C" fn(*mut sqlite3) -> i64,
    libversion: unsafe extern "C" fn() -> *const c_char,
    libversion_number: unsafe extern "C" fn() -> c_int,
    malloc,
    mprintf: unsafe extern "C" fn(*const c_char, ...) -> *mut c_char,
    open,
    open16,
    prepare,
    prepare16,
    profile,
    progress_handler,
    realloc,
    reset: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    result_blob,
    result_double: unsafe extern "C" fn(*mut sqlite3_context, f64),
    result_error: unsafe extern "C" fn(*mut sqlite3_context, *const c_char, c_int),
    result_error16,
    result_int,
    result_int64: unsafe extern "C" fn(*mut sqlite3_context, i64),
    result_null: unsafe extern "C" fn(*mut sqlite3_context),
    result_text,
    result_text16,
    result_text16be,
    result_text16le,
    result_value,
    rollback_hook,
    set_authorizer,
    set_auxdata,
    xsnprintf,
    step: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    table_column_metadata: unsafe extern "C" fn(*mut sqlite3, *const c_char, *const c_char, *const c_char, *mut *const c_char, *mut *const c_char, *mut c_int, *mut c_int, *mut c_int) -> c_int,
    thread_cleanup,
    total_changes: unsafe extern "C" fn(*mut sqlite3) -> c_int,
    trace,
    transfer_bindings,
    update_hook,
    user_data: unsafe extern "C" fn(*mut sqlite3_context) -> *mut c_void,
    value_blob: unsafe extern "C" fn(*mut sqlite3_value) -> *const c_void,
    value_bytes: unsafe extern "C" fn(*mut sqlite3_value) -> c_int,
    value_bytes16,
    value_double: unsafe extern "C" fn(*mut sqlite3_value) -> f64,
    value_int,
    value_int64: unsafe extern "C" fn(*mut sqlite3_value) -> i64,
    value_numeric_type,
    value_text: unsafe extern "C" fn(*mut sqlite3_value) -> *const c_uchar,
    value_text16,
    value_text16be,
    value_text16le,
    value_type: unsafe extern "C" fn(*mut sqlite3_value) -> c_int,
    vmprintf,
    // Added ???
    overload_function,
    // Added by 3.3.13
    prepare_v2,
    prepare16_v2,
    clear_bindings: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    // Added by 3.4.1
    create_module_v2: unsafe extern "C" fn(*mut sqlite3, *const c_char, *const sqlite3_module, *mut c_void, Option<DestroyFunction>) -> c_int,
    // Added by 3.5.0
    bind_zeroblob,
    blob_bytes: unsafe extern "C" fn(*mut sqlite3_blob) -> c_int,
    blob_close: unsafe extern "C" fn(*mut sqlite3_blob) -> c_int,
    blob_open: unsafe extern "C" fn(*mut sqlite3, *const c_char, *const c_char, *const c_char, i64, c_int, *mut *mut sqlite3_blob) -> c_int,
    blob_read: unsafe extern "C" fn(*mut sqlite3_blob, *mut c_void, c_int, c_int) -> c_int,
    blob_write: unsafe extern "C" fn(*mut sqlite3_blob, *const c_void, c_int, c_int) -> c_int,
    create_collation_v2,
    file_control,
    memory_highwater,
    memory_used,
    mutex_alloc,
    mutex_enter,
    mutex_free,
    mutex_leave,
    mutex_try,
    open_v2: unsafe extern "C" fn(*const c_char, *mut *mut sqlite3, c_int, *const c_char) -> c_int,
    release_memory,
    result_error_nomem,
    result_error_toobig: unsafe extern "C" fn(*mut sqlite3_context),
    sleep,
    soft_heap_limit,
    vfs_find,
    vfs_register,
    vfs_unregister,
    xthreadsafe,
    result_zeroblob,
    result_error_code: unsafe extern "C" fn(*mut sqlite3_context, c_int),
    test_control,
    randomness: unsafe extern "C" fn(c_int, *mut c_void),
    context_db_handle: unsafe extern "C" fn(*mut sqlite3_context) -> *mut sqlite3,
    extended_result_codes,
    limit: unsafe extern "C" fn(*mut sqlite3, c_int, c_int) -> c_int,
    next_stmt,
    sql,
    status,
    backup_finish,
    backup_init,
    backup_pagecount,
    backup_remaining,
    backup_step,
    compileoption_get,
    compileoption_used,
    create_function_v2: unsafe extern "C" fn(*mut sqlite3, *const c_char, c_int, c_int, *mut c_void, Option<ScalarFunction>, Option<ScalarFunction>, Option<FinalFunction>, Option<DestroyFunction>) -> c_int,
    db_config: unsafe extern "C" fn(*mut sqlite3, c_int, ...) -> c_int,
    db_mutex,
    db_status,
    extended_errcode: unsafe extern "C" fn(*mut sqlite3) -> c_int,
    log: unsafe extern "C" fn(c_int, *const c_char, ...),
    soft_heap_limit64,
    sourceid,
    stmt_status,
    strnicmp,
    unlock_notify,
    wal_autocheckpoint,
    wal_checkpoint,
    wal_hook,
    blob_reopen,
    vtab_config: unsafe extern "C" fn(*mut sqlite3, c_int, ...) -> c_int,
    vtab_on_conflict,
    // Version 3.7.16 and later
    close_v2: unsafe extern "C" fn(*mut sqlite3) -> c_int,
    db_filename: unsafe extern "C" fn(*mut sqlite3, *const c_char) -> *const c_char,
    db_readonly: unsafe extern "C" fn(*mut sqlite3, *const c_char) -> c_int,
    db_release_memory,
    errstr: unsafe extern "C" fn(c_int) -> *const c_char,
    stmt_busy,
    stmt_readonly: unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int,
    stricmp,
    uri_boolean,
    uri_int64,
    uri_parameter,
    xvsnprintf,
    wal_checkpoint_v2,
    // Version 3.8.7 and later
    auto_extension,
    bind_blob64: unsafe extern "C" fn(*mut sqlite3_stmt, c_int, *const c_void, u64, Ownership) -> c_int,
    bind_text64: unsafe extern "C" fn(*mut sqlite3_stmt, c_int, *const c_char, u64, Ownership, c_uchar) -> c_int,
    cancel_auto_extension,
    load_extension,
    malloc64,
    msize,
    realloc64,
    reset_auto_extension,
    result_blob64: unsafe extern "C" fn(*mut sqlite3_context, *const c_void, u64, Ownership),
    result_text64: unsafe extern "C" fn(*mut sqlite3_context, *const c_char, u64, Ownership, c_uchar),
    strglob,
    // Version 3.8.11 and later
    value_dup,
    value_free,
    result_zeroblob64,
    bind_zeroblob64: unsafe extern "C" fn(*mut sqlite3_stmt, c_int, u64) -> c_int,
    // Version 3.9.0 and later
    value_subtype,
    result_subtype,
    // Version 3.10.0 and later
    status64,
    strlike,
    db_cacheflush,
    // Version 3.12.0 and later
    system_errno,
    // Version 3.14.0 and later
    trace_v2,
    expanded_sql,
    // Version 3.18.0 and later
    set_last_insert_rowid: unsafe extern "C" fn(*mut sqlite3, i64),
    // Version 3.20.0 and later
    prepare_v3: unsafe extern "C" fn(*mut sqlite3, *const c_char, c_int, c_uint, *mut *mut sqlite3_stmt, *mut *const c_char) -> c_int,
    prepare16_v3,
    bind_pointer,
    result_pointer,
    value_pointer,
    vtab_nochange,
    value_nochange,
    vtab_collation: unsafe extern "C" fn(*mut sqlite3_index_info, c_int) -> *const c_char,
    // Version 3.24.0 and later
    keyword_count,
    keyword_name,
    keyword_check,
    str_new,
    str_finish,
    str_appendf,
    str_vappendf,
    str_append,
    str_appendall,
    str_appendchar,
    str_reset,
    str_errcode,
    str_length,
    str_value,
    // Version 3.25.0 and later
    create_window_function,
    // Version 3.26.0 and later
    normalized_sql,
    // Version 3.28.0 and later
    stmt_isexplain,
    value_frombind,
    // Version 3.30.0 and later
    drop_modules,
    // Version 3.31.0 and later
    hard_heap_limit64,
    uri_key,
    filename_database,
    filename_journal,
    filename_wal,
    // Version 3.32.0 and later
    create_filename,
    free_filename,
    database_file_object,
    // Version 3.34.0 and later
    txn_state: unsafe extern "C" fn(*mut sqlite3, *const c_char) -> c_int,
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};
    use std::sync::atomic::{AtomicPtr, Ordering};

    use rusqlite::ffi;

    use super::*;

    static TABLE: AtomicPtr<Sqlite3ApiRoutines> = AtomicPtr::new(std::ptr::null_mut());

    unsafe extern "C" fn keep(
        _: *mut ffi::sqlite3,
        _: *mut *mut c_char,
        api: *const ffi::sqlite3_api_routines,
    ) -> c_int {
        TABLE.store(api.cast_mut().cast(), Ordering::Release);
        ffi::SQLITE_OK
    }

    macro_rules! assert_entries {
        ($table:expr, $($name:ident = $function:ident,)*) => {$(
            let entry = $table.$name.map_or(std::ptr::null(), |function| function as *const c_void);
            assert_eq!(entry, ffi::$function as *const c_void, stringify!($name));
        )*};
    }

    /// The place of every entry we call, by its address; the first and the last of the table as well.
    #[test]
    fn entries_are_where_the_library_has_them() {
        // SAFETY: a valid entry point.
        assert_eq!(unsafe { ffi::sqlite3_auto_extension(Some(keep)) }, ffi::SQLITE_OK);
        rusqlite::Connection::open_in_memory().unwrap();
        // SAFETY: the bundled library is newer than 3.35, its table is constant.
        let table = unsafe { &*TABLE.load(Ordering::Acquire) };
        assert_eq!(size_of::<Sqlite3ApiRoutines>(), Sqlite3ApiRoutines::ENTRIES * size_of::<usize>());
        assert_eq!(table.first_missing(), None);
        assert_eq!(table.aggregate_context, ffi::sqlite3_aggregate_context as *const c_void);
        unsafe extern "C" {
            // Not among the declarations of the other crate.
            fn sqlite3_close_v2(db: *mut sqlite3) -> c_int;
        }
        let close_v2 = table.close_v2.map_or(std::ptr::null(), |function| function as *const c_void);
        assert_eq!(close_v2, sqlite3_close_v2 as *const c_void);
        assert_entries! { table,
            bind_double = sqlite3_bind_double,
            bind_int64 = sqlite3_bind_int64,
            bind_null = sqlite3_bind_null,
            bind_parameter_count = sqlite3_bind_parameter_count,
            changes = sqlite3_changes,
            open_v2 = sqlite3_open_v2,
            column_blob = sqlite3_column_blob,
            column_bytes = sqlite3_column_bytes,
            column_count = sqlite3_column_count,
            column_double = sqlite3_column_double,
            column_int64 = sqlite3_column_int64,
            column_name = sqlite3_column_name,
            column_text = sqlite3_column_text,
            column_type = sqlite3_column_type,
            data_count = sqlite3_data_count,
            errmsg = sqlite3_errmsg,
            finalize = sqlite3_finalize,
            get_autocommit = sqlite3_get_autocommit,
            interruptx = sqlite3_interrupt,
            last_insert_rowid = sqlite3_last_insert_rowid,
            libversion = sqlite3_libversion,
            libversion_number = sqlite3_libversion_number,
            mprintf = sqlite3_mprintf,
            reset = sqlite3_reset,
            result_double = sqlite3_result_double,
            result_error = sqlite3_result_error,
            result_int64 = sqlite3_result_int64,
            result_null = sqlite3_result_null,
            step = sqlite3_step,
            table_column_metadata = sqlite3_table_column_metadata,
            total_changes = sqlite3_total_changes,
            user_data = sqlite3_user_data,
            value_blob = sqlite3_value_blob,
            value_bytes = sqlite3_value_bytes,
            value_double = sqlite3_value_double,
            value_int64 = sqlite3_value_int64,
            value_text = sqlite3_value_text,
            value_type = sqlite3_value_type,
            clear_bindings = sqlite3_clear_bindings,
            result_error_toobig = sqlite3_result_error_toobig,
            result_error_code = sqlite3_result_error_code,
            randomness = sqlite3_randomness,
            context_db_handle = sqlite3_context_db_handle,
            create_function_v2 = sqlite3_create_function_v2,
            db_config = sqlite3_db_config,
            extended_errcode = sqlite3_extended_errcode,
            log = sqlite3_log,
            db_filename = sqlite3_db_filename,
            db_readonly = sqlite3_db_readonly,
            errstr = sqlite3_errstr,
            stmt_readonly = sqlite3_stmt_readonly,
            bind_blob64 = sqlite3_bind_blob64,
            bind_text64 = sqlite3_bind_text64,
            bind_zeroblob64 = sqlite3_bind_zeroblob64,
            result_blob64 = sqlite3_result_blob64,
            result_text64 = sqlite3_result_text64,
            prepare_v3 = sqlite3_prepare_v3,
            txn_state = sqlite3_txn_state,
            create_module_v2 = sqlite3_create_module_v2,
            declare_vtab = sqlite3_declare_vtab,
            free = sqlite3_free,
            vtab_config = sqlite3_vtab_config,
            vtab_collation = sqlite3_vtab_collation,
            set_last_insert_rowid = sqlite3_set_last_insert_rowid,
        }
    }

    /// Sizes and the places of the last fields, against the library's own header.
    #[test]
    fn structs_of_virtual_tables_are_laid_out_as_in_c() {
        assert_eq!(size_of::<sqlite3_vtab>(), size_of::<ffi::sqlite3_vtab>());
        assert_eq!(size_of::<sqlite3_vtab_cursor>(), size_of::<ffi::sqlite3_vtab_cursor>());
        assert_eq!(size_of::<sqlite3_index_info>(), size_of::<ffi::sqlite3_index_info>());
        assert_eq!(
            offset_of!(sqlite3_index_info, columns_used),
            offset_of!(ffi::sqlite3_index_info, colUsed)
        );
        assert_eq!(offset_of!(sqlite3_index_info, text), offset_of!(ffi::sqlite3_index_info, idxStr));
        assert_eq!(offset_of!(sqlite3_module, rowid), offset_of!(ffi::sqlite3_module, xRowid));
        assert_eq!(size_of::<sqlite3_module>(), offset_of!(ffi::sqlite3_module, xSavepoint));
    }
}
