//! Certificates: read from files, chosen by the name that the client asks for, replaced while running.
//!
//! [`Certificates`] is what rustls asks during each handshake. A new set takes the old one's place as
//! a whole; connections that are open keep what they began with.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName,
    pem::{self, PemObject},
};
use tracing::{error, info, warn};

use crate::config::{Config, Tls};

/// How long before its end a certificate is complained about.
const RENEW_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// The certificates in use.
#[derive(Debug)]
pub struct Certificates {
    files: Tls,
    current: ArcSwap<Vec<Certificate>>,
}

/// A certificate with its chain and key.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    expires: Option<SystemTime>,
}

impl Certificates {
    /// Reads the files that the configuration names. `None` if it names none.
    pub fn load(config: &Config) -> Result<Option<Arc<Self>>, String> {
        if config.tls.certificate.is_empty() {
            return Ok(None);
        }
        let current = read_all(&config.tls)?;
        Ok(Some(Arc::new(Self { files: config.tls.clone(), current: ArcSwap::from_pointee(current) })))
    }

    /// Reads the files again. If one of them is no good, everything stays as it was.
    pub fn reload(&self) {
        let read = read_all(&self.files).and_then(|new| match problem(&new, SystemTime::now()) {
            Some(Problem::Expired(why)) => Err(why),
            _ => Ok(new),
        });
        match read {
            Ok(new) => {
                let many = new.len();
                self.current.store(Arc::new(new));
                info!(many, "the certificates were read again");
            }
            Err(why) => error!("the certificates stay as they were: {why}"),
        }
    }

    /// Says in the log what will soon be, or already is, wrong.
    pub fn warn(&self) {
        if let Some(Problem::Expired(why) | Problem::Expiring(why)) = problem(&self.current.load(), SystemTime::now()) {
            warn!("{why}");
        }
    }

    /// A sentence about a certificate that has expired.
    pub fn expired(&self) -> Option<String> {
        match problem(&self.current.load(), SystemTime::now()) {
            Some(Problem::Expired(why)) => Some(why),
            _ => None,
        }
    }

    /// How TLS is spoken: versions 1.2 and 1.3, HTTP/2 preferred to HTTP/1.1.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(tls))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let all = self.current.load();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |certificate: &&Certificate| {
            let Some(name) = &name else { return false };
            let end = certificate.key.end_entity_cert().and_then(ParsedCertificate::try_from);
            end.is_ok_and(|end| verify_server_name(&end, name).is_ok())
        };
        let chosen = if all.len() == 1 { None } else { all.iter().find(fits) };
        chosen.or(all.first()).map(|certificate| Arc::clone(&certificate.key))
    }
}

fn read_all(files: &Tls) -> Result<Vec<Certificate>, String> {
    files.certificate.iter().zip(&files.key).map(|(certificate, key)| read(certificate, key)).collect()
}

/// Reads a certificate with its chain, and the key that must belong to it.
fn read(certificate: &Path, key: &Path) -> Result<Certificate, String> {
    let what = certificate.display();
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unreadable(certificate, "certificate", error))?;
    let Some(first) = chain.first() else {
        return Err(unreadable(certificate, "certificate", pem::Error::NoItemsFound));
    };
    let expires = not_after(first);
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, "private key", error))?;
    let signing = ring::default_provider()
        .key_provider
        .load_private_key(private)
        .map_err(|error| format!("{} holds a private key that cannot be used: {error}", key.display()))?;
    let key_pair = CertifiedKey::new(chain, signing);
    match key_pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(format!(
                "{what} and {} do not belong together; name the key with which this certificate was asked for \
                 (and in {what} the server's own certificate must come first)",
                key.display()
            ));
        }
        Err(error) => return Err(format!("{what} is no certificate that can be used: {error}")),
    }
    Ok(Certificate { key: Arc::new(key_pair), expires })
}

fn unreadable(file: &Path, what: &str, error: pem::Error) -> String {
    let file = file.display();
    match error {
        pem::Error::NoItemsFound => {
            format!("{file} holds no {what} in PEM; look for a line that begins with -----BEGIN")
        }
        pem::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::NotFound => format!("the {what} {file} does not exist"),
            std::io::ErrorKind::PermissionDenied => {
                format!("the {what} {file} may not be read; give the user who runs the server the right to")
            }
            _ => format!("the {what} {file} cannot be read: {error}"),
        },
        error => format!("the {what} {file} is damaged: {error}"),
    }
}

