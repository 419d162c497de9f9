//! URLs, and which hosts a server may send us to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::http::Uri;

use super::problem::{FetchError, FetchProblem};

/// A http or https URL of a file, taken apart.
#[derive(Clone)]
pub(crate) struct Url {
    https: bool,
    /// `user:password`, percent-decoded.
    credentials: Option<Vec<u8>>,
    /// Host and port.
    authority: String,
    /// Path and query.
    rest: String,
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Url").field(&self.shown()).finish()
    }
}

impl Url {
    /// Whether a word of the command line is meant as a URL.
    pub(crate) fn is_meant(text: &str) -> bool {
        let head = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        head.starts_with("http://") || head.starts_with("https://")
    }

    /// Takes a URL apart.
    ///
    /// # Errors
    /// [`FetchProblem::Url`].
    pub(crate) fn parse(text: &str) -> Result<Self, FetchError> {
        let parsed = Self::split(text);
        parsed.ok_or_else(|| FetchError { url: shown_of_any(text), problem: FetchProblem::Url })
    }

    fn split(text: &str) -> Option<Self> {
        let (scheme, behind) = text.split_once("://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let behind = behind.split('#').next()?;
        let end = behind.find(['/', '?']).unwrap_or(behind.len());
        let (authority, rest) = behind.split_at_checked(end)?;
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(unpercent(credentials)), authority),
            None => (None, authority),
        };
        let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        let url = Self { https, credentials, authority: authority.to_ascii_lowercase(), rest };
        let uri: Uri = url.address().parse().ok()?;
        let host = uri.host()?;
        (!host.is_empty() && uri.authority()?.as_str() == url.authority).then_some(url)
    }

    /// What to connect to: no credentials in it.
    pub(crate) fn address(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.rest)
    }

    /// For messages and records: no credentials and no query, which may be a signature.
    pub(crate) fn shown(&self) -> String {
        let address = self.address();
        address.split('?').next().unwrap_or_default().to_owned()
    }

    pub(crate) const fn is_https(&self) -> bool {
        self.https
    }

    /// The last part of the path, percent-decoded.
    pub(crate) fn file_name(&self) -> Option<String> {
        let path = self.rest.split('?').next()?;
        let name = String::from_utf8(unpercent(path.rsplit('/').next()?)).ok()?;
        let plain = !name.is_empty() && !name.contains('/') && !name.chars().any(char::is_control);
        plain.then_some(name)
    }

    /// The value of a header Authorization.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.credentials.as_ref().map(|credentials| format!("Basic {}", base64(credentials)))
    }

    /// Where a redirect leads. Credentials go along to the same place and nowhere else.
    ///
    /// # Errors
    /// [`FetchProblem::RedirectScheme`], [`FetchProblem::Downgrade`], [`FetchProblem::Url`].
    pub(crate) fn redirected(&self, location: &str) -> Result<Self, FetchError> {
        let refuse = |problem| FetchError { url: self.shown(), problem };
        let scheme = location.split(['/', '?', '#']).next().and_then(|head| head.split_once(':'));
        let mut next = match scheme {
            Some((scheme, _)) if !Self::is_meant(location) => {
                let scheme = scheme.chars().filter(|sign| sign.is_ascii_graphic()).take(20).collect();
                return Err(refuse(FetchProblem::RedirectScheme(scheme)));
            }
            Some(_) => Self::parse(location)?,
            None => {
                let scheme = if self.https { "https" } else { "http" };
                if location.starts_with("//") {
                    Self::parse(&format!("{scheme}:{location}"))?
                } else {
                    let path = self.rest.split('?').next().unwrap_or_default();
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let rest = match location.chars().next() {
                        Some('/') => location.to_owned(),
                        Some('?') => format!("{path}{location}"),
                        _ => format!("{folder}/{location}"),
                    };
                    Self::parse(&format!("{scheme}://{}{rest}", self.authority))?
                }
            }
        };
        if self.https && !next.https {
            return Err(refuse(FetchProblem::Downgrade));
        }
        if next.credentials.is_none() && next.https == self.https && next.authority == self.authority {
            next.credentials.clone_from(&self.credentials);
        }
        Ok(next)
    }
}

