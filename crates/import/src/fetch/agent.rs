//! One request: the connection, its limits, and where redirects may lead.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::Agent;
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Body, config::Config};

use super::problem::{FetchError, FetchProblem};
use super::url::{Url, is_public};

/// Redirects that are followed.
const REDIRECTS: u32 = 5;

/// A modem was faster.
const MIN_RATE: u64 = 1024;

/// How to talk to servers.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Trust the certificates in this file and no others; by default those of Mozilla's list.
    pub ca_file: Option<std::path::PathBuf>,
    /// How long a server may be silent.
    pub patience: Duration,
    /// The fewest bytes a second, on average over [`FetchOptions::patience`] of waiting; 0 takes any.
    pub min_rate: u64,
    /// Keep what has come in the store until the end, so that a run that is killed can be gone on with.
    pub resumable: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { ca_file: None, patience: Duration::from_secs(60), min_rate: MIN_RATE, resumable: true }
    }
}

/// Makes requests.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    guard: Guard,
    /// One request at a time: the guard is about one.
    turn: Mutex<()>,
}

/// Which addresses may be connected to.
#[derive(Debug, Clone, Default)]
struct Guard {
    /// The user's own URL is being asked for: it may be anywhere.
    first: Arc<AtomicBool>,
    /// It is not on the internet, so redirects need not be either.
    private: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
#[error("not a public address")]
struct NotPublic;

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        let private = found.iter().any(|address| !is_public(address.ip()));
        if self.first.load(Ordering::Relaxed) {
            self.private.store(private, Ordering::Relaxed);
        } else if private && !self.private.load(Ordering::Relaxed) {
            return Err(ureq::Error::Other(Box::new(NotPublic)));
        }
        Ok(found)
    }
}

/// Headers of a request for a part of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// First byte.
    pub(crate) from: u64,
    /// Last byte; none for all that follows.
    pub(crate) to: Option<u64>,
    /// Only if the file still is this version.
    pub(crate) if_range: Option<String>,
}

impl Client {
    pub(crate) fn new(options: &FetchOptions) -> Result<Self, FetchError> {
        let roots = match &options.ca_file {
            Some(path) => certificates(path)?,
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_resolve(Some(options.patience.min(Duration::from_secs(30))))
            .timeout_connect(Some(options.patience.min(Duration::from_secs(30))))
            .timeout_recv_response(Some(options.patience))
            .timeout_per_read(Some(options.patience))
            .max_idle_connections(0)
            .build();
        let guard = Guard::default();
        Ok(Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), guard.clone()),
            guard,
            turn: Mutex::new(()),
        })
    }

    /// Asks for a file or a part of it, through redirects. Answers where it was found, and what.
    pub(crate) fn get(&self, url: &Url, part: Option<&Part>) -> Result<(Url, Response<Body>), FetchError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut here = url.clone();
        for hop in 0..=REDIRECTS {
            self.guard.first.store(hop == 0, Ordering::Relaxed);
            let response = self.ask(&here, part)?;
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            match (response.status().as_u16(), location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => here = here.redirected(location)?,
                _ => return Ok((here, response)),
            }
        }
        Err(FetchError { url: url.shown(), problem: FetchProblem::Redirects(REDIRECTS) })
    }

    fn ask(&self, url: &Url, part: Option<&Part>) -> Result<Response<Body>, FetchError> {
        let mut request = self.agent.get(url.address()).header("accept-encoding", "identity");
        if let Some(value) = url.authorization() {
            request = request.header("authorization", value);
        }
        if let Some(part) = part {
            let to = part.to.map_or_else(String::new, |to| to.to_string());
            request = request.header("range", format!("bytes={}-{to}", part.from));
            if let Some(validator) = &part.if_range {
                request = request.header("if-range", validator.as_str());
            }
        }
        let problem = |problem| FetchError { url: url.shown(), problem };
        request.call().map_err(|error| match error {
            ureq::Error::Other(_) => problem(FetchProblem::Private { host: host(url) }),
            error if is_about_certificate(&error) => {
                problem(FetchProblem::Untrusted { why: error.to_string() })
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => problem(FetchProblem::Url),
            error => problem(FetchProblem::Connection { at: 0, why: error.to_string() }),
        })
    }
}

/// Whether a connection was not made because of the server's certificate. rustls says so in one sentence, which
/// comes here in an error of the operating system's kind.
fn is_about_certificate(error: &ureq::Error) -> bool {
    error.to_string().contains("invalid peer certificate")
}

fn host(url: &Url) -> String {
    let shown = url.shown();
    let behind = shown.split_once("://").map_or("", |(_, behind)| behind);
    behind.split('/').next().unwrap_or_default().chars().take(100).collect()
}

fn certificates(path: &Path) -> Result<RootCerts, FetchError> {
    let bad = || FetchError {
        url: path.display().to_string(),
        problem: FetchProblem::Certificates { path: path.display().to_string() },
    };
    let pem = std::fs::read(path).map_err(|_| bad())?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err(bad()) } else { Ok(RootCerts::new_with_certs(&found)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::unversioned::transport::time::Duration as Wait;

    fn resolved(guard: &Guard, url: &str) -> bool {
        let timeout = NextTimeout {
            after: Wait::NotHappening,
            reason: ureq::Timeout::Global,
            per_read: None,
            per_write: None,
        };
        let config = Agent::config_builder().build();
        match guard.resolve(&url.parse().unwrap(), &config, timeout) {
            Ok(_) => true,
            Err(ureq::Error::Other(_)) => false,
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[test]
    fn a_public_server_cannot_send_us_to_this_machine_in_any_spelling() {
        let private = [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://localhost/",
            "http://169.254.169.254/latest/meta-data",
            "http://10.0.0.1:8080/",
            "http://0/",
        ];
        let guard = Guard::default();
        guard.first.store(true, Ordering::Relaxed);
        assert!(resolved(&guard, "https://93.184.215.14/"));
        guard.first.store(false, Ordering::Relaxed);
        for url in private {
            assert!(!resolved(&guard, url), "{url}");
        }
        assert!(resolved(&guard, "https://1.1.1.1/"));
        // Whoever names such a host may be sent to another.
        guard.first.store(true, Ordering::Relaxed);
        assert!(resolved(&guard, "http://127.0.0.1/"));
        guard.first.store(false, Ordering::Relaxed);
        for url in private {
            assert!(resolved(&guard, url), "{url}");
        }
    }
}