enum Problem {
    Expired(String),
    Expiring(String),
}

fn problem(all: &[Certificate], now: SystemTime) -> Option<Problem> {
    let expires = all.iter().filter_map(|certificate| certificate.expires).min()?;
    match expires.duration_since(now) {
        Err(since) => Some(Problem::Expired(format!(
            "the certificate expired {} days ago; renew it and send the server SIGHUP",
            since.duration().as_secs() / 86_400
        ))),
        Ok(left) if left < RENEW_BEFORE => Some(Problem::Expiring(format!(
            "the certificate expires in {} days; renew it and send the server SIGHUP",
            left.as_secs() / 86_400
        ))),
        Ok(_) => None,
    }
}

/// The end of a certificate's validity. rustls leaves that to whoever verifies the certificate, so the
/// few fields before it are stepped over here.
fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, body, _) = element(certificate)?; // Certificate
    let (_, mut fields, _) = element(body)?; // TBSCertificate
    if let (0xa0, _, rest) = element(fields)? {
        fields = rest; // version
    }
    for _field in ["serial number", "signature", "issuer"] {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, after) = element(validity)?; // past notBefore
    let (tag, text, _) = element(after)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        // UTCTime has two digits; 50 is 1950.  RFC 5280, section 4.1.2.5.1
        0x17 => {
            let year: u64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        0x18 => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<u64>().ok();
    let days = days_since_1970(year, part(0)?, part(2)?)?;
    let seconds = ((days * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// One DER element: its tag, its content and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// Days from 1970 to a day of the Gregorian calendar; `None` before 1970 and for impossible dates.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 9999 {
        return None;
    }
    // Years begin in March, so that the leap day is the last day of a year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A self-signed certificate and its key in `folder`, as a configuration names them.
    fn files(folder: &Path, name: &str, expires: (i32, u8, u8)) -> Tls {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(expires.0, expires.1, expires.2);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let mut tls = Config::default().tls;
        tls.certificate = vec![folder.join(format!("{name}.pem"))];
        tls.key = vec![folder.join(format!("{name}.key"))];
        fs::write(&tls.certificate[0], certificate.pem()).expect("a file");
        fs::write(&tls.key[0], key.serialize_pem()).expect("a file");
        tls
    }

    fn load(tls: &Tls) -> Result<Option<Arc<Certificates>>, String> {
        Certificates::load(&Config { tls: tls.clone(), ..Config::default() })
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        for (date, seconds) in [((2024, 2, 29), 1_709_164_800), ((2055, 12, 31), 2_713_824_000_u64)] {
            let read = read_all(&files(folder.path(), "a.example", date)).expect("a certificate");
            assert_eq!(read[0].expires, Some(UNIX_EPOCH + Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn an_expired_certificate_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = load(&files(folder.path(), "old.example", (2024, 1, 1))).expect("readable").expect("some");
        assert!(old.expired().is_some_and(|why| why.contains("expired")));
        let new = load(&files(folder.path(), "new.example", (2999, 1, 1))).expect("readable").expect("some");
        assert_eq!(new.expired(), None);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tls = files(folder.path(), "a.example", (2999, 1, 1));
        tls.key = files(folder.path(), "b.example", (2999, 1, 1)).key;
        assert!(load(&tls).is_err_and(|why| why.contains("do not belong together")));
    }

    #[test]
    fn files_that_are_missing_or_empty_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tls = files(folder.path(), "a.example", (2999, 1, 1));
        fs::write(&tls.key[0], "").expect("a file");
        assert!(load(&tls).is_err_and(|why| why.contains("a.example.key holds no private key")));
        tls.certificate = vec![folder.path().join("none.pem")];
        assert!(load(&tls).is_err_and(|why| why.contains("none.pem does not exist")));
    }

    #[test]
    fn nonsense_is_no_certificate_and_no_panic() {
        for length in 0..40 {
            assert_eq!(not_after(&vec![0x30; length]), None);
            assert_eq!(not_after(&vec![0x84; length]), None);
        }
    }
}
