//! Fuzzes `server_acl` of `tests/bytes/properties.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ingle_fuzz::server_acl(bytes));
