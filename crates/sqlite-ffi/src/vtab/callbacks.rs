//! The C functions behind a table.
//!
//! SQLite hands the table's own data to `connect`, so a table knows its library without a slot of a trampoline. What
//! SQLite and we both write is reached through raw pointers field by field: a cursor's own SQL may come back into the
//! same table while it runs, so no reference to a whole struct may exist.

use std::any::Any;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, addr_of, addr_of_mut};

use crate::api::{Api, terminated};
use crate::bindings::{
    self, sqlite3, sqlite3_context, sqlite3_index_info, sqlite3_module, sqlite3_value, sqlite3_vtab,
    sqlite3_vtab_cursor,
};
use crate::connection::Connection;
use crate::function::{Args, FunctionError, FunctionFlags};
use crate::trampoline::panic_text;
use crate::vtab::{Plan, Query, Sink, TableCursor, TableFunction, array};
use std::marker::PhantomData;

/// A table's data; freed by [`destroy`], after everything that was made from it.
pub(super) struct Registered<T> {
    pub(super) table: T,
    pub(super) flags: FunctionFlags,
    pub(super) api: Api,
}

/// A connected table. SQLite knows the first field only.
#[repr(C)]
struct Connected<T> {
    base: sqlite3_vtab,
    registered: *const Registered<T>,
    connection: Connection,
}

/// An open cursor. SQLite knows the first field only.
#[repr(C)]
struct Opened<C> {
    base: sqlite3_vtab_cursor,
    state: C,
}

struct Module<T>(PhantomData<T>);

impl<T: TableFunction> Module<T> {
    const CALLBACKS: sqlite3_module = sqlite3_module {
        version: 1,
        // Without it the table cannot be created, and is there under the name of its module.
        create: None,
        connect: Some(connect::<T>),
        best_index: Some(best_index::<T>),
        disconnect: Some(disconnect::<T>),
        destroy: Some(disconnect::<T>),
        open: Some(open::<T>),
        close: Some(close::<T>),
        filter: Some(filter::<T>),
        next: Some(next::<T>),
        eof: Some(eof::<T>),
        column: Some(column::<T>),
        rowid: Some(rowid::<T>),
        unused: [None; 7],
    };
}

/// Gives the callbacks, which live as long as the program.
pub(super) fn module<T: TableFunction>() -> &'static sqlite3_module {
    &const { Module::<T>::CALLBACKS }
}

/// Frees a table's data.
pub(super) unsafe extern "C" fn destroy<T>(data: *mut c_void) {
    // SAFETY: SQLite calls this once, with the box that `create_table_function` gave away.
    drop_inside(|| drop(unsafe { Box::from_raw(data.cast::<Registered<T>>()) }));
}

unsafe extern "C" fn connect<T: TableFunction>(
    db: *mut sqlite3,
    data: *mut c_void,
    _count: c_int,
    _arguments: *const *const c_char,
    out: *mut *mut sqlite3_vtab,
    message: *mut *mut c_char,
) -> c_int {
    let registered = data.cast::<Registered<T>>().cast_const();
    // SAFETY: SQLite passes the box that `create_table_function` gave away, and keeps it while the module is there.
    let (api, flags) = unsafe { ((*registered).api, (*registered).flags) };
    // SAFETY: SQLite connects a table on an open connection, to the library that the table was registered with. What
    // `Connection::from_raw` demands was promised by whoever registered the table.
    let Some(connection) = (unsafe { Connection::from_raw(db, api) }) else {
        return bindings::SQLITE_MISUSE;
    };
    // SAFETY: the connection is open, the schema terminated; options without further arguments. This is the callback
    // in which both may be called.
    let rc = unsafe {
        let mut rc = call!(api, declare_vtab(db, T::SCHEMA.as_ptr()));
        for (set, option) in [
            (flags.innocuous, bindings::SQLITE_VTAB_INNOCUOUS),
            (flags.direct_only, bindings::SQLITE_VTAB_DIRECTONLY),
        ] {
            if rc == bindings::SQLITE_OK && set {
                rc = call!(api, vtab_config(db, option));
            }
        }
        rc
    };
    if let Err(error) = connection.check(rc) {
        // SAFETY: `message` is SQLite's, which frees the text.
        unsafe { *message = allocate(api, &error.message) };
        return rc;
    }
    let base = sqlite3_vtab { module: ptr::null(), references: 0, error: ptr::null_mut() };
    let connected = Box::new(Connected { base, registered, connection });
    // SAFETY: `out` is SQLite's; the base is the first field of a C struct, so the pointers are the same. SQLite
    // gives it back to `disconnect`.
    unsafe { *out = Box::into_raw(connected).cast() };
    bindings::SQLITE_OK
}