/// What of a text that may hold credentials can be shown.
fn shown_of_any(text: &str) -> String {
    let cut = text.split(['?', '#']).next().unwrap_or_default();
    let tail = cut.rsplit('@').next().unwrap_or_default();
    let scheme = cut.split_once("://").map_or("", |(scheme, _)| scheme);
    let shown = if cut.contains('@') { format!("{scheme}://{tail}") } else { cut.to_owned() };
    shown.chars().filter(|sign| !sign.is_control()).take(200).collect()
}

fn unpercent(text: &str) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = (*first == b'%').then(|| behind.get(..2)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    plain
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut word = 0_u32;
        for byte in 0..3 {
            word = word << 8 | u32::from(group.get(byte).copied().unwrap_or(0));
        }
        for sign in 0..4_usize {
            let six = word >> (18 - 6 * sign) & 63;
            let shown = usize::try_from(six).ok().and_then(|six| SIGNS.get(six)).copied().unwrap_or(b'=');
            text.push(if sign > group.len() { '=' } else { char::from(shown) });
        }
    }
    text
}

/// Whether an address is anybody's on the internet: not this machine, not its network.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let [g1, g2] = g.to_be_bytes();
    let [h1, h2] = h.to_be_bytes();
    let low = Ipv4Addr::new(g1, g2, h1, h2);
    match (a, b) {
        // Unspecified, loopback, IPv4-compatible and IPv4-mapped.
        (0, 0) if (c, d, e) == (0, 0, 0) => f == 0xffff && is_public_v4(low),
        // NAT64: the address behind it counts.
        (0x64, 0xff9b) => (c, d, e, f) == (0, 0, 0, 0) && is_public_v4(low),
        // 6to4, the same.
        (0x2002, _) => {
            let ([b1, b2], [c1, c2]) = (b.to_be_bytes(), c.to_be_bytes());
            is_public_v4(Ipv4Addr::new(b1, b2, c1, c2))
        }
        (0x2001, 0 | 0xdb8) => false,
        // Global unicast.
        (0x2000..=0x3fff, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        for text in [
            "https://user:pa%40ss@example.org/a/disk.raw?sig=SECRET#x",
            "https://example.org/a/disk.raw?sig=SECRET",
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.shown(), "https://example.org/a/disk.raw");
            assert_eq!(format!("{url:?}"), "Url(\"https://example.org/a/disk.raw\")");
            assert_eq!(url.file_name().as_deref(), Some("disk.raw"));
        }
        let url = Url::parse("https://user:pa%40ss@example.org/x").unwrap();
        assert_eq!(url.authorization().unwrap(), "Basic dXNlcjpwYUBzcw==");
        let error = Url::parse("ftp://user:SECRET@example.org/x?SECRET").unwrap_err();
        assert!(!error.to_string().contains("SECRET"), "{error}");
        for bad in ["https://", "https:///x", "https://a b/", "file:///etc/passwd", "x", "https://user:p@/x"]
        {
            assert_eq!(Url::parse(bad).unwrap_err().code(), "fetch.url", "{bad}");
        }
    }

    #[test]
    fn redirects_stay_encrypted_and_take_credentials_nowhere_else() {
        let url = Url::parse("https://u:p@example.org/a/b?q").unwrap();
        let to = |location: &str| {
            url.redirected(location).map(|next| (next.address(), next.credentials.is_some()))
        };
        assert_eq!(to("/c").unwrap(), ("https://example.org/c".to_owned(), true));
        assert_eq!(to("c").unwrap(), ("https://example.org/a/c".to_owned(), true));
        assert_eq!(to("?x").unwrap(), ("https://example.org/a/b?x".to_owned(), true));
        assert_eq!(to("//other.org/c").unwrap(), ("https://other.org/c".to_owned(), false));
        assert!(!to("https://example.org:8443/c").unwrap().1);
        assert_eq!(to("http://example.org/c").unwrap_err().code(), "fetch.redirect.downgrade");
        for bad in ["file:///etc/passwd", "ftp://example.org/", "data:,x", "javascript:x"] {
            assert_eq!(to(bad).unwrap_err().code(), "fetch.redirect.scheme", "{bad}");
        }
    }

    #[test]
    fn private_addresses_are_known_in_all_forms() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "151.101.2.132", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
