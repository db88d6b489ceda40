//! The program itself, as somebody starts it: arguments, exit status, what it prints, signals.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

/// A home in which nothing is configured.
fn home() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The program in this home.
fn ingle(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingle"));
    command.env("HOME", home).env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").current_dir(home);
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env_remove(name);
    }
    command
}

/// What a command printed and how it ended.
fn run(home: &Path, arguments: &[&str], input: &str) -> (String, i32) {
    let mut command = ingle(home);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("its end");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (text.replace(&*home.to_string_lossy(), "HOME"), status.code().unwrap_or(-1))
}

/// A server that runs in a home, on a port of the machine's choice.
struct Running {
    child: Child,
    log: BufReader<Box<dyn Read>>,
    seen: String,
}

impl Running {
    fn start(home: &Path, config: &str) -> Self {
        let file = home.join("ingle.toml");
        fs::write(&file, format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{config}")).expect("a file");
        let mut command = ingle(home);
        command.arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        let log: Box<dyn Read> = Box::new(child.stderr.take().expect("its log"));
        Self { child, log: BufReader::new(log), seen: String::new() }
    }

    /// Reads the log up to a line with these words.
    fn says(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).expect("text") > 0, "it ended without {words:?}:\n{}", self.seen);
            self.seen += &line;
            if line.contains(words) {
                return line;
            }
        }
    }

    fn address(&mut self) -> SocketAddr {
        let line = self.says("It listens at");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.and_then(|address| address.parse().ok()).expect("an address")
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
    }

    /// Stops it as systemd does; what it printed, and its status.
    fn stop(mut self) -> (String, i32) {
        self.signal("-TERM");
        let mut text = String::new();
        self.child.stdout.take().expect("its output").read_to_string(&mut text).expect("text");
        (text, self.child.wait().expect("its end").code().unwrap_or(-1))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only when a test failed on the way.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Status and text of an answer.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    (text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), text)
}

/// An answer to some JSON.
fn post(address: SocketAddr, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}");
    write!(stream, "{head}\r\n\r\n{body}").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn it_runs_without_any_option_and_stops_when_told_to() {
    let home = home();
    let mut server = Running::start(home.path(), "");
    let address = server.address();
    assert_eq!(get(address, "/_matrix/client/versions").0, 200);
    assert_eq!(get(address, "/").0, 200);
    let (text, status) = server.stop();
    assert_eq!(status, 0);
    let link = text.split_whitespace().find(|word| word.contains("/_ingle/set-up/")).expect("a link for the first");
    assert!(link.starts_with(&format!("http://localhost:{}/", address.port())), "{link}");
    assert!(home.path().join(".local/share/ingle/signing.key").is_file());
}

