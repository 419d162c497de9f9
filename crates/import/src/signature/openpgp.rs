//! OpenPGP signatures, verified by gpgv: no shell, no home directory, no environment but the path.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use kiln_catalog::SignatureFacts;

use super::{SignatureProblem, armor, put};

/// A verification.
pub(super) struct Job<'a> {
    /// A private directory.
    pub(super) dir: &'a Path,
    /// The file of trusted keys.
    pub(super) keys: &'a [u8],
    /// The detached signature.
    pub(super) signature: Option<&'a [u8]>,
}

type Result<T> = std::result::Result<T, SignatureProblem>;

/// The most that a verified list may have.
const MAX_LIST: u64 = 16 << 20;

impl Job<'_> {
    /// Verifies a list of checksums; answers what of it is signed.
    pub(super) fn list(&self, list: Vec<u8>) -> Result<(Vec<u8>, SignatureFacts)> {
        let (file, path) = put(self.dir, "signed", &list).map_err(failed)?;
        if self.signature.is_some() {
            drop(file);
            let file = File::open(&path).map_err(failed)?;
            return Ok((list, self.file(&file)?));
        }
        // What is outside of the signed part is nobody's word: gpgv gives the part alone.
        let out = std::path::absolute(self.dir.join("verified")).map_err(failed)?;
        let mut command = self.gpgv()?;
        command.arg("--output").arg(&out).arg(&path);
        let facts = judge(&run(command, Stdio::null())?)?;
        let mut signed = Vec::new();
        let file = File::open(&out).map_err(failed)?;
        file.take(MAX_LIST).read_to_end(&mut signed).map_err(failed)?;
        Ok((signed, facts))
    }

    /// Verifies a detached signature over a file.
    pub(super) fn file(&self, file: &File) -> Result<SignatureFacts> {
        let signature = self.signature.ok_or(SignatureProblem::Missing)?;
        let (_, path) = put(self.dir, "signature", signature).map_err(failed)?;
        let mut input = file.try_clone().map_err(failed)?;
        input.rewind().map_err(failed)?;
        let mut command = self.gpgv()?;
        command.arg(&path).arg("-");
        judge(&run(command, input.into())?)
    }

    fn gpgv(&self) -> Result<Command> {
        let keys = armor::keys(self.keys).filter(|keys| !keys.is_empty()).ok_or(SignatureProblem::Key)?;
        let (_, keyring) = put(self.dir, "keyring.gpg", &keys).map_err(failed)?;
        let mut command = Command::new("gpgv");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C")
            .arg("--homedir")
            .arg(std::path::absolute(self.dir).map_err(failed)?)
            .args(["--status-fd", "1", "--keyring"])
            .arg(keyring);
        Ok(command)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: std::io::Error) -> SignatureProblem {
    SignatureProblem::Gpgv(error.to_string())
}

/// How gpgv ended: whether well, its status lines, what it said.
struct Ended {
    well: bool,
    status: String,
    said: String,
}

fn run(mut command: Command, input: Stdio) -> Result<Ended> {
    let output = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => SignatureProblem::NoGpgv,
        _ => failed(error),
    })?;
    Ok(Ended {
        well: output.status.success(),
        status: String::from_utf8_lossy(&output.stdout).into_owned(),
        said: String::from_utf8_lossy(&output.stderr).lines().next_back().unwrap_or_default().to_owned(),
    })
}

/// Reads gpgv's status lines (GnuPG, doc/DETAILS). One good signature by a trusted key is enough, and one that does
/// not fit is too much: vendors sign with an old and a new key, and only one of them may be known here.
fn judge(ended: &Ended) -> Result<SignatureFacts> {
    let mut name = None;
    let mut found = None;
    let mut problem = None;
    for line in ended.status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")) {
        let mut words = line.split(' ');
        let (word, first) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let key = visible(first);
        match word {
            "NEWSIG" => name = None,
            "GOODSIG" => name = line.splitn(3, ' ').nth(2).map(visible),
            "VALIDSIG" => match facts(line, name.take()) {
                // Without GOODSIG before it, key or signature are expired or revoked.
                Ok(facts) if facts.name.is_some() => found = found.or(Some(facts)),
                Ok(_) => {}
                Err(weak) => problem = problem.or(Some(weak)),
            },
            "BADSIG" => return Err(SignatureProblem::Bad),
            "EXPSIG" => problem = Some(SignatureProblem::Expired { key }),
            "EXPKEYSIG" => problem = Some(SignatureProblem::KeyExpired { key }),
            "REVKEYSIG" => return Err(SignatureProblem::KeyRevoked { key }),
            "NO_PUBKEY" => problem = problem.or(Some(SignatureProblem::UnknownKey { key })),
            "NODATA" | "UNEXPECTED" | "BADARMOR" => {
                problem = problem.or(Some(SignatureProblem::Unreadable));
            }
            _ => {}
        }
    }
    match (found, problem) {
        (Some(facts), None) if ended.well => Ok(facts),
        // gpgv fails when one of several keys is not known.
        (Some(facts), Some(SignatureProblem::UnknownKey { .. })) => Ok(facts),
        (_, Some(problem)) => Err(problem),
        (_, None) => Err(SignatureProblem::Gpgv(visible(&ended.said))),
    }
}

