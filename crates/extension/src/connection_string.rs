//! Connection strings: `cloudsync://host[:port]/database[?apikey=...][&insecure=1]`.
//!
//! | scheme | means |
//! | --- | --- |
//! | `cloudsync://`, `sqlitecloud://` | HTTPS on port 443; plain HTTP on port 8484 to this machine or with `insecure=1` |
//! | `https://` | HTTPS on port 443 |
//! | `http://` | plain HTTP on port 80; to another machine only with `insecure=1` |

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest name of a database, in bytes.
pub const DATABASE_BYTES_MAX: usize = 64;
/// Longest key or token, in bytes.
pub const SECRET_BYTES_MAX: usize = 4096;
/// Longest name of a host, in bytes, as DNS has it.
const HOST_BYTES_MAX: usize = 253;
/// The port of plain HTTP unless the connection string names one.
const PLAIN_PORT: u16 = 8484;

/// Why a connection string cannot be read. Never repeats what may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionStringError(String);

/// A key or token. Its text leaves only by [`Secret::expose`]; printing it for debugging shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a key or token: 1 to [`SECRET_BYTES_MAX`] visible ASCII characters, as a header can carry them.
    ///
    /// # Errors
    /// When it is anything else; the text does not repeat it.
    pub fn new(text: &str) -> Result<Self, ConnectionStringError> {
        if text.is_empty()
            || text.len() > SECRET_BYTES_MAX
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return fail(format!(
                "the key must have 1 to {SECRET_BYTES_MAX} visible ASCII characters and no spaces: copy it again"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// True for an API key, which sees everything; anything else is a token of somebody who may not.
    #[must_use]
    pub fn is_key(&self) -> bool {
        self.0.starts_with("csk_")
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// A connection string that was read: where to sync, and the key if it was in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// Where to sync.
    pub address: Address,
    /// The key, if the text held one.
    pub apikey: Option<Secret>,
}

/// A server and a database on it, without secrets. As text it is a connection string again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    scheme: Scheme,
    /// Without brackets, in lower case.
    host: String,
    port: u16,
    database: String,
    insecure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Cloudsync,
    Https,
    Http,
}

impl ConnectionString {
    /// Reads a connection string.
    ///
    /// # Errors
    /// Names the part that is wrong and what it should be.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        if text.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            return fail("a connection string has no spaces or line breaks");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return fail("a connection string looks like cloudsync://HOST/DATABASE");
        };
        let scheme = parse_scheme(scheme)?;
        if rest.contains('#') {
            return fail("a connection string has no part behind '#'; inside the apikey write it as %23");
        }
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = location.split_once('/').unwrap_or((location, ""));
        let (host, port) = parse_authority(authority)?;
        let database = parse_database(database)?;
        let Query { apikey, insecure } = parse_query(query)?;
        let mut address = Address { scheme, host, port: 0, database, insecure };
        address.check_security()?;
        address.port = port.unwrap_or_else(|| address.default_port());
        Ok(Self { address, apikey })
    }
}

impl Address {
    /// The server as `HOST:PORT`, for texts.
    #[must_use]
    pub fn server(&self) -> String {
        format!("{}:{}", self.bracketed_host(), self.port)
    }

    /// The host, in lower case and without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of the database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// What identifies the server that a secret is sent to: scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.is_plain() { "http" } else { "https" };
        format!("{scheme}://{}", self.server())
    }

    /// The URL that turns are sent to.
    #[must_use]
    pub fn sync_url(&self) -> String {
        format!("{}/v1/databases/{}/sync", self.origin(), self.database)
    }

    /// The URL at which the server tells what is new.
    #[must_use]
    pub fn events_url(&self) -> String {
        format!("{}/v1/databases/{}/events", self.origin(), self.database)
    }

    /// True when the host is this machine: `localhost`, 127.0.0.0/8 or `::1`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let loopback = |address: Ipv4Addr| address.is_loopback();
        self.host == "localhost"
            || self.host.parse().is_ok_and(loopback)
            || self.host.parse() == Ok(Ipv6Addr::LOCALHOST)
    }

    /// True when requests are not encrypted.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        match self.scheme {
            Scheme::Http => true,
            Scheme::Https => false,
            Scheme::Cloudsync => self.insecure || self.is_loopback(),
        }
    }

    /// True when key and data travel readable over a network: worth a warning.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.is_plain() && !self.is_loopback()
    }

    fn default_port(&self) -> u16 {
        match (self.scheme, self.is_plain()) {
            (Scheme::Http, _) => 80,
            (Scheme::Cloudsync, true) => PLAIN_PORT,
            (Scheme::Https | Scheme::Cloudsync, _) => 443,
        }
    }

    fn check_security(&self) -> Result<(), ConnectionStringError> {
        if self.scheme == Scheme::Https && self.insecure {
            return fail("https:// and insecure=1 exclude each other: leave one of them out");
        }
        if self.is_exposed() && !self.insecure {
            return fail(format!(
                "plain HTTP to {} would show the key and the data to the network: use https://, or add ?insecure=1 \
                 if that network is trusted",
                self.host
            ));
        }
        Ok(())
    }

    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Cloudsync => "cloudsync",
            Scheme::Https => "https",
            Scheme::Http => "http",
        };
        let insecure = if self.insecure { "?insecure=1" } else { "" };
        write!(formatter, "{scheme}://{}/{}{insecure}", self.server(), self.database)
    }
}

