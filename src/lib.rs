//! Ingle.
