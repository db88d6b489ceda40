//! The program: reads its arguments and hands over to [`ingle::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // After a crash the store is looked through by this program, started once more.
    ingle::store::verify::child().unwrap_or_else(ingle::cli::run)
}
