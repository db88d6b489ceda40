//! The configuration: one TOML file, every option of it optional.
//!
//! [`load`] reads a file; [`Config::default`] is what holds without one: the server is called
//! `localhost` and answers on this machine alone. An option is declared once, below, and read as a
//! plain field with the name of its TOML key: `config.registration.open`. Nothing here looks at other
//! files or at the network; [`validate`] says what will not work together.

// The words about an option are printed for people as well, and there [tls] is a table.
#![allow(rustdoc::broken_intra_doc_links)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ruma::{OwnedServerName, RoomVersionId};

pub mod memory;
pub mod option;
pub mod paths;
mod read;
pub mod validate;
mod value;

pub use read::{ConfigError, Problem};
pub use value::{Address, EncryptByDefault, LogFormat, PasswordCost, PublicUrl, Publish, Size};

option::options! {
    /// The configuration of Ingle. Every line is optional; relative paths start in the folder of this
    /// file. After a change run `ingle check-config`, then restart the server.
    pub struct Config {
        /// The name of the server: what stands after the colon in @somebody:example.org. It cannot be
        /// changed once there are people and rooms.
        server_name: OwnedServerName = "\"localhost\"";
        /// The folder in which everything is kept. By default the folder for data of whoever runs the
        /// server, such as ~/.local/share/ingle.
        data_dir: PathBuf = "" like "\"/var/lib/ingle\"";
        /// The address at which clients reach the server. By default https:// and the server name.
        public_url: Option<PublicUrl> = "" like "\"https://example.org\"";
        /// How much memory may hold copies of what is on the disk. By default a part of what the machine
        /// has.
        cache_memory: Option<Size> = "" like "\"64 MiB\"";

        [[listen]]
        /// Where the server listens. Write the table once per address; each serves clients and other
        /// servers alike.
        Listen {
            /// An address and port, "*:8448" for all addresses of this machine, or "unix:/path/of/a.sock".
            address: Address = "\"127.0.0.1:8008\"";
            /// Whether this address speaks TLS (https) with the certificates of [tls].
            tls: bool = "false";
        }

        [tls]
        /// Certificates. They are read again when the server gets SIGHUP (`systemctl reload ingle`).
        Tls {
            /// The certificate with its chain, in PEM. With several names in several files: a list, and the
            /// one that fits the name which the client asks for is shown; else the first.
            certificate: Vec<PathBuf> = "[]" like "\"fullchain.pem\"";
            /// The private key that belongs to it, in PEM. With several certificates: a list in the same
            /// order.
            key: Vec<PathBuf> = "[]" like "\"key.pem\"";
            /// Certificates in PEM that are trusted besides the usual ones, for everything that the server
            /// itself connects to.
            extra_roots: Vec<PathBuf> = "[]";
        }

        [registration]
        /// Who may make an account. Without any of these, `ingle user add` does.
        Registration {
            /// Whether anybody who reaches the server may make an account.
            open: bool = "false";
            /// Tokens that let whoever knows one make an account.
            tokens: Vec<String> = "[]";
            /// A secret that lets a program of yours make accounts.
            shared_secret: Option<String> = "" like "\"a long random text\"";
            /// Whether people may look around as guests, without an account.
            guests: bool = "false";
            /// What it costs to check a password. "minimal" is for test beds: it does not protect anybody.
            password_cost: PasswordCost = "\"normal\"";
        }

        [rooms]
        /// What new rooms are like.
        Rooms {
            /// The version of new rooms. Some older clients and bots want "11" or "10".
            default_version: RoomVersionId = "\"12\"";
            /// Who may list a room in the directory: "everyone" who may change the room, or "admins".
            publish: Publish = "\"everyone\"";
            /// Which new rooms are encrypted even if the client does not ask for it: "all", those which one
            /// must be invited to ("invite"), or none ("off").
            encryption_enabled_by_default: EncryptByDefault = "\"off\"";
            /// For how long a client may leave an event here to be sent later. Calls need it: it is how somebody
            /// whose connection breaks off leaves a call. "0s" turns it off.
            max_event_delay: Duration = "\"24h\"";
        }

        [presence]
        /// Whether people see who of those with whom they share a room is there.
        Presence {
            /// Whether they see it at all.
            enabled: bool = "true";
            /// Whether people on other servers see it too, and theirs is shown here.
            over_federation: bool = "true";
        }

        [support]
        /// Whom to write to when something is wrong with the server. Everybody may read it.
        Support {
            /// The Matrix ID of whoever looks after the server.
            matrix_id: Option<String> = "" like "\"@ann:example.org\"";
            /// Their e-mail address.
            email: Option<String> = "" like "\"ann@example.org\"";
            /// A page that says more.
            page: Option<PublicUrl> = "" like "\"https://example.org/help\"";
        }

        [notices]
        /// What the server itself tells its people (`ingle notice send`), in a room for each.
        Notices {
            /// The account that speaks for the server: what stands before the colon. It is made when it is
            /// first needed.
            sender: String = "\"notices\"";
            /// What clients call it, and the room.
            name: String = "\"Notices\"";
            /// Whether people may decline to hear them.
            may_decline: bool = "false";
        }

        [retention]
        /// How long messages are kept. A room may ask for a time of its own (m.room.retention). What has
        /// passed is removed for good; names, members and other state stay.
        Retention {
            /// Whether messages are removed at all.
            enabled: bool = "false";
            /// How long messages are kept in rooms that do not say. By default for ever.
            default_lifetime: Option<Duration> = "" like "\"365 days\"";
            /// The shortest time that a room may ask for.
            shortest_lifetime: Duration = "\"1 day\"";
            /// The longest time for which a room may keep messages. By default for ever.
            longest_lifetime: Option<Duration> = "" like "\"10 years\"";
        }

        [directory]
        /// Who may read the directory of public rooms.
        Directory {
            /// Whether it may be read without an account.
            allow_without_login: bool = "false";
            /// Whether other servers may read it.
            allow_over_federation: bool = "false";
            /// Whether people find everybody who lives here by name; otherwise those with whom they share a room,
            /// and those in rooms that are open to all.
            find_everyone: bool = "false";
        }

        [federation]
        /// Other servers.
        Federation {
            /// Whether this server talks to others at all.
            enabled: bool = "true";
            /// The servers that this one talks to, and no others; `*` stands for any text, `?` for one letter.
            /// Without any it talks to all.
            allow: Vec<String> = "[]" like "[\"friends.example\", \"*.school.example\"]";
            /// Servers that this one does not talk to, whatever `allow` says.
            deny: Vec<String> = "[]" like "[\"*.spam.example\"]";
            /// Whether the server may connect to addresses of this machine and of the home network. Leave it
            /// off unless this is a test bed: strangers decide what the server connects to.
            allow_private_addresses: bool = "false";
            /// Servers that are asked for the keys of servers which cannot be reached.
            trusted_key_servers: Vec<OwnedServerName> = "[]" like "[\"matrix.org\"]";
        }

        [limits]
        /// What one person or program may ask of the server.
        Limits {
            /// Whether anybody who asks too often is told to wait. Off is for test beds.
            enabled: bool = "true";
            /// The largest file that may be uploaded.
            max_upload: Size = "\"100 MiB\"";
            /// How many connections may be open at once.
            max_connections: usize = "4096";
            /// How many of them may come from one address.
            max_connections_per_address: usize = "256";
        }

        [turn]
        /// Calls between two people go straight from one to the other. Where networks do not let them through,
        /// they need a TURN server, such as coturn, whose address and secret stand here.
        Turn {
            /// The addresses of the TURN server.
            uris: Vec<String> = "[]" like "[\"turn:turn.example.org?transport=udp\"]";
            /// The secret that the TURN server has as `static-auth-secret`: everybody gets a password of their
            /// own, which holds for a while.
            shared_secret: Option<String> = "" like "\"the same long random text\"";
            /// The name for everybody, on a TURN server that does not work with a secret.
            username: Option<String> = "" like "\"ingle\"";
            /// The password that belongs to it.
            password: Option<String> = "" like "\"a long random text\"";
            /// For how long passwords hold.
            lifetime: Duration = "\"1h\"";
            /// Whether guests may use it.
            guests: bool = "true";
        }

        [rtc]
        /// Calls of several people in Element Call and clients like it.
        Rtc {
            /// The address of the service that lets people into calls on your LiveKit server.
            livekit_service_url: Option<PublicUrl> = "" like "\"https://livekit.example.org\"";
        }

        [application_services]
        /// Bridges and bots that are registered with the server.
        ApplicationServices {
            /// A folder; every *.yaml in it is a registration.
            folder: PathBuf = "\"appservices\"";
        }

        [log]
        /// What the server writes about itself.
        Log {
            /// What is written: "error", "warn", "info", "debug" or "trace", also per part of the program, as
            /// in "info,ingle::server=debug".
            filter: String = "\"info\"";
            /// How it is written: "text" for people or "json" for machines.
            format: LogFormat = "\"text\"";
        }
    }
}

