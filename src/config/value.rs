//! What may stand on the right of the `=`: sizes, durations, paths, names, choices.
//!
//! Each type says in words what it takes, reads it, and refuses with a sentence that says what to
//! write instead.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use ruma::{OwnedServerName, RoomVersionId};
use toml::{Spanned, de::DeValue};

/// A value as it stands in the file.
pub struct Given<'a> {
    /// The value, and where it stands.
    pub value: &'a Spanned<DeValue<'a>>,
    /// The folder of the file: relative paths start there.
    pub folder: &'a Path,
}

/// A value that cannot be, where it stands, and what to write instead.
#[derive(Debug)]
pub struct Wrong {
    /// The bytes of the file.
    pub span: Range<usize>,
    /// A sentence.
    pub message: String,
}

/// The result of reading one value.
pub type Read<T> = Result<T, Wrong>;

/// A type that an option may have.
pub trait Setting: Sized {
    /// What may be written, to be read after "takes".
    const TAKES: &'static str;

    /// Reads it.
    fn read(given: &Given) -> Read<Self>;

    /// The value when nothing is written and no default is declared; `None` if there must be one.
    fn unset() -> Option<Self> {
        None
    }
}

impl Given<'_> {
    fn wrong<T>(&self, message: impl Into<String>) -> Read<T> {
        Err(Wrong { span: self.value.span(), message: message.into() })
    }

    /// Another kind of value than the option takes.
    fn takes<T>(&self, takes: &str) -> Read<T> {
        self.wrong(format!("this takes {takes}, not {}", self.kind()))
    }

    fn text(&self, takes: &str) -> Read<&str> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => self.takes(takes),
        }
    }

    fn number(&self) -> Option<u64> {
        let DeValue::Integer(number) = self.value.get_ref() else { return None };
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    fn kind(&self) -> &'static str {
        match self.value.get_ref() {
            DeValue::String(_) => "a text in quotes",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }
}

impl Setting for bool {
    const TAKES: &'static str = "true or false";

    fn read(given: &Given) -> Read<Self> {
        match given.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            DeValue::String(text) if matches!(&**text, "true" | "false" | "yes" | "no" | "on" | "off") => {
                let meant = matches!(&**text, "true" | "yes" | "on");
                given.wrong(format!("write {meant} without quotes"))
            }
            _ => given.takes(Self::TAKES),
        }
    }
}

impl Setting for usize {
    const TAKES: &'static str = "a whole number";

    fn read(given: &Given) -> Read<Self> {
        match given.number().and_then(|number| number.try_into().ok()) {
            Some(number) => Ok(number),
            None => given.takes(Self::TAKES),
        }
    }
}

impl Setting for String {
    const TAKES: &'static str = "a text in quotes";

    fn read(given: &Given) -> Read<Self> {
        given.text(Self::TAKES).map(str::to_owned)
    }
}

impl<T: Setting> Setting for Option<T> {
    const TAKES: &'static str = T::TAKES;

    fn read(given: &Given) -> Read<Self> {
        T::read(given).map(Some)
    }

    fn unset() -> Option<Self> {
        Some(None)
    }
}

/// A list; a single value stands for a list of one.
impl<T: Setting> Setting for Vec<T> {
    const TAKES: &'static str = T::TAKES;

    fn read(given: &Given) -> Read<Self> {
        match given.value.get_ref() {
            DeValue::Array(values) => {
                values.iter().map(|value| T::read(&Given { value, folder: given.folder })).collect()
            }
            _ => T::read(given).map(|value| vec![value]),
        }
    }

    fn unset() -> Option<Self> {
        Some(vec![])
    }
}

/// A path: absolute, or relative to the folder of the file.
impl Setting for PathBuf {
    const TAKES: &'static str = "a path in quotes";