#[test]
fn accounts_are_made_while_it_runs_and_while_it_does_not() {
    let home = home();
    let mut server = Running::start(home.path(), "[registration]\npassword_cost = \"minimal\"\n");
    server.address();
    let config = ["-c", "ingle.toml"];
    let with = |arguments: &[&'static str]| [&config[..], arguments].concat();
    let (text, status) = run(home.path(), &with(&["user", "add", "ann", "--admin"]), "the kettle sings\n");
    assert_eq!((text.as_str(), status), ("@ann:localhost can log in now, and looks after the server.\n", 0));
    assert_eq!(server.stop().1, 0);

    let (text, status) = run(home.path(), &with(&["user", "add", "ann"]), "the kettle sings\n");
    assert_eq!((text.as_str(), status), ("ingle: this name is taken\n", 1));
    let (text, status) = run(home.path(), &with(&["user", "list"]), "");
    assert_eq!((text.as_str(), status), ("@ann:localhost  ann                   looks after the server\n", 0));

    // There is somebody now: no link is shown.
    let mut server = Running::start(home.path(), "");
    server.address();
    assert!(!server.stop().0.contains("set-up"));
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let home = home();
    let mut first = Running::start(home.path(), "");
    first.address();
    let (text, status) = run(home.path(), &["-c", "ingle.toml"], "");
    assert!(status == 1 && text.contains("another program is using"), "{text}");
    assert_eq!(first.stop().1, 0);
}

#[test]
fn the_name_of_a_server_cannot_be_changed() {
    let home = home();
    let mut server = Running::start(home.path(), "");
    server.address();
    server.stop();
    fs::write(home.path().join("other.toml"), "server_name = \"b.example\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n")
        .expect("a file");
    let (text, status) = run(home.path(), &["-c", "other.toml"], "");
    assert!(status == 1 && text.contains("write server_name = \"localhost\""), "{text}");
}

#[test]
fn a_slip_in_the_configuration_is_said_before_anything_starts() {
    let home = home();
    fs::write(home.path().join("ingle.toml"), "server_name = \"a.example\"\n[listn]\naddress = 1\n").expect("a file");
    for arguments in [&["-c", "ingle.toml"][..], &["check-config", "ingle.toml"]] {
        let (text, status) = run(home.path(), arguments, "");
        assert_eq!(status, 2, "{text}");
        assert!(text.contains("ingle.toml, line 2: there is no table [listn]; did you mean [listen]?"), "{text}");
    }
    assert!(!home.path().join(".local").exists());
}

#[test]
fn a_good_configuration_is_explained() {
    let home = home();
    fs::write(home.path().join("ingle.toml"), "server_name = \"a.example\"\ndata_dir = \"data\"\n").expect("a file");
    let (text, status) = run(home.path(), &["check-config", "ingle.toml"], "");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("The server is a.example, keeps its data in HOME/data"), "{text}");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn the_memory_for_a_password_goes_back_to_the_machine() {
    let home = home();
    let mut server = Running::start(home.path(), "[registration]\nopen = true\n[limits]\nenabled = false\n");
    let address = server.address();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let register = |name: &str| {
        let body =
            format!(r#"{{"username":"{name}","password":"the kettle sings","auth":{{"type":"m.login.dummy"}}}}"#);
        assert!(post(address, "/_matrix/client/v3/register", &body).contains("access_token"));
    };
    register("ann");
    let before = resident();
    ["bob", "carol", "dan"].iter().for_each(|name| register(name));
    assert!(resident() < before + 19 * 1024, "it grew from {before} to {} KiB", resident());
}

#[test]
fn a_long_poll_does_not_hold_a_stop_up() {
    let home = home();
    let config = "[registration]\nopen = true\npassword_cost = \"minimal\"\n";
    let mut server = Running::start(home.path(), config);
    let address = server.address();
    let body = r#"{"username":"ann","password":"the kettle sings","auth":{"type":"m.login.dummy"}}"#;
    let text = post(address, "/_matrix/client/v3/register", body);
    let field = |name: &str| text.split(&format!("\"{name}\":\"")).nth(1).and_then(|rest| rest.split('"').next());
    let token = field("access_token").expect("a token");
    let (_, first) = get(address, &format!("/_matrix/client/v3/sync?access_token={token}"));
    let since = first.split("\"next_batch\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");

    // Asks for news for ten minutes, and gets an answer when the server stops.
    let mut poll = TcpStream::connect(address).expect("a connection");
    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=600000&access_token={token}");
    write!(poll, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    assert_eq!(get(address, "/health").0, 200);
    server.signal("-TERM");
    let mut answer = String::new();
    poll.read_to_string(&mut answer).expect("an answer");
    // If the signal was faster than the request, the connection just ends.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200") && answer.contains("next_batch"), "{answer}");
    assert!(server.says("stopped").ends_with("stopped\n"), "nothing was cut: {}", server.seen);
}

#[test]
fn a_new_key_takes_over_at_the_next_start() {
    let home = home();
    let keys = |server: &mut Running| {
        let (status, text) = get(server.address(), "/_matrix/key/v2/server");
        assert_eq!(status, 200);
        let body = text.split("\r\n\r\n").nth(1).expect("a body");
        let keys: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let names = |field: &str| keys[field].as_object().expect("keys").keys().cloned().collect::<Vec<_>>();
        (names("verify_keys"), names("old_verify_keys"))
    };
    let mut server = Running::start(home.path(), "");
    let (first, none) = keys(&mut server);
    assert_eq!(none, Vec::<String>::new());
    let rotate = || run(home.path(), &["-c", "ingle.toml", "key", "rotate"], "");
    let (text, status) = rotate();
    let second = text.split_whitespace().find(|word| word.starts_with("ed25519:")).expect("its name").to_owned();
    assert_eq!(status, 0, "{text}");
    let (text, status) = rotate();
    assert!(status == 1 && text.contains("a new key waits"), "{text}");
    assert_eq!(server.stop().1, 0);

    let mut server = Running::start(home.path(), "");
    assert_eq!(keys(&mut server), (vec![second.clone()], first.clone()));
    assert_eq!(server.stop().1, 0);
    // Also while it does not run.
    assert_eq!(rotate().1, 0);
    let mut server = Running::start(home.path(), "");
    let (third, old) = keys(&mut server);
    assert!(third != [second.clone()] && third != first);
    assert_eq!(old.len(), 2);
    assert!(old.contains(&second) && old.contains(&first[0]), "{old:?}");
    assert_eq!(server.stop().1, 0);
}
