//! Proxies, as the environment names them.
//!
//! `HTTPS_PROXY` is for servers behind HTTPS, `HTTP_PROXY` for those behind plain HTTP, `ALL_PROXY` for both, and
//! `NO_PROXY` lists hosts that are reached directly. The names may be in lower case, which comes first.

use ureq::{Proxy, ProxyProtocol};

/// The proxy for a server, `None` for a direct connection. `read` gives a variable of the environment.
///
/// # Errors
/// When the variable that counts names no proxy that is understood; its text, which may hold a password, is not told.
pub(crate) fn choose(
    host: &str,
    port: u16,
    is_plain: bool,
    read: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, String> {
    let find = |name: &str| {
        let found = read(&name.to_ascii_lowercase()).or_else(|| read(name))?;
        let found = found.trim().to_owned();
        (!found.is_empty()).then_some(found)
    };
    let names = if is_plain { ["HTTP_PROXY", "ALL_PROXY"] } else { ["HTTPS_PROXY", "ALL_PROXY"] };
    let Some((name, text)) = names.into_iter().find_map(|name| Some((name, find(name)?))) else {
        return Ok(None);
    };
    if find("NO_PROXY").is_some_and(|list| is_listed(&list, host, port)) {
        return Ok(None);
    }
    let proxy = Proxy::new(&text).ok();
    let spoken = |proxy: &Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    proxy.filter(spoken).map(Some).ok_or_else(|| {
        format!(
            "the environment variable {name} names no HTTP proxy: write it as http://HOST:PORT, or unset it"
        )
    })
}

/// Whether a list of `NO_PROXY` holds a host: `*`, the host or a domain above it, with or without a dot before it, and
/// perhaps with a port.
fn is_listed(list: &str, host: &str, port: u16) -> bool {
    list.split([',', ' ']).map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        let (name, its_port) = match entry.rsplit_once(':') {
            // More colons are those of an IPv6 address.
            Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, Some(digits)),
            _ => (entry.as_str(), None),
        };
        if its_port.is_some_and(|its_port| its_port.parse() != Ok(port)) {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
        let above = host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        name == "*" || !name.is_empty() && above
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(host: &str, is_plain: bool, environment: &[(&str, &str)]) -> Result<Option<String>, String> {
        let read = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let proxy = choose(host, 443, is_plain, read)?;
        Ok(proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())))
    }

    #[test]
    fn the_variable_of_the_scheme_counts() {
        let both = [("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "http://secure:2")];
        assert_eq!(chosen("h", true, &both), Ok(Some("plain:1".into())));
        assert_eq!(chosen("h", false, &both), Ok(Some("secure:2".into())));
        assert_eq!(chosen("h", false, &both[..1]), Ok(None));
        assert_eq!(chosen("h", false, &[("ALL_PROXY", "all:3"), both[0]]), Ok(Some("all:3".into())));
        let cases = [("HTTPS_PROXY", "upper:4"), ("https_proxy", "http://user:word@lower:5")];
        assert_eq!(chosen("h", false, &cases), Ok(Some("lower:5".into())));
        assert_eq!(chosen("h", false, &[("https_proxy", " "), ("HTTPS_PROXY", "")]), Ok(None));
    }

    #[test]
    fn hosts_can_be_left_out() {
        for (list, host, direct) in [
            ("*", "sync.example.com", true),
            ("example.com", "sync.example.com", true),
            (".example.com", "sync.example.com", true),
            ("*.example.com", "sync.example.com", true),
            ("example.com", "example.com", true),
            ("a.com, Example.com:443", "example.com", true),
            ("example.com:80", "example.com", false),
            ("ample.com", "example.com", false),
            ("example.com.evil", "example.com", false),
            ("", "example.com", false),
            (",,", "example.com", false),
            ("10.0.0.7", "10.0.0.7", true),
            ("[fd00::1]:443", "fd00::1", true),
            ("fd00::1", "fd00::1", true),
        ] {
            let environment = [("all_proxy", "proxy:1"), ("no_proxy", list)];
            assert_eq!(chosen(host, false, &environment) == Ok(None), direct, "{list} and {host}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_an_error_that_hides_its_text() {
        for text in ["socks5://user:SECRET@host:1", "http://", "ftp://SECRET", "http://[SECRET"] {
            let error = chosen("h", false, &[("ALL_PROXY", text)]).unwrap_err();
            assert!(error.contains("ALL_PROXY") && !error.contains("SECRET"), "{error}");
        }
    }
}