fn visible(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(200).collect()
}

/// `VALIDSIG fpr date timestamp expires version reserved key-algorithm digest-algorithm class primary-fpr`.
fn facts(line: &str, name: Option<String>) -> Result<SignatureFacts> {
    let fields: Vec<&str> = line.split(' ').collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or_default();
    let key = visible(if field(10).is_empty() { field(1) } else { field(10) });
    let cipher = match field(7) {
        "1" => "rsa",
        "17" => "dsa",
        "19" => "ecdsa",
        "22" => "eddsa",
        "27" => "ed25519",
        "28" => "ed448",
        _ => "other",
    };
    let digest = match field(8) {
        "1" => "md5",
        "2" => "sha1",
        "3" => "ripemd160",
        "8" => "sha256",
        "9" => "sha384",
        "10" => "sha512",
        "11" => "sha224",
        "12" => "sha3-256",
        "14" => "sha3-512",
        _ => "other",
    };
    if matches!(digest, "md5" | "sha1" | "ripemd160") {
        return Err(SignatureProblem::Weak { key, algorithm: digest.to_owned() });
    }
    let signed_at = field(3).parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let algorithm = format!("{cipher}, {digest}");
    Ok(SignatureFacts { scheme: "openpgp".to_owned(), key, name, algorithm, signed_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "F6ECB3762474EDA9D21B7022871920D1991BC93C";

    fn judged(well: bool, status: &str) -> Result<SignatureFacts> {
        judge(&Ended { well, status: status.to_owned(), said: "said".to_owned() })
    }

    fn valid(digest: &str) -> String {
        format!("[GNUPG:] VALIDSIG {KEY} 2026-01-02 1767312000 0 4 0 1 {digest} 00 {KEY}\n")
    }

    #[test]
    fn a_good_signature_tells_who_and_when() {
        let facts = judged(
            true,
            &format!("[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 871920D1991BC93C A B <a@b>\n{}", valid("10")),
        );
        let facts = facts.unwrap();
        assert_eq!((facts.key.as_str(), facts.name.as_deref()), (KEY, Some("A B <a@b>")));
        assert_eq!(facts.algorithm, "rsa, sha512");
        assert_eq!(facts.signed_at.unwrap().as_second(), 1_767_312_000);
    }

    #[test]
    fn everything_else_is_named() {
        let good = "[GNUPG:] GOODSIG 871920D1991BC93C A\n";
        let code = |well, status: &str| {
            super::super::SignatureError { what: String::new(), problem: judged(well, status).unwrap_err() }
                .code()
        };
        assert_eq!(code(false, "[GNUPG:] BADSIG 8719 A\n"), "signature.bad");
        assert_eq!(code(true, &format!("{good}{}", valid("2"))), "signature.weak");
        assert_eq!(
            code(false, "[GNUPG:] ERRSIG 1 1 8 00 1 9 -\n[GNUPG:] NO_PUBKEY 1\n"),
            "signature.unknown-key"
        );
        assert_eq!(
            code(true, &format!("[GNUPG:] EXPKEYSIG 8719 A\n{}", valid("10"))),
            "signature.key-expired"
        );
        assert_eq!(code(true, &format!("[GNUPG:] EXPSIG 8719 A\n{}", valid("10"))), "signature.expired");
        assert_eq!(
            code(true, &format!("[GNUPG:] REVKEYSIG 8719 A\n{}", valid("10"))),
            "signature.key-revoked"
        );
        assert_eq!(code(false, "[GNUPG:] NODATA 4\n"), "signature.unreadable");
        assert_eq!(code(true, ""), "signature.gpgv");
        // A good one beside one that does not fit.
        assert_eq!(code(false, &format!("{good}{}[GNUPG:] BADSIG 8719 A\n", valid("10"))), "signature.bad");
        // A good one beside one by an unknown key.
        judged(false, &format!("{good}{}[GNUPG:] NEWSIG\n[GNUPG:] NO_PUBKEY 1\n", valid("10"))).unwrap();
    }
}
