//! Every way in which fetching something goes wrong. No message holds credentials or the query of a URL.

use kiln_catalog::Family;

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct FetchError {
    /// The URL, without credentials and query.
    pub url: String,
    /// What happened.
    #[source]
    pub problem: FetchProblem,
}

/// What happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchProblem {
    /// Not a URL that names a file on a server.
    #[error("this is no http or https URL of a file")]
    Url,
    /// Nothing would prove what comes.
    #[error("nothing would prove what comes: no digest, no checksum list, no signature")]
    Unproved,
    /// The same without encryption, where a flag does not help.
    #[error("plain http needs a digest, a checksum list or a signature")]
    Plain,
    /// The server sends us round and round.
    #[error("more than {0} redirects")]
    Redirects(u32),
    /// The server sends us somewhere that is no place for a file.
    #[error("redirected to a {0:?} address")]
    RedirectScheme(String),
    /// The server sends us from https to http.
    #[error("redirected from https to http")]
    Downgrade,
    /// A public server sends us to a private address.
    #[error("redirected to {host}, which is no public address")]
    Private {
        /// The host, as the server wrote it.
        host: String,
    },
    /// The server's answer is no.
    #[error("the server answers {status}")]
    Status {
        /// The status code.
        status: u16,
    },
    /// The connection could not be made, or broke.
    #[error("the connection failed at byte {at}: {why}")]
    Connection {
        /// Bytes that had come.
        at: u64,
        /// What the network says.
        why: String,
    },
    /// The server is not known to be the one that it says it is.
    #[error("the server's certificate is not trusted: {why}")]
    Untrusted {
        /// What is wrong with it.
        why: String,
    },
    /// The file on the server is another one than at the beginning.
    #[error("the file changed on the server during the download, at byte {at}")]
    Changed {
        /// Bytes that had come.
        at: u64,
    },
    /// The server cannot go on in the middle, and nothing proves that the beginning is the same.
    #[error("the server cannot resume at byte {at}, and nothing proves that the file is the same")]
    NoResume {
        /// Bytes that had come.
        at: u64,
    },
    /// More than was allowed.
    #[error("the file has {len} bytes, at most {allowed} are taken")]
    TooLong {
        /// Its length.
        len: u64,
        /// The limit.
        allowed: u64,
    },
    /// A file of certificates that has none.
    #[error("{path}: no certificates in PEM form")]
    Certificates {
        /// The file.
        path: String,
    },
}

impl FetchError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.problem {
            FetchProblem::Url => "fetch.url",
            FetchProblem::Unproved => "fetch.unproved",
            FetchProblem::Plain => "fetch.plain",
            FetchProblem::Redirects(_) => "fetch.redirect.loop",
            FetchProblem::RedirectScheme(_) => "fetch.redirect.scheme",
            FetchProblem::Downgrade => "fetch.redirect.downgrade",
            FetchProblem::Private { .. } => "fetch.redirect.private",
            FetchProblem::Status { .. } => "fetch.status",
            FetchProblem::Connection { .. } => "fetch.connection",
            FetchProblem::Untrusted { .. } => "fetch.untrusted",
            FetchProblem::Changed { .. } => "fetch.changed",
            FetchProblem::NoResume { .. } => "fetch.no-resume",
            FetchProblem::TooLong { .. } => "fetch.too-long",
            FetchProblem::Certificates { .. } => "fetch.certificates",
        }
    }

    /// What to do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self.problem {
            FetchProblem::Url => "write https://HOST/PATH",
            FetchProblem::Unproved => {
                "give --sha256 HEX, or --checksums FILE|URL, or a signature; --insecure-no-digest does without"
            }
            FetchProblem::Plain => {
                "give --sha256 HEX, or --checksums FILE|URL with a signature, or use https"
            }
            FetchProblem::Redirects(_)
            | FetchProblem::RedirectScheme(_)
            | FetchProblem::Downgrade
            | FetchProblem::Private { .. } => "if that is where the file is, name that place yourself",
            FetchProblem::Status { status: 401 | 403 } => {
                "the server wants to know who asks: https://USER:PASSWORD@HOST/..., or a signed URL"
            }
            FetchProblem::Status { .. } => "look at the URL in a browser",
            FetchProblem::Connection { .. } => {
                "give the same command again: a download that broke off goes on where it was"
            }
            FetchProblem::Untrusted { .. } => {
                "if it is a server of your own, name its authority's certificate with --ca-file"
            }
            FetchProblem::Changed { .. } | FetchProblem::NoResume { .. } => "give the same command again",
            FetchProblem::TooLong { .. } => "allow it with --max-size, if you expect it",
            FetchProblem::Certificates { .. } => "name a file with -----BEGIN CERTIFICATE----- in it",
        }
    }

    /// Who should look at it.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.problem {
            FetchProblem::Status { .. }
            | FetchProblem::Connection { .. }
            | FetchProblem::Untrusted { .. }
            | FetchProblem::Changed { .. }
            | FetchProblem::NoResume { .. }
            | FetchProblem::Certificates { .. } => Family::Io,
            _ => Family::Refused,
        }
    }

    /// Whether what has come so far is worth keeping.
    pub(crate) const fn can_go_on(&self) -> bool {
        matches!(self.problem, FetchProblem::Status { status: 429 | 500.. } | FetchProblem::Connection { .. })
    }
}
