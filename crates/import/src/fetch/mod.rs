//! Fetching from http and https servers.
//!
//! Synchronous and with one connection: a download is a [`Download`], a reader that asks again from where it was when
//! a connection breaks, and that a later process can go on with. Nothing that came is trusted for having come: whoever
//! reads it hashes all of it, the bytes of an earlier run included.

mod agent;
mod download;
mod problem;
mod remote;
mod url;

pub use agent::FetchOptions;
pub use download::Traffic;
pub(crate) use download::{Download, Limits, fetch_small};
pub use problem::{FetchError, FetchProblem};
pub(crate) use url::Url;

/// Whether a word of the command line is meant as a URL.
#[must_use]
pub fn is_url(text: &str) -> bool {
    Url::is_meant(text)
}

/// The name of the file at a URL.
///
/// # Errors
/// [`FetchProblem::Url`].
pub fn url_file_name(text: &str) -> Result<Option<String>, FetchError> {
    Ok(Url::parse(text)?.file_name())
}

/// A URL without credentials and query, to be shown.
#[must_use]
pub fn shown_url(text: &str) -> String {
    Url::parse(text).map_or_else(|error| error.url, |url| url.shown())
}
