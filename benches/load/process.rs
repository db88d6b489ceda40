//! The server's process: starting Ingle for a run, and what `/proc` says of any process.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use tempfile::TempDir;

use crate::Result;
use crate::http::Server;

/// Ingle, started for this run and ended with it; its folder goes too.
pub struct Ingle {
    pub url: String,
    child: Child,
    folder: TempDir,
    since: Instant,
}

impl Ingle {
    pub async fn start(below: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("load").tempdir_in(below)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = folder.path().join("ingle.toml");
        fs::write(
            &config,
            format!(
                "server_name = \"load.test\"\n\
                 data_dir = {:?}\n\
                 [[listen]]\naddress = \"{address}\"\n\
                 [registration]\nopen = true\npassword_cost = \"minimal\"\n\
                 [limits]\nenabled = false\n\
                 [federation]\nenabled = false\n\
                 [log]\nfilter = \"warn\"\n",
                folder.path().join("data")
            ),
        )?;
        let log = File::create(folder.path().join("log"))?;
        let since = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_ingle"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { url: format!("http://{address}"), child, folder, since })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks until the server answers, and says how long that took from its start.
    pub async fn ready(&self, server: &Server) -> Result<Duration> {
        loop {
            let asked = server.connection("").ask(Method::GET, "/_matrix/client/versions", "".into()).await;
            if asked.is_ok_and(|(status, _)| status.is_success()) {
                return Ok(self.since.elapsed());
            }
            if self.since.elapsed() > Duration::from_secs(30) {
                return Err(fs::read_to_string(self.folder.path().join("log"))?.into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Ingle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process as `/proc` shows it.
pub struct Process {
    pid: u32,
}

impl Process {
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// The CPU time of all its threads, in user and kernel mode.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The command's name may hold spaces; what follows its bracket is the third field and on.
        let (_, fields) = stat.rsplit_once(')').ok_or("an odd /proc/PID/stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).ok_or("a short /proc/PID/stat")?.parse()?) };
        // Linux counts them in hundredths of a second on every platform.
        Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    }

    /// Resident memory now, and the most there was, in words.
    pub fn memory(&self) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(0)?.parse::<f64>().ok());
            kib.map_or_else(|| "?".to_owned(), |kib| format!("{:.1} MiB", kib / 1024.0))
        };
        Ok(format!("{} (peak {})", mib("VmRSS:"), mib("VmHWM:")))
    }
}

/// What one durable append of a message's size costs on this disk, at best.
pub fn probe_disk(below: &Path) -> Result<Vec<Duration>> {
    let mut file = tempfile::tempfile_in(below)?;
    let times = (0..200).map(|_| {
        let start = Instant::now();
        file.write_all(&[0x5a; 1500])?;
        file.sync_data()?;
        Ok(start.elapsed())
    });
    times.collect()
}