/// Reads the configuration file at `path`.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let fail = |problems| ConfigError { file: path.to_owned(), problems };
    let whole = |message| vec![Problem { line: None, message }];
    let text = fs::read_to_string(path).map_err(|error| {
        fail(whole(match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file; `ingle config sample` prints one".to_owned(),
            _ => format!("cannot be read: {error}"),
        }))
    })?;
    let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
    let config = read::read(&text, &folder).map_err(fail)?.complete();
    match validate::check(&config) {
        problems if problems.is_empty() => Ok(config),
        problems => Err(fail(problems.into_iter().flat_map(whole).collect())),
    }
}

/// What holds without a file. Relative paths start in the folder where a file would be.
impl Default for Config {
    fn default() -> Self {
        Self::defaults(&paths::config_dir()).complete()
    }
}

impl Config {
    /// For tests: everybody may make an account, nothing is limited, passwords cost little, and the
    /// addresses of this machine may be connected to. The port is chosen by the machine.
    pub fn for_tests() -> Self {
        let mut config = Self::default();
        config.registration.open = true;
        config.registration.password_cost = PasswordCost::Minimal;
        config.limits.enabled = false;
        config.federation.allow_private_addresses = true;
        config.listen[0].address = Address::Tcp(([127, 0, 0, 1], 0).into());
        config
    }

