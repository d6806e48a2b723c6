//! Whose word counts for the server's certificate.

use std::path::Path;
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// Most bytes of a file with certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the setting `network_ca`: certificates in PEM, or the path of a file with them.
///
/// # Errors
/// When the file cannot be read or there is no certificate in it.
pub(crate) fn read(setting: &str) -> Result<RootCerts, String> {
    let text = if setting.contains("-----BEGIN") {
        setting.as_bytes().to_vec()
    } else {
        let failed = |reason: String| format!("cannot read the file {setting}: {reason}");
        let size = std::fs::metadata(Path::new(setting)).map_err(|error| failed(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(failed(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        std::fs::read(setting).map_err(|error| failed(error.to_string()))?
    };
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) if is_der(certificate.der()) => {
                certificates.push(certificate)
            }
            Ok(PemItem::Certificate(_)) => return Err("a certificate in it is damaged".into()),
            // Files with a key beside the certificate are common.
            Ok(_) => {}
            Err(error) => return Err(format!("what stands there is not PEM: {error}")),
        }
    }
    if certificates.is_empty() {
        return Err("there is no certificate in it: it must hold -----BEGIN CERTIFICATE-----".into());
    }
    Ok(RootCerts::from(certificates))
}

/// Whether bytes are one DER sequence and nothing else: rustls skips what it cannot read without a word, and then trusts
/// nobody.
fn is_der(bytes: &[u8]) -> bool {
    let [0x30, first, rest @ ..] = bytes else { return false };
    let count = usize::from(first & 0x7F);
    if first & 0x80 == 0 {
        return rest.len() == count;
    }
    let Some((length, body)) = rest.split_at_checked(count) else { return false };
    count <= 4 && length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) == body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "no certificate").unwrap();
        let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        for (setting, expected) in [
            ("/nowhere/ca.pem".to_owned(), "cannot read the file /nowhere/ca.pem"),
            (path.to_string_lossy().into_owned(), "there is no certificate in it"),
            (folder.path().to_string_lossy().into_owned(), "cannot read the file"),
            (pem("AAAA"), "damaged"),
            (pem("MIIB"), "damaged"),
            (pem("!!!!"), "not PEM"),
            ("-----BEGIN NONSENSE-----".to_owned(), ""),
        ] {
            let error = read(&setting).err().unwrap_or_default();
            assert!(!error.is_empty() && error.contains(expected), "{setting}: {error}");
        }
        assert!(read(&pem("MAA=")).is_ok());
    }
}
