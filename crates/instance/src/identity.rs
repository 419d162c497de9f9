//! What makes a machine another than its brothers.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::Result;

fn random<const LEN: usize>() -> Result<[u8; LEN]> {
    let mut bytes = [0_u8; LEN];
    let mut filled = 0;
    while filled < LEN {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        let got = getrandom(rest, GetRandomFlags::empty())
            .map_err(|errno| kiln_disk::Error::io("read", "random bytes", errno))?;
        filled += got;
    }
    Ok(bytes)
}

/// A random UUID (RFC 9562, version 4), lower case with hyphens.
pub(crate) fn uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::new();
    for (number, byte) in bytes.iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

/// A hardware address of the range that QEMU and KVM use, `52:54:00:xx:xx:xx`.
pub(crate) fn mac() -> Result<String> {
    let [a, b, c] = random()?;
    Ok(format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"))
}

/// A number below `end`, which is not 0.
pub(crate) fn number(end: u16) -> Result<u16> {
    Ok(u16::from_le_bytes(random()?) % end)
}
