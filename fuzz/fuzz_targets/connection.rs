#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (cloudsync_fuzz::target("connection").unwrap().run)(bytes));
