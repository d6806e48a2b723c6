//! Networks of addresses, as `10.0.0.0/8`.

use std::net::IpAddr;

/// An address, or all that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Reads a list with commas between: `127.0.0.1, 10.0.0.0/8, fd00::/8`. Nothing is an empty list.
    ///
    /// # Errors
    /// The part that is none.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| Self::read(part).ok_or_else(|| part.to_owned())).collect()
    }

    fn read(text: &str) -> Option<Self> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address = address.parse::<IpAddr>().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => u128::from(own.to_bits() ^ other.to_bits()) << 96,
            (IpAddr::V6(own), IpAddr::V6(other)) => own.to_bits() ^ other.to_bits(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        differs.leading_zeros() >= self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_their_addresses() {
        let contains = |list: &str, address: &str| {
            Network::list(list).unwrap().iter().any(|network| network.contains(address.parse().unwrap()))
        };
        for (list, address, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("10.0.0.0/8, fd00::/8", "10.255.1.1", true),
            ("10.0.0.0/8, fd00::/8", "11.0.0.0", false),
            ("10.0.0.0/8, fd00::/8", "fd12::1", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("10.1.2.3/31", "10.1.2.2", true),
            ("", "1.2.3.4", false),
        ] {
            assert_eq!(contains(list, address), expected, "{list} {address}");
        }
        for wrong in ["localhost", "10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0", "1.2.3.4/-1"] {
            assert_eq!(Network::list(&format!("127.0.0.1, {wrong}")), Err(wrong.to_owned()));
        }
    }
}
