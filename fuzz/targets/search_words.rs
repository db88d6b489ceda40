//! Fuzzes `search_words` of `tests/bytes/properties.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ingle_fuzz::search_words(bytes));
