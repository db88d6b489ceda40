//! The program: reads its arguments and hands over to [`ingle::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ingle::cli::run()
}