fn parse_scheme(scheme: &str) -> Result<Scheme, ConnectionStringError> {
    match scheme.to_ascii_lowercase().as_str() {
        "cloudsync" | "sqlitecloud" => Ok(Scheme::Cloudsync),
        "https" => Ok(Scheme::Https),
        "http" => Ok(Scheme::Http),
        _ => fail("a connection string begins with cloudsync://, https:// or http://"),
    }
}

fn parse_authority(authority: &str) -> Result<(String, Option<u16>), ConnectionStringError> {
    if authority.contains('@') {
        return fail("a connection string has no user and password: put the key into ?apikey=");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let Some((host, rest)) = bracketed.split_once(']') else {
                return fail("the bracket of the IPv6 address is not closed");
            };
            let Ok(host) = host.parse::<Ipv6Addr>() else {
                return fail("what stands in brackets is not an IPv6 address");
            };
            (host.to_string(), rest)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(end);
            if port.matches(':').count() > 1 {
                return fail("an IPv6 address stands in brackets: cloudsync://[::1]:8484/DATABASE");
            }
            (parse_host(host)?, port)
        }
    };
    match port.strip_prefix(':') {
        Some(port) => Ok((host, Some(parse_port(port)?))),
        None if port.is_empty() => Ok((host, None)),
        None => fail("between the IPv6 address and the port a ':' is missing"),
    }
}

fn parse_host(host: &str) -> Result<String, ConnectionStringError> {
    if host.is_empty() {
        return fail("the host is missing: cloudsync://HOST/DATABASE");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.len() > HOST_BYTES_MAX || !host.bytes().all(allowed) {
        return fail("the host may have ASCII letters, digits, '.', '-' and '_' only");
    }
    Ok(host.to_ascii_lowercase())
}

fn parse_port(port: &str) -> Result<u16, ConnectionStringError> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(number) if digits && number > 0 => Ok(number),
        _ => fail("the port must be a number from 1 to 65535"),
    }
}

fn parse_database(name: &str) -> Result<String, ConnectionStringError> {
    if name.is_empty() {
        return fail("the name of the database is missing: cloudsync://HOST/DATABASE");
    }
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let begins_well = !name.starts_with(['.', '-']);
    if name.len() > DATABASE_BYTES_MAX || !begins_well || !name.bytes().all(inner) {
        return fail(format!(
            "the name of the database may have ASCII letters, digits, '_', '.' and '-', begins with neither '.' nor \
             '-', and has at most {DATABASE_BYTES_MAX} characters"
        ));
    }
    Ok(name.to_owned())
}

#[derive(Default)]
struct Query {
    apikey: Option<Secret>,
    insecure: bool,
}

fn parse_query(query: &str) -> Result<Query, ConnectionStringError> {
    let mut parsed = Query::default();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("apikey", value)) => {
                let text = decode_percent(value);
                let Some(text) = text else {
                    return fail(
                        "the apikey has a '%' that two hexadecimal digits do not follow: write it as %25",
                    );
                };
                parsed.apikey = Some(Secret::new(&text)?);
            }
            Some(("insecure", "1")) => parsed.insecure = true,
            Some(("insecure", "0")) => parsed.insecure = false,
            Some(("insecure", _)) => return fail("insecure must be 0 or 1"),
            // What is unknown is not repeated: it may be a key without its name.
            _ => return fail("behind '?' only apikey=... and insecure=1 are understood"),
        }
    }
    Ok(parsed)
}