    /// The address at which clients reach the server, without a slash at the end.
    pub fn public_url(&self) -> String {
        if let Some(url) = &self.public_url {
            return url.0.clone();
        }
        // A name that only this machine knows gets the listener that a client here would use.
        let plain = self.listen.iter().find_map(|listen| match &listen.address {
            Address::Tcp(address) if !listen.tls => Some(address.port()),
            _ => None,
        });
        match plain {
            Some(port) if self.server_name.host() == "localhost" => format!("http://localhost:{port}"),
            _ => format!("https://{}", self.server_name),
        }
    }

    fn complete(mut self) -> Self {
        if self.data_dir.as_os_str().is_empty() {
            self.data_dir = paths::data_dir();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect, expect_file};

    use super::*;

    #[track_caller]
    fn check_problems(text: &str, expected: Expect) {
        let problems = read::read(text, Path::new("/etc/ingle")).expect_err("a file with problems");
        let lines = problems.iter().map(|problem| {
            format!("{}: {}\n", problem.line.as_ref().map_or(0, |(number, _)| *number), problem.message)
        });
        expected.assert_eq(&lines.collect::<String>());
    }

    fn good(text: &str) -> Config {
        read::read(text, Path::new("/etc/ingle")).expect("a good file")
    }

    #[test]
    fn the_options_are_those_of_the_golden_file() {
        expect_file!["../../tests/golden/options.txt"].assert_eq(&option::list(Config::SECTIONS));
    }

    #[test]
    fn the_sample_file_can_be_read_and_changes_nothing() {
        let sample = option::sample(Config::SECTIONS);
        expect_file!["../../packaging/ingle.toml"].assert_eq(&sample);
        assert_eq!(good(&sample), Config::defaults(Path::new("/etc/ingle")));
    }

    #[test]
    fn the_lines_of_the_sample_file_can_be_used() {
        let sample = option::sample(Config::SECTIONS);
        // A comment has a space after the sign; an option has none.
        let used: String = sample
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(option) if !option.starts_with(' ') => format!("{option}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(good(&used).data_dir, Path::new("/var/lib/ingle"));
    }

    #[test]
    fn a_whole_file_is_read() {
        let config = good(
            r#"
            server_name = "example.org"
            data_dir = "data"
            cache_memory = "64 MiB"
            [[listen]]
            address = "*:8448"
            tls = true
            [[listen]]
            address = "unix:/run/ingle/http.sock"
            [tls]
            certificate = "fullchain.pem"
            key = ["key.pem"]
            [rooms]
            default_version = "11"
            encryption_enabled_by_default = "invite"
            "#,
        );
        assert_eq!(config.server_name, "example.org");
        assert_eq!(config.data_dir, Path::new("/etc/ingle/data"));
        assert_eq!(config.cache_memory, Some(Size(64 << 20)));
        assert_eq!(config.listen[0].address.to_string(), "[::]:8448");
        assert_eq!(config.listen[1].address.to_string(), "unix:/run/ingle/http.sock");
        assert_eq!(config.tls.certificate, [Path::new("/etc/ingle/fullchain.pem")]);
        assert_eq!(config.rooms.default_version, RoomVersionId::V11);
        assert_eq!(config.public_url(), "https://example.org");
    }

    #[test]
    fn a_slip_in_a_name_is_understood() {
        check_problems(
            "sever_name = \"a\"\naddress = true\nopen = true\n[registation]\nopen = true\n[federation]\nenable = true\nport = 1\n",
            expect![[r#"
                1: there is no option `sever_name`; did you mean `server_name`?
                2: `address` belongs under [[listen]]
                3: `open` belongs under [registration]
                4: there is no table [registation]; did you mean [registration]?
                7: there is no option `enable`; did you mean `enabled`?
                8: there is no option `port`; `ingle config sample` prints all there are
            "#]],
        );
    }

    #[test]
    fn a_bad_value_says_what_to_write() {
        check_problems(
            r#"
            server_name = "https://Example.org/"
            public_url = "example.org"
            cache_memory = "much"
            [[listen]]
            address = 8008
            tls = "yes"
            [[listen]]
            address = "localhost:8008"
            [rooms]
            default_version = 12
            publish = "admin"
            [registration]
            tokens = [1]
            "#,
            expect![[r#"
                2: a server name is the bare name in lower case: write "example.org"
                3: an address begins with https://: write "https://example.org"
                4: "much" is no size; write a whole number and a unit, such as "100 MiB"
                6: write an address too: "127.0.0.1:8008" for this machine alone, "*:8008" for all
                7: write true without quotes
                9: write the address: "127.0.0.1:8008"
                11: write it in quotes: "12"
                12: did you mean "admins"? This takes "everyone" or "admins"
                14: this takes a text in quotes, not a number
            "#]],
        );
    }

    #[test]
    fn a_line_that_is_not_toml_is_named() {
        check_problems(
            "server_name = example.org\n",
            expect![[r#"
                1: this is not TOML: string values must be quoted, expected literal string (texts need quotes; a line is `name = value` or `[table]`)
            "#]],
        );
        check_problems(
            "[rooms]\n[rooms]\n",
            expect![[r#"
            2: this is written twice; keep one of them
        "#]],
        );
        check_problems(
            "listen = \"127.0.0.1:1\"\nlog = 1\n[[rooms]]\n",
            expect![[r#"
            1: write [[listen]] on a line of its own, and its options below it
            2: write [log] on a line of its own, and its options below it
            3: write [rooms] on a line of its own, and its options below it
        "#]],
        );
    }

    #[test]
    fn an_error_shows_the_file_and_the_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ingle.toml");
        fs::write(&file, "\nserver_name = 5\n").expect("a file");
        let error = load(&file).expect_err("a problem").to_string().replace(folder.path().to_str().unwrap_or("?"), "");
        expect![[r#"
            /ingle.toml, line 2: this takes a server name such as "example.org", not a number
                server_name = 5"#]]
        .assert_eq(&error);
    }

    #[test]
    fn a_server_without_a_name_is_reached_on_this_machine() {
        assert_eq!(Config::default().public_url(), "http://localhost:8008");
    }
}
