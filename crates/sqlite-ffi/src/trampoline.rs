//! The C functions behind SQL functions.
//!
//! SQLite calls a C function with a context and nothing else, and asking the context for its user data already needs
//! the API table. With several SQLite libraries in the process one static pointer would be wrong, so each library gets
//! a slot when it registers its first function, and each slot has its own C function that knows its library.

use std::any::Any;
use std::ffi::{c_char, c_int, c_uchar, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::api::Api;
use crate::bindings::{self, ScalarFunction, Sqlite3ApiRoutines, sqlite3_context, sqlite3_value};
use crate::function::{Args, Context, Function, FunctionError, Output};

/// A function's user data; freed by [`destroy`].
pub(crate) struct Registered {
    pub(crate) function: Box<Function>,
}

/// Runs a call for the library in `SLOT`.
unsafe extern "C" fn in_slot<const SLOT: usize>(
    context: *mut sqlite3_context,
    count: c_int,
    values: *mut *mut sqlite3_value,
) {
    let table = SLOTS[SLOT].load(Ordering::Acquire);
    // SAFETY: the slot was filled with a checked table before SQLite learnt of this function; the arguments are
    // SQLite's own.
    unsafe {
        if let Some(api) = Api::from_slot(table) {
            invoke(api, context, count, values);
        }
    }
}

/// # Safety
/// Called by SQLite, of the library `api`, for a function that `create_boxed` registered.
unsafe fn invoke(api: Api, raw: *mut sqlite3_context, count: c_int, values: *mut *mut sqlite3_value) {
    // SAFETY: the user data is the box made by `create_boxed`, which SQLite keeps while the function can be called.
    let registered = unsafe { &*call!(api, user_data(raw)).cast::<Registered>() };
    let values = match usize::try_from(count) {
        // SAFETY: SQLite passes `count` arguments, valid for the time of the call.
        Ok(count) if count > 0 => unsafe { slice::from_raw_parts(values, count) },
        _ => &[],
    };
    // Unwind safety: the closure's own state is its own affair; ours is untouched by a panic.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let context = Context::new(raw, api);
        (registered.function)(&context, &Args::new(values, api))
    }));
    let outcome = outcome.unwrap_or_else(|panic| Err(FunctionError::from(panic_text(panic))));
    // SAFETY: the context is live until we return.
    unsafe {
        match outcome {
            Ok(output) => set_output(api, raw, &output),
            Err(error) => set_error(api, raw, &error),
        }
    }
}

/// # Safety
/// `raw` is the context of a running function of the library `api`.
unsafe fn set_output(api: Api, raw: *mut sqlite3_context, output: &Output) {
    let copy = bindings::SQLITE_TRANSIENT;
    // SAFETY: the context is live; SQLite copies text and bytes before it returns. The 64-bit forms check the limits
    // and report SQLITE_TOOBIG; vectors are never null, so an empty one is no NULL.
    unsafe {
        match output {
            Output::Null => call!(api, result_null(raw)),
            Output::Integer(integer) => call!(api, result_int64(raw, *integer)),
            Output::Real(real) => call!(api, result_double(raw, *real)),
            Output::Text(text) if c_int::try_from(text.len()).is_ok() => {
                let encoding = bindings::SQLITE_UTF8 as c_uchar;
                call!(api, result_text64(raw, text.as_ptr().cast(), text.len() as u64, copy, encoding));
            }
            Output::Blob(blob) if c_int::try_from(blob.len()).is_ok() => {
                call!(api, result_blob64(raw, blob.as_ptr().cast(), blob.len() as u64, copy));
            }
            Output::Text(_) | Output::Blob(_) => call!(api, result_error_toobig(raw)),
        }
    }
}

/// # Safety
/// `raw` is the context of a running function of the library `api`.
unsafe fn set_error(api: Api, raw: *mut sqlite3_context, error: &FunctionError) {
    let code = if error.code == bindings::SQLITE_OK { bindings::SQLITE_ERROR } else { error.code };
    let length = c_int::try_from(error.message.len()).unwrap_or(c_int::MAX);
    // SAFETY: the context is live, SQLite copies `length` bytes. The code comes second: result_error sets SQLITE_ERROR.
    unsafe {
        call!(api, result_error(raw, error.message.as_ptr().cast::<c_char>(), length));
        call!(api, result_error_code(raw, code));
    }
}

/// Gives the text of a caught panic and drops its payload, which may panic itself.
pub(crate) fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a text".to_owned(),
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(second);
    }
    format!("internal error: {text}")
}

/// Frees a function's user data.
pub(crate) unsafe extern "C" fn destroy(data: *mut c_void) {
    // A panic in a captured value's destructor must not cross into C.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: SQLite calls this once, with the pointer that `create_boxed` gave away.
        drop(unsafe { Box::from_raw(data.cast::<Registered>()) });
    }));
    if let Err(panic) = outcome {
        std::mem::forget(panic);
    }
}

const SLOT_COUNT: usize = 16;

/// The libraries that registered functions, in order of their first; filled up, never emptied. Calls do not search
/// here: each trampoline reads its own slot.
static SLOTS: [AtomicPtr<Sqlite3ApiRoutines>; SLOT_COUNT] =
    [const { AtomicPtr::new(ptr::null_mut()) }; SLOT_COUNT];

static TRAMPOLINES: [ScalarFunction; SLOT_COUNT] = [
    in_slot::<0>,
    in_slot::<1>,
    in_slot::<2>,
    in_slot::<3>,
    in_slot::<4>,
    in_slot::<5>,
    in_slot::<6>,
    in_slot::<7>,
    in_slot::<8>,
    in_slot::<9>,
    in_slot::<10>,
    in_slot::<11>,
    in_slot::<12>,
    in_slot::<13>,
    in_slot::<14>,
    in_slot::<15>,
];

/// Gives the C function of a library, taking a free slot at the first time; `None` if all are taken by others.
pub(crate) fn trampoline(api: Api) -> Option<ScalarFunction> {
    let table = api.as_ptr();
    SLOTS.iter().zip(TRAMPOLINES).find_map(|(slot, function)| {
        let taken = slot.compare_exchange(ptr::null_mut(), table, Ordering::AcqRel, Ordering::Acquire);
        match taken {
            Ok(_) => Some(function),
            Err(other) => (other == table).then_some(function),
        }
    })
}