unsafe extern "C" fn disconnect<T: TableFunction>(table: *mut sqlite3_vtab) -> c_int {
    // SAFETY: made by `connect`; SQLite calls this once, after all cursors are closed. A message that it has not
    // taken is ours to free.
    unsafe {
        set_message(table, api_of::<T>(table), None);
        drop(Box::from_raw(table.cast::<Connected<T>>()));
    }
    bindings::SQLITE_OK
}

unsafe extern "C" fn best_index<T: TableFunction>(
    table: *mut sqlite3_vtab,
    info: *mut sqlite3_index_info,
) -> c_int {
    // SAFETY: made by `connect`, whose data SQLite keeps until the table is disconnected.
    let registered = unsafe { &*(*table.cast::<Connected<T>>()).registered };
    let query = Query { info, api: registered.api, _call: PhantomData };
    let plan = match guarded(|| registered.table.plan(&query)) {
        Ok(Some(plan)) => plan,
        Ok(None) => return bindings::SQLITE_CONSTRAINT,
        // SAFETY: the table is connected.
        Err(error) => return unsafe { fail(table, registered.api, &error) },
    };
    // SAFETY: the info is the one of this call.
    match unsafe { answer(info, registered.api, &plan) } {
        Ok(()) => bindings::SQLITE_OK,
        // SAFETY: the table is connected.
        Err(error) => unsafe { fail(table, registered.api, &error) },
    }
}

/// # Safety
/// `info` is what the running xBestIndex was given.
unsafe fn answer(info: *mut sqlite3_index_info, api: Api, plan: &Plan) -> Result<(), FunctionError> {
    // SAFETY: SQLite passes its own, complete struct; there are as many usages as conditions, and the index was checked.
    unsafe {
        let count = usize::try_from((*info).constraint_count).unwrap_or(0);
        for (place, used) in (1..).zip(&plan.uses) {
            if used.constraint >= count {
                return Err(FunctionError::from(
                    "internal error: a plan names a condition that is not there",
                ));
            }
            let usage = (*info).usage.add(used.constraint);
            (*usage).argument = place;
            (*usage).omit = u8::from(used.exact);
        }
        (*info).number = plan.number;
        (*info).text = allocate(api, &plan.text);
        (*info).free_text = 1;
        (*info).order_consumed = c_int::from(plan.ordered);
        (*info).cost = plan.cost;
        (*info).rows = plan.rows;
    }
    Ok(())
}

unsafe extern "C" fn open<T: TableFunction>(
    table: *mut sqlite3_vtab,
    out: *mut *mut sqlite3_vtab_cursor,
) -> c_int {
    let connected = table.cast::<Connected<T>>();
    // SAFETY: made by `connect`, whose data SQLite keeps until the table is disconnected.
    let (registered, connection) = unsafe { (&*(*connected).registered, (*connected).connection) };
    match guarded(|| registered.table.open(connection)) {
        Ok(state) => {
            let base = sqlite3_vtab_cursor { table: ptr::null_mut() };
            // SAFETY: `out` is SQLite's, which fills the base and gives it back to `close`.
            unsafe { *out = Box::into_raw(Box::new(Opened { base, state })).cast() };
            bindings::SQLITE_OK
        }
        // SAFETY: the table is connected.
        Err(error) => unsafe { fail(table, registered.api, &error) },
    }
}

unsafe extern "C" fn close<T: TableFunction>(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: made by `open`; SQLite calls this once, while the connection is still open.
    drop_inside(|| drop(unsafe { Box::from_raw(cursor.cast::<Opened<T::Cursor>>()) }));
    bindings::SQLITE_OK
}

unsafe extern "C" fn filter<T: TableFunction>(
    cursor: *mut sqlite3_vtab_cursor,
    number: c_int,
    _text: *const c_char,
    count: c_int,
    values: *mut *mut sqlite3_value,
) -> c_int {
    // SAFETY: SQLite passes a cursor of `open`, and `count` values that are valid for the time of the call.
    unsafe {
        let api = api_of::<T>((*cursor).table);
        let args = Args::new(array(values.cast_const(), count), api);
        move_cursor::<T>(cursor, |state| state.filter(number, &args))
    }
}

unsafe extern "C" fn next<T: TableFunction>(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite passes a cursor of `open`.
    unsafe { move_cursor::<T>(cursor, TableCursor::next) }
}

/// # Safety
/// `cursor` was made by `open`, and nobody else uses its state: SQLite calls one method of a cursor at a time.
unsafe fn move_cursor<T: TableFunction>(
    cursor: *mut sqlite3_vtab_cursor,
    act: impl FnOnce(&mut T::Cursor) -> Result<(), FunctionError>,
) -> c_int {
    // SAFETY: the caller's promise.
    let (table, state) =
        unsafe { ((*cursor).table, &mut *addr_of_mut!((*cursor.cast::<Opened<T::Cursor>>()).state)) };
    match guarded(|| act(state)) {
        Ok(()) => bindings::SQLITE_OK,
        // SAFETY: the table of an open cursor is connected.
        Err(error) => unsafe { fail(table, api_of::<T>(table), &error) },
    }
}

