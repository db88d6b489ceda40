//! How a homeserver bears a busy evening: many senders, a few waiting clients, over loopback HTTP.
//!
//! `cargo bench --bench load` builds and starts Ingle in a temporary folder; with `--server URL` (and
//! `--pid` for its memory and CPU) the same evening is given to any other homeserver. It prints
//! figures and judges nothing. The client is one thread, so that the server has the other cores.

mod evening;
mod http;
mod process;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Loads a homeserver with messages and prints what it took.
#[derive(Parser)]
#[command(name = "load")]
struct Options {
    /// The homeserver to load, as http://host:port; without it, Ingle is started for the run.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The homeserver's process, for its CPU time and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Register with this secret at the admin API; without it, registration must be open.
    #[arg(long, value_name = "SECRET")]
    registration_shared_secret: Option<String>,
    /// People who send, all of them in all rooms.
    #[arg(long, default_value_t = 8)]
    users: usize,
    #[arg(long, default_value_t = 10)]
    rooms: usize,
    /// Messages on the way at the same time.
    #[arg(long, default_value_t = 16)]
    senders: usize,
    /// Clients that wait for news meanwhile.
    #[arg(long, default_value_t = 4)]
    syncers: usize,
    #[arg(long, default_value_t = 5000)]
    messages: usize,
    /// Passed by cargo to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(options))
}

async fn run(options: Options) -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut started = None;
    let (url, pid) = match &options.server {
        Some(url) => (url.clone(), options.pid),
        None => {
            let ingle = started.insert(process::Ingle::start(folder).await?);
            (ingle.url.clone(), Some(ingle.pid()))
        }
    };
    let server = http::Server::at(&url)?;
    if let Some(ingle) = &started {
        println!("first answer after {:.0} ms", ms(ingle.ready(&server).await?));
    }
    let process = pid.map(process::Process::new);
    let crowd = evening::Crowd {
        users: options.users.max(1),
        rooms: options.rooms.max(1),
        senders: options.senders.max(1),
        syncers: options.syncers.clamp(1, options.users.max(1)),
        messages: options.messages,
    };
    let crowd_text = format!(
        "{} users, {} rooms, {} senders, {} syncers, {} messages",
        crowd.users, crowd.rooms, crowd.senders, crowd.syncers, crowd.messages
    );
    println!("{}: {crowd_text}", evening::software(&server).await);
    if let Some(process) = &process {
        println!("memory before            {} resident", process.memory()?);
    }

    let secret = options.registration_shared_secret.as_deref();
    let people = evening::people(&server, &crowd, secret).await?;
    let rooms = evening::rooms(&server, &crowd, &people).await?;
    let usage = |before: Duration, count: usize| -> Result<String> {
        let Some(process) = &process else { return Ok(String::new()) };
        Ok(format!("   cpu {:.3} ms each", ms(process.cpu()? - before) / count.max(1) as f64))
    };
    let cpu = || process.as_ref().map_or(Ok(Duration::ZERO), process::Process::cpu);

    let before = cpu()?;
    let burst = evening::burst(&server, &crowd, &people, &rooms).await?;
    println!("burst of messages        {:.0} a second{}", burst.per_second, usage(before, crowd.messages)?);
    println!("  send                   {}", Quantiles(burst.send));
    println!("  send to /sync          {}", Quantiles(burst.delivery));
    if burst.missed > 0 {
        println!("  not seen by /sync      {}", burst.missed);
    }
    if let Some(process) = &process {
        println!("memory after             {} resident", process.memory()?);
    }

    println!("append and fdatasync     {}", Quantiles(process::probe_disk(folder)?));
    let before = cpu()?;
    let alone = evening::alone(&server, &people, &rooms).await?;
    println!("one sender, one waiting {}", usage(before, alone.send.len())?);
    println!("  send                   {}", Quantiles(alone.send));
    println!("  send to /sync          {}", Quantiles(alone.delivery));

    for (name, ask) in evening::questions(&people, &rooms) {
        let before = cpu()?;
        let times = evening::repeat(&server, &ask).await?;
        let usage = usage(before, times.len())?;
        println!("{name:24} {}{usage}", Quantiles(times));
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Prints the median and the 99th percentile of some times.
struct Quantiles(Vec<Duration>);

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut times = self.0.clone();
        times.sort();
        let Some(last) = times.len().checked_sub(1) else { return f.write_str("nothing measured") };
        let at = |share: f64| ms(times[(last as f64 * share).round() as usize]);
        write!(f, "p50 {:9.3} ms   p99 {:9.3} ms", at(0.5), at(0.99))
    }
}