    fn read(given: &Given) -> Read<Self> {
        match given.text(Self::TAKES)? {
            "" => given.wrong("this path is empty; write one, or leave the line out"),
            path if path.starts_with("~/") => given.wrong("write the whole path: `~` is not understood here"),
            path => Ok(given.folder.join(path)),
        }
    }

    fn unset() -> Option<Self> {
        Some(PathBuf::new())
    }
}

/// A number of bytes, written as `"100 MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as an index.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl Setting for Size {
    const TAKES: &'static str = "a size such as \"100 MiB\"";

    fn read(given: &Given) -> Read<Self> {
        if let Some(bytes) = given.number() {
            return Ok(Self(bytes));
        }
        let text = given.text(Self::TAKES)?;
        let size = quantity(text).and_then(|(number, unit)| {
            let unit = match unit.to_ascii_lowercase().as_str() {
                "b" | "byte" | "bytes" => 1,
                "k" | "kib" => 1 << 10,
                "m" | "mib" => 1 << 20,
                "g" | "gib" => 1 << 30,
                "t" | "tib" => 1 << 40,
                "kb" => 1000,
                "mb" => 1_000_000,
                "gb" => 1_000_000_000,
                "tb" => 1_000_000_000_000,
                _ => return None,
            };
            number.checked_mul(unit)
        });
        match size {
            Some(bytes) => Ok(Self(bytes)),
            None => given.wrong(format!("\"{text}\" is no size; write a whole number and a unit, such as \"100 MiB\"")),
        }
    }
}

impl Setting for Duration {
    const TAKES: &'static str = "a time such as \"30 days\"";

    fn read(given: &Given) -> Read<Self> {
        let text = given.text(Self::TAKES)?;
        let seconds = quantity(text).and_then(|(number, unit)| {
            let unit = match unit.trim_end_matches('s') {
                "" | "second" | "sec" => 1,
                "minute" | "min" | "m" => 60,
                "hour" | "h" => 3600,
                "day" | "d" => 86_400,
                "week" | "w" => 604_800,
                "month" => 2_592_000,
                "year" | "y" => 31_536_000,
                _ => return None,
            };
            number.checked_mul(unit)
        });
        match seconds {
            Some(seconds) if text.chars().any(char::is_alphabetic) => Ok(Self::from_secs(seconds)),
            _ => given.wrong(format!("\"{text}\" is no time; write a whole number and a unit, such as \"30 days\"")),
        }
    }
}

