#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (cloudsync_fuzz::target("filter").unwrap().run)(bytes));
