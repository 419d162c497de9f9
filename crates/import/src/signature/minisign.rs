//! minisign signatures (Ed25519), prehashed and of the old kind.

use jiff::Timestamp;
use kiln_catalog::SignatureFacts;
use kiln_disk::{ByteSource, FileOffset, FileSource};
use minisign_verify::{Error, PublicKey, Signature};

use super::{SignatureProblem, armor};

type Result<T> = std::result::Result<T, SignatureProblem>;

/// The longest file that a signature of the old kind is verified of: all of it has to be in memory.
const MAX_LEGACY: u64 = 64 << 20;

struct Parts {
    key: PublicKey,
    signature: Signature,
    /// Ids of the key and of the signature's key, in hex as minisign prints them.
    key_id: String,
    signer_id: String,
    prehashed: bool,
}

/// Verifies a signature over bytes.
pub(super) fn bytes(key: &[u8], signature: &[u8], signed: &[u8]) -> Result<SignatureFacts> {
    let parts = parts(key, signature)?;
    parts.key.verify(signed, &parts.signature, true).map_err(|error| parts.problem(&error))?;
    Ok(parts.facts())
}

/// Verifies a signature over a file.
pub(super) fn file(key: &[u8], signature: &[u8], source: &FileSource) -> Result<SignatureFacts> {
    let parts = parts(key, signature)?;
    let len = source.byte_len();
    let unreadable = |_| SignatureProblem::Unreadable;
    if !parts.prehashed {
        if len > MAX_LEGACY {
            return Err(SignatureProblem::Legacy { len, allowed: MAX_LEGACY });
        }
        let mut all = vec![0; usize::try_from(len).unwrap_or(0)];
        source.read_bytes(FileOffset::ZERO, &mut all).map_err(unreadable)?;
        parts.key.verify(&all, &parts.signature, true).map_err(|error| parts.problem(&error))?;
        return Ok(parts.facts());
    }
    let mut verifier = parts.key.verify_stream(&parts.signature).map_err(|error| parts.problem(&error))?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0_u64;
    while at < len {
        let take = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..take).unwrap_or_default();
        source.read_bytes(FileOffset::new(at), part).map_err(unreadable)?;
        verifier.update(part);
        at += u64::try_from(take).unwrap_or(len);
    }
    verifier.finalize().map_err(|error| parts.problem(&error))?;
    Ok(parts.facts())
}

fn parts(key: &[u8], signature: &[u8]) -> Result<Parts> {
    let key_text = std::str::from_utf8(key).map_err(|_| SignatureProblem::Key)?.trim();
    let key = PublicKey::decode(key_text)
        .or_else(|_| PublicKey::from_base64(key_text))
        .map_err(|_| SignatureProblem::Key)?;
    let text = std::str::from_utf8(signature).map_err(|_| SignatureProblem::Unreadable)?;
    let signature = Signature::decode(text).map_err(|_| SignatureProblem::Unreadable)?;
    let key_line = key_text.lines().next_back().unwrap_or_default();
    let (_, key_id) = head(key_line).ok_or(SignatureProblem::Key)?;
    let line = text.lines().nth(1).unwrap_or_default();
    let (kind, signer_id) = head(line).ok_or(SignatureProblem::Unreadable)?;
    Ok(Parts { key, signature, key_id, signer_id, prehashed: kind == *b"ED" })
}

/// The algorithm and the key's id at the beginning of a line of base64.
fn head(line: &str) -> Option<([u8; 2], String)> {
    let bytes = armor::base64(line.trim())?;
    let id = bytes.get(2..10)?.iter().rev().map(|byte| format!("{byte:02X}")).collect();
    Some((*bytes.first_chunk()?, id))
}

impl Parts {
    fn problem(&self, error: &Error) -> SignatureProblem {
        match error {
            Error::UnexpectedKeyId => SignatureProblem::UnknownKey { key: self.signer_id.clone() },
            Error::InvalidSignature => SignatureProblem::Bad,
            _ => SignatureProblem::Unreadable,
        }
    }

    fn facts(&self) -> SignatureFacts {
        let comment = self.signature.trusted_comment();
        let stamp = comment.split_ascii_whitespace().find_map(|word| word.strip_prefix("timestamp:"));
        let signed_at = stamp.and_then(|seconds| seconds.parse().ok());
        let visible: String =
            comment.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).take(200).collect();
        SignatureFacts {
            scheme: "minisign".to_owned(),
            key: self.key_id.clone(),
            name: (!visible.is_empty()).then_some(visible),
            algorithm: if self.prehashed { "ed25519, blake2b" } else { "ed25519" }.to_owned(),
            signed_at: signed_at.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        }
    }
}