/// Gives the text with `%41` as `A`; `None` if a digit is missing or the bytes are no text. A '+' stays one.
fn decode_percent(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn fail<T>(text: impl Into<String>) -> Result<T, ConnectionStringError> {
    Err(ConnectionStringError(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ConnectionString {
        ConnectionString::parse(text).unwrap()
    }

    fn url(text: &str) -> String {
        read(text).address.sync_url()
    }

    fn error(text: &str) -> String {
        ConnectionString::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn schemes_decide_on_encryption_and_port() {
        for (text, origin) in [
            ("cloudsync://example.com/db", "https://example.com:443"),
            ("sqlitecloud://Example.COM/db", "https://example.com:443"),
            ("CloudSync://example.com:8484/db", "https://example.com:8484"),
            ("cloudsync://localhost/db", "http://localhost:8484"),
            ("cloudsync://127.0.0.1/db", "http://127.0.0.1:8484"),
            ("cloudsync://127.9.8.7:99/db", "http://127.9.8.7:99"),
            ("cloudsync://[::1]/db", "http://[::1]:8484"),
            ("cloudsync://[0:0::0:1]:1/db", "http://[::1]:1"),
            ("cloudsync://[2001:db8::7]/db", "https://[2001:db8::7]:443"),
            ("cloudsync://localhost.example.com/db", "https://localhost.example.com:443"),
            ("cloudsync://128.0.0.1/db", "https://128.0.0.1:443"),
            ("cloudsync://10.0.0.7/db?insecure=1", "http://10.0.0.7:8484"),
            ("https://localhost/db", "https://localhost:443"),
            ("https://example.com/db?insecure=0", "https://example.com:443"),
            ("http://localhost/db", "http://localhost:80"),
            ("http://example.com:1234/db?insecure=1", "http://example.com:1234"),
        ] {
            let address = read(text).address;
            assert_eq!(address.origin(), origin, "{text}");
            assert_eq!(address.is_exposed(), text.contains("insecure=1"), "{text}");
            assert_eq!(read(&address.to_string()).address, address, "{text}");
        }
    }

    #[test]
    fn names_of_databases_are_bounded() {
        let longest = "a".repeat(64);
        for name in ["my_database", "database.sqlite", "_", "9", "a-b.c", longest.as_str()] {
            let text = format!("cloudsync://localhost/{name}");
            assert_eq!(url(&text), format!("http://localhost:8484/v1/databases/{name}/sync"));
        }
        let too_long = "a".repeat(65);
        for name in ["a/b", "a%20b", ".hidden", "-a", "..", "caf\u{e9}", too_long.as_str()] {
            assert!(
                error(&format!("cloudsync://localhost/{name}")).contains("name of the database"),
                "{name}"
            );
        }
    }

    #[test]
    fn the_apikey_is_decoded_and_never_shown() {
        let read = read("cloudsync://localhost/db?apikey=a%2Bb+c%3d&insecure=1");
        assert_eq!(read.apikey.as_ref().unwrap().expose(), "a+b+c=");
        assert!(!format!("{read:?} {}", read.address).contains("a+b"));
        assert!(error("cloudsync://localhost/db?apikey=%4").contains("%25"));
        assert!(error("cloudsync://localhost/db?apikey=%zz").contains("%25"));
        assert!(error("cloudsync://localhost/db?apikey=").contains("the key must have"));
        assert!(error("cloudsync://localhost/db?apikey=a%0ab").contains("the key must have"));
    }

    #[test]
    fn errors_name_the_part_and_hide_secrets() {
        for (text, part) in [
            ("", "looks like"),
            ("localhost/db", "looks like"),
            ("ftp://localhost/db", "begins with"),
            ("cloudsync://localhost", "database is missing"),
            ("cloudsync://localhost/", "database is missing"),
            ("cloudsync:///db", "host is missing"),
            ("cloudsync://:8484/db", "host is missing"),
            ("cloudsync://ho st/db", "no spaces"),
            ("cloudsync://h\u{f6}st/db", "the host may"),
            ("cloudsync://localhost:0/db", "the port"),
            ("cloudsync://localhost:65536/db", "the port"),
            ("cloudsync://localhost:+1/db", "the port"),
            ("cloudsync://localhost:/db", "the port"),
            ("cloudsync://::1/db", "brackets"),
            ("cloudsync://[::1/db", "not closed"),
            ("cloudsync://[localhost]/db", "not an IPv6"),
            ("cloudsync://[::1]8484/db", "a ':' is missing"),
            ("http://example.com/db", "insecure=1"),
            ("https://example.com/db?insecure=1", "exclude each other"),
            ("cloudsync://localhost/db?insecure=yes", "0 or 1"),
            ("cloudsync://localhost/db?SECRET", "only apikey"),
            ("cloudsync://localhost/db?key=SECRET", "only apikey"),
            ("cloudsync://localhost/db?apikey=a#SECRET", "'#'"),
            ("cloudsync://SECRET:SECRET@localhost/db", "?apikey="),
        ] {
            let error = error(text);
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