/// # Safety
/// As for `move_cursor`.
unsafe fn state<'c, T: TableFunction>(cursor: *mut sqlite3_vtab_cursor) -> &'c T::Cursor {
    // SAFETY: the caller's promise.
    unsafe { &*addr_of!((*cursor.cast::<Opened<T::Cursor>>()).state) }
}

unsafe extern "C" fn eof<T: TableFunction>(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite passes a cursor of `open`.
    let state = unsafe { state::<T>(cursor) };
    // There is no way to report here; a panic ends the scan.
    c_int::from(guarded(|| Ok(state.is_at_end())).unwrap_or(true))
}

unsafe extern "C" fn column<T: TableFunction>(
    cursor: *mut sqlite3_vtab_cursor,
    context: *mut sqlite3_context,
    index: c_int,
) -> c_int {
    // SAFETY: SQLite passes a cursor of `open`, whose table is connected.
    let (state, api) = unsafe { (state::<T>(cursor), api_of::<T>((*cursor).table)) };
    let sink = Sink { context, api, _call: PhantomData };
    let outcome = guarded(|| match usize::try_from(index) {
        Ok(index) => state.column(index, sink),
        Err(_) => Ok(()),
    });
    match outcome {
        Ok(()) => bindings::SQLITE_OK,
        Err(error) => {
            let text = terminated(&error.message);
            // SAFETY: the context is live; SQLite copies the terminated text. The code comes second: result_error
            // sets SQLITE_ERROR, and what we return does not count then.
            unsafe {
                call!(api, result_error(context, text.as_ptr().cast::<c_char>(), -1));
                call!(api, result_error_code(context, code_of(&error)));
            }
            code_of(&error)
        }
    }
}

unsafe extern "C" fn rowid<T: TableFunction>(cursor: *mut sqlite3_vtab_cursor, out: *mut i64) -> c_int {
    // SAFETY: SQLite passes a cursor of `open`, whose table is connected.
    let (state, table) = unsafe { (state::<T>(cursor), (*cursor).table) };
    match guarded(|| state.rowid()) {
        Ok(rowid) => {
            // SAFETY: `out` is SQLite's.
            unsafe { *out = rowid };
            bindings::SQLITE_OK
        }
        // SAFETY: the table is connected.
        Err(error) => unsafe { fail(table, api_of::<T>(table), &error) },
    }
}

/// Runs ours, of which no panic may cross into C.
fn guarded<R>(act: impl FnOnce() -> Result<R, FunctionError>) -> Result<R, FunctionError> {
    // Unwind safety: after a failure SQLite only closes the cursor.
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| Err(FunctionError::from(panic_text(panic))))
}

/// Runs a destructor, of which no panic may cross into C.
fn drop_inside(act: impl FnOnce()) {
    let outcome: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(act));
    if let Err(panic) = outcome {
        std::mem::forget(panic);
    }
}

/// # Safety
/// `table` was made by `connect` for the same `T`, and is connected.
unsafe fn api_of<T>(table: *mut sqlite3_vtab) -> Api {
    // SAFETY: the caller's promise.
    unsafe { (*table.cast::<Connected<T>>()).connection.api() }
}

/// Leaves the error's text for SQLite and gives its code.
///
/// # Safety
/// `table` is connected, and of the library `api`.
unsafe fn fail(table: *mut sqlite3_vtab, api: Api, error: &FunctionError) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { set_message(table, api, Some(&error.message)) };
    code_of(error)
}

/// # Safety
/// As for `fail`.
unsafe fn set_message(table: *mut sqlite3_vtab, api: Api, text: Option<&str>) {
    // SAFETY: the message is null or was allocated by SQLite, and is nobody else's.
    unsafe {
        call!(api, free((*table).error.cast()));
        (*table).error = text.map_or(ptr::null_mut(), |text| allocate(api, text));
    }
}

fn code_of(error: &FunctionError) -> c_int {
    if error.code == bindings::SQLITE_OK { bindings::SQLITE_ERROR } else { error.code }
}

/// Copies a text into memory that SQLite frees; null if there is none left.
fn allocate(api: Api, text: &str) -> *mut c_char {
    let text = terminated(text);
    // SAFETY: the constant format has one %s, and one terminated string follows.
    unsafe { call!(api, mprintf(c"%s".as_ptr(), text.as_ptr().cast::<c_char>())) }
}