/// `"100 MiB"` → `(100, "MiB")`.
fn quantity(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

impl Setting for OwnedServerName {
    const TAKES: &'static str = "a server name such as \"example.org\"";

    fn read(given: &Given) -> Read<Self> {
        let text = given.text(Self::TAKES)?;
        let bare = text.trim().trim_start_matches("https://").trim_start_matches("http://");
        let bare = bare.trim_start_matches('@').split('/').next().unwrap_or_default().trim_end_matches('.');
        let bare = bare.to_ascii_lowercase();
        if text != bare {
            return match Self::try_from(bare.as_str()) {
                Ok(_) => given.wrong(format!("a server name is the bare name in lower case: write \"{bare}\"")),
                Err(_) => given.takes(Self::TAKES),
            };
        }
        match Self::try_from(text) {
            Ok(name) => Ok(name),
            Err(_) => given.wrong(format!("\"{text}\" cannot be a server name; write one such as \"example.org\"")),
        }
    }
}

/// The room versions in which rooms can be made.
const ROOM_VERSIONS: &[RoomVersionId] = &[RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];

impl Setting for RoomVersionId {
    const TAKES: &'static str = "a room version: \"10\", \"11\" or \"12\"";

    fn read(given: &Given) -> Read<Self> {
        if let Some(number) = given.number() {
            return given.wrong(format!("write it in quotes: \"{number}\""));
        }
        let text = given.text(Self::TAKES)?;
        match ROOM_VERSIONS.iter().find(|version| version.as_str() == text) {
            Some(version) => Ok(version.clone()),
            None => given.wrong(format!("\"{text}\" is not one of the room versions \"10\", \"11\" and \"12\"")),
        }
    }
}

/// The address at which clients reach the server, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(pub(super) String);

impl PublicUrl {
    /// The address, such as `https://example.org`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for PublicUrl {
    const TAKES: &'static str = "an address such as \"https://example.org\"";

    fn read(given: &Given) -> Read<Self> {
        let text = given.text(Self::TAKES)?;
        let uri = text.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some() && uri.query().is_none());
        match uri.as_ref().and_then(http::Uri::scheme_str) {
            Some("http" | "https") => Ok(Self(text.trim_end_matches('/').to_owned())),
            _ if !text.contains("://") => {
                given.wrong(format!("an address begins with https://: write \"https://{text}\""))
            }
            _ => given.takes(Self::TAKES),
        }
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP port. `[::]` takes IPv4 as well.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Setting for Address {
    const TAKES: &'static str = "an address and port such as \"127.0.0.1:8008\", or \"unix:\" and a path";

    fn read(given: &Given) -> Read<Self> {
        if let Some(port) = given.number() {
            return given.wrong(format!(
                "write an address too: \"127.0.0.1:{port}\" for this machine alone, \"*:{port}\" for all"
            ));
        }
        let text = given.text(Self::TAKES)?;
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => given.wrong("write the path of the socket after \"unix:\""),
                path => Ok(Self::Unix(given.folder.join(path))),
            };
        }
        if let Some(port) = text.strip_prefix("*:").and_then(|port| port.parse().ok()) {
            return Ok(Self::Tcp((Ipv6Addr::UNSPECIFIED, port).into()));
        }
        match text.parse() {
            Ok(address) => Ok(Self::Tcp(address)),
            Err(_) if text.starts_with("localhost:") => {
                given.wrong(format!("write the address: \"{}\"", text.replace("localhost", "127.0.0.1")))
            }
            Err(_) => given.wrong(format!("\"{text}\" is no address; this takes {}", Self::TAKES)),
        }
    }
}

/// Declares an option that takes one of a few words.
macro_rules! choice {
    ($(#[$about:meta])* $Choice:ident takes $takes:literal { $( $(#[$doc:meta])* $Variant:ident = $word:literal, )+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Choice { $( $(#[$doc])* $Variant, )+ }
        impl Setting for $Choice {
            const TAKES: &'static str = $takes;
            fn read(given: &Given) -> Read<Self> {
                let words = [$($word),+];
                match given.text(Self::TAKES)? {
                    $( $word => Ok(Self::$Variant), )+
                    text => match nearest(text, words) {
                        Some(meant) => given.wrong(format!("did you mean \"{meant}\"? This takes {}", Self::TAKES)),
                        None => given.wrong(format!("this takes {}, not \"{text}\"", Self::TAKES)),
                    },
                }
            }
        }
    };
}

choice! {
    /// What computing the hash of a password may cost.
    PasswordCost takes "\"normal\" or \"minimal\"" {
        /// What keeps people's passwords safe.
        Normal = "normal",
        /// For test beds.
        Minimal = "minimal",
    }
}

choice! {
    /// Who may list a room in the directory.
    Publish takes "\"everyone\" or \"admins\"" {
        /// Whoever may change the room.
        Everyone = "everyone",
        /// Admins of this server.
        Admins = "admins",
    }
}

choice! {
    /// Which new rooms are encrypted although the client did not ask for it.
    EncryptByDefault takes "\"all\", \"invite\" or \"off\"" {
        /// Every new room.
        All = "all",
        /// Rooms that one must be invited to.
        Invite = "invite",
        /// None; today's clients ask for it themselves.
        Off = "off",
    }
}

choice! {
    /// How log lines look.
    LogFormat takes "\"text\" or \"json\"" {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

/// The word that was probably meant.
pub(super) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    words
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
