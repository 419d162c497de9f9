//! What the user says the digests must be.

use kiln_disk::digest::{Algorithm, ContentDigest, Digest, DiskDigests, LeafFile};

use super::{Args, read_leaves};
use kiln_import::{FetchOptions, Place};

use crate::error::{CliError, Result};
use crate::input::is_dash;

/// Digests that must match.
pub(super) struct Expected {
    transport: Vec<(String, Digest)>,
    content: Option<ContentDigest>,
    pub(super) leaves: Option<LeafFile>,
}

/// One comparison made.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    /// Which digest: "file", "content".
    pub(super) what: &'static str,
    /// Who said what it must be.
    pub(super) given_by: String,
    pub(super) expected: String,
    /// None when the file is too damaged to have one.
    pub(super) found: Option<String>,
}

impl Verdict {
    pub(super) fn matches(&self) -> bool {
        self.found.as_deref() == Some(self.expected.as_str())
    }
}

impl Expected {
    /// Reads everything that the command line names, before any work is done.
    pub(super) fn of(args: &Args) -> Result<Self> {
        let mut transport = Vec::new();
        if let Some(hex) = &args.sha256 {
            transport.push(("--sha256".to_owned(), sha256_of(hex)?));
        }
        if let Some(path) = &args.checksums {
            let name = (!is_dash(&args.subject)).then(|| args.subject.to_string_lossy());
            let url = path.to_str().filter(|text| kiln_import::is_url(text));
            let list = url.map_or_else(|| path.display().to_string(), kiln_import::shown_url);
            let options = FetchOptions { ca_file: args.ca_file.clone(), ..FetchOptions::default() };
            for expected in kiln_import::expected_at(&Place::of(path), name.as_deref(), &options)? {
                let line = expected.listed.map_or(0, |(_, line)| line);
                transport.push((format!("{list} line {line}"), expected.digest));
            }
        }
        let leaves = args.leaves.as_deref().map(read_leaves).transpose()?;
        Ok(Self { transport, content: args.content_digest, leaves })
    }

    /// The algorithms that comparing takes.
    pub(super) fn transport_algorithms(&self) -> Vec<Algorithm> {
        let mut algorithms = Vec::new();
        for (_, digest) in &self.transport {
            if !algorithms.contains(&digest.algorithm()) {
                algorithms.push(digest.algorithm());
            }
        }
        algorithms
    }

    /// Compares the content digest alone.
    pub(super) fn judge_content(&self, found: Option<ContentDigest>) -> Vec<Verdict> {
        let verdict = self.content.map(|expected| Verdict {
            what: "content",
            given_by: "--content-digest".to_owned(),
            expected: expected.to_string(),
            found: found.map(|found| found.to_string()),
        });
        verdict.into_iter().collect()
    }

    /// Compares.
    pub(super) fn judge(&self, transport: &[Digest], digests: Option<&DiskDigests>) -> Vec<Verdict> {
        let of_file = self.transport.iter().map(|(given_by, expected)| Verdict {
            what: "file",
            given_by: given_by.clone(),
            expected: expected.to_string(),
            found: transport
                .iter()
                .find(|digest| digest.algorithm() == expected.algorithm())
                .map(ToString::to_string),
        });
        of_file.chain(self.judge_content(digests.map(|digests| digests.content))).collect()
    }
}

/// A SHA-256 in hex digits, with or without `sha256:`.
pub(crate) fn sha256_of(text: &str) -> Result<Digest> {
    let bad = |why: String| {
        CliError::usage(
            "usage.sha256",
            format!("--sha256 {text:?} is no SHA-256: {why}"),
            "give the 64 hex digits that sha256sum prints; other algorithms come in a file, with --checksums",
        )
    };
    let digest: Digest =
        text.parse().map_err(|error: kiln_disk::digest::ParseDigestError| bad(error.to_string()))?;
    if digest.algorithm() == Algorithm::Sha256 {
        Ok(digest)
    } else {
        Err(bad(format!("it is as long as an {}", digest.algorithm().name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sha256_is_taken_for_one() {
        let hex = "ab".repeat(32);
        assert_eq!(sha256_of(&hex).unwrap().to_string(), format!("sha256:{hex}"));
        assert_eq!(sha256_of(&format!("sha256:{hex}")).unwrap().hex(), hex);
        for bad in ["ab", "", "zz", &"ab".repeat(64), &"ab".repeat(16)] {
            assert_eq!(sha256_of(bad).unwrap_err().code(), "usage.sha256", "{bad}");
        }
    }
}
