//! Looking through all rows: is everything there that should be, and nothing else?
//!
//! Done after a power cut, and when the engine does not open. Damaged files may make the engine panic,
//! hang or ask for all memory, so a child process does it, with limits on its time and memory.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{
    digest,
    engine::Engine,
    home::{Options, Step},
    manifest::Manifest,
    open::replay,
};

/// The hidden first argument of the child process.
const ARGUMENT: &str = "verify-store";
/// Beyond this much memory something is wrong: the rows are walked one by one.
const MEMORY: u64 = 1 << 30;
/// The longest time without a sign of life.
const SILENCE: Duration = Duration::from_secs(120);

/// What the child process does, if this is one: call it first thing in `main`.
pub fn child() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    (arguments.next()? == ARGUMENT).then(|| child_with(arguments))
}

/// The same with the arguments after the hidden one.
pub fn child_with(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let folder = arguments.next().unwrap_or_default();
    let cache = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(8 << 20);
    // Should memory run out nevertheless, this process goes first.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let say = |text: &str| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    };
    let options = Options { cache, ..Options::new(folder) };
    match check(&options, &mut |done| say(&format!("at {done}"))) {
        Ok(()) => {
            say("right");
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(&format!("wrong {}", why.replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}

/// Looks through the store as `options.verifier` says; an error is what is wrong.
pub(super) fn verify(options: &Options, manifest: &Manifest) -> Result<(), String> {
    let total = manifest.digests.values().map(|digest| digest.rows).sum();
    let mut step = options.progress.begin("looking through the store after a crash", total);
    match options.verifier.command() {
        Some(command) => in_child(command, options, &mut step),
        None => in_thread(options, &mut step),
    }
}

/// Opens the engine, brings it up to date with the journal, and compares what it holds.
fn check(options: &Options, seen: &mut dyn FnMut(u64)) -> Result<(), String> {
    let manifest = Manifest::read(&options.folder).map_err(|error| error.to_string())?;
    let manifest = manifest.ok_or("there is no manifest")?;
    let engine = Engine::open(&manifest.generation(&options.folder), options.cache).map_err(|error| error.0)?;
    let mut reached = manifest.reached();
    let findings = replay(&engine, &options.journal(), &mut reached, u64::MAX).map_err(|error| error.0)?;
    // A damaged journal is the parent's to report; here it counts what comes before the damage.
    drop(findings);
    let found = engine.digests(seen).map_err(|error| error.0)?;
    // What the engine still holds in memory is dropped with this process; the parent replays it.
    digest::difference(&reached.digests, &found).map_or(Ok(()), Err)
}

fn in_thread(options: &Options, step: &mut Step<'_>) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    let options = options.clone();
    let run = move || {
        let result = catch_unwind(AssertUnwindSafe(|| check(&options, &mut |done| drop(tell.send(Ok(done))))));
        let _ = tell.send(Err(result.unwrap_or_else(|_| Err("the engine panicked".into()))));
    };
    thread::Builder::new().name("verify".into()).spawn(run).map_err(|error| error.to_string())?;
    loop {
        match told.recv_timeout(SILENCE) {
            Ok(Ok(done)) => step.at(done),
            Ok(Err(result)) => return result,
            Err(_) => return Err("the engine hangs".into()),
        }
    }
}

fn in_child(mut command: Command, options: &Options, step: &mut Step<'_>) -> Result<(), String> {
    command.arg(ARGUMENT).arg(&options.folder).arg(options.cache.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("the verifier cannot be started: {error}"))?;
    let Some(out) = child.stdout.take() else { return Err("the verifier says nothing".into()) };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        // Bounded by what the child may say: one line per some thousand rows.
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let mut heard = Instant::now();
    let verdict = loop {
        match told.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => {
                heard = Instant::now();
                match line.split_once(' ') {
                    Some(("at", done)) => step.at(done.parse().unwrap_or(0)),
                    Some(("wrong", why)) => break Err(why.to_owned()),
                    _ if line == "right" => break Ok(()),
                    _ => {}
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break Err("the engine could not bear to look at it".into()),
            Err(mpsc::RecvTimeoutError::Timeout) if heard.elapsed() > SILENCE => break Err("the engine hangs".into()),
            Err(mpsc::RecvTimeoutError::Timeout) if memory(&child) > MEMORY => {
                break Err("the engine asks for too much memory".into());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    };
    // What it has to say is said. Its files are to be let go before they are opened here.
    let _ = child.kill();
    let _ = child.wait();
    verdict
}

/// The bytes that a process holds; 0 where nobody says.
fn memory(child: &Child) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}
