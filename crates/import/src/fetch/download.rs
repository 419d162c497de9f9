//! A download that goes on where it broke off.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kiln_catalog::{DownloadRecord, Partial, Store};
use kiln_disk::digest::{Algorithm, hash_source};
use kiln_disk::{ByteSource, MemorySource, Silent};
use serde::{Deserialize, Serialize};
use ureq::Body;
use ureq::http::Response;

use super::agent::{Client, FetchOptions, Part};
use super::problem::{FetchError, FetchProblem};
use super::remote::Remote;
use super::url::Url;
use crate::error::Result;

/// Unit in which a body is read.
const CHUNK: usize = 256 << 10;
/// Tries in a row that bring nothing before it is given up.
const TRIES: u32 = 6;
/// The pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// What may be fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most bytes.
    pub(crate) max_len: u64,
    /// Whether a digest or a signature will prove the file.
    pub(crate) proved: bool,
}

/// What is known about the version of a file that is being fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    etag: Option<String>,
    last_modified: Option<String>,
    total: Option<u64>,
}

impl Version {
    fn of(response: &Response<Body>) -> Self {
        let text = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.chars().filter(|sign| !sign.is_control()).take(256).collect::<String>())
        };
        let total = match response.status().as_u16() {
            206 => content_range(response).and_then(|(_, total)| total),
            _ => text("content-length").and_then(|len| len.parse().ok()),
        };
        Self { etag: text("etag"), last_modified: text("last-modified"), total }
    }

    /// What to ask for "only if it is still this one": a strong ETag, else the date.
    fn validator(&self) -> Option<String> {
        self.etag.clone().filter(|tag| !tag.starts_with("W/")).or_else(|| self.last_modified.clone())
    }

    /// Whether a later answer is about another version.
    fn contradicts(&self, later: &Self) -> bool {
        let differ = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        };
        let lengths = matches!((self.total, later.total), (Some(one), Some(other)) if one != other);
        lengths || differ(&self.etag, &later.etag) || differ(&self.last_modified, &later.last_modified)
    }
}

/// First byte and whole length in a header Content-Range: `bytes 5-9/10`.
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let text = response.headers().get("content-range")?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.trim().parse().ok()?, total.trim().parse().ok()))
}

/// How a download went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes that an earlier run had fetched.
    pub resumed_bytes: u64,
    /// Bytes that came over the network in this run.
    pub received_bytes: u64,
    /// Connections that broke and were made again.
    pub reconnects: u32,
}

#[derive(Debug, Default)]
struct Shared {
    traffic: Traffic,
    fault: Option<FetchError>,
}

/// How fast a body comes. Only the time of waiting for the server counts, not that of whoever takes the bytes.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Bytes a second.
    least: u64,
    /// Over how much waiting.
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    const fn new(options: &FetchOptions) -> Self {
        Self { least: options.min_rate, window: options.patience, waited: Duration::ZERO, bytes: 0 }
    }

    const fn begin(&mut self) {
        (self.waited, self.bytes) = (Duration::ZERO, 0);
    }

    /// Takes note of a read; says what is wrong when a window is over and brought too little.
    fn waited(&mut self, time: Duration, got: u64) -> Option<String> {
        self.waited = self.waited.saturating_add(time);
        self.bytes = self.bytes.saturating_add(got);
        if self.waited < self.window {
            return None;
        }
        let seconds = self.waited.as_secs_f64();
        let (bytes, wanted) = (self.bytes, self.least.saturating_mul(self.window.as_secs()));
        self.begin();
        (bytes < wanted).then(|| {
            format!("only {bytes} bytes in {seconds:.0} s, at least {} a second are wanted", self.least)
        })
    }
}

/// A file that is coming: its bytes in order, as a reader.
///
/// Reads answer `Interrupted` now and then while nothing comes. An error of the network is told once, by
/// [`Download::take_fault`]; the reader only says that there was one.
pub(crate) struct Download {
    url: Url,
    found: Url,
    version: Version,
    shared: Arc<Mutex<Shared>>,
    partial: Option<Partial>,
    keep: bool,
    client: Arc<Client>,
}

/// The reading end of a [`Download`].
pub(crate) struct Reader {
    /// What an earlier run has left, and how much of it was read.
    earlier: Option<(File, u64, u64)>,
    chunks: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    taken: usize,
}

/// What goes on in the thread that receives.
struct Receiving {
    client: Arc<Client>,
    url: Url,
    version: Version,
    limits: Limits,
    pace: Pace,
    /// Next byte that is wanted.
    at: u64,
    /// Where a copy goes.
    copy: Option<File>,
    shared: Arc<Mutex<Shared>>,
    sender: SyncSender<io::Result<Vec<u8>>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Download {
    /// Asks for a file, and for its rest when an earlier run left a part of it in the store.
    pub(crate) fn start(
        store: &Store,
        url: &Url,
        options: &FetchOptions,
        limits: Limits,
    ) -> Result<(Self, Reader)> {
        let client = Arc::new(Client::new(options)?);
        let mut partial = if options.resumable { store.partial(&key(url)?)? } else { None };
        let (mut earlier, noted) = earlier(partial.as_ref());
        let found = match first(&client, url, &mut earlier, noted.as_ref(), limits) {
            Ok(found) => found,
            Err(error) => {
                if let Some(partial) = partial.filter(|_| earlier == 0 || !error.can_go_on()) {
                    partial.discard()?;
                }
                return Err(error.into());
            }
        };
        let version = if earlier > 0 { noted.unwrap_or_default() } else { found.version.clone() };
        let copy = match partial.as_mut() {
            None => None,
            Some(partial) => {
                let place = || "the download in staging";
                partial
                    .file()
                    .set_len(earlier)
                    .map_err(|error| kiln_disk::Error::io("set the length of", place(), error))?;
                partial.set_note(&serde_json::to_string(&version).unwrap_or_default())?;
                Some(partial.file().try_clone().map_err(|e| kiln_disk::Error::io("duplicate", place(), e))?)
            }
        };
        let shared = Arc::new(Mutex::new(Shared {
            traffic: Traffic { resumed_bytes: earlier, ..Traffic::default() },
            fault: None,
        }));
        let (sender, chunks) = sync_channel(8);
        let before = match &copy {
            Some(file) if earlier > 0 => file.try_clone().ok().map(|file| (file, 0, earlier)),
            _ => None,
        };
        let receiving = Receiving {
            client: Arc::clone(&client),
            url: url.clone(),
            version: version.clone(),
            limits,
            pace: Pace::new(options),
            at: earlier,
            copy,
            shared: Arc::clone(&shared),
            sender,
        };
        let response = found.response;
        std::thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || receiving.run(response))
            .map_err(|source| kiln_disk::Error::io("start", "a thread", source))?;
        let reader = Reader { earlier: before, chunks, current: Vec::new(), taken: 0 };
        let download =
            Self { url: url.clone(), found: found.place, version, shared, partial, keep: false, client };
        Ok((download, reader))
    }

    /// The length that the server tells.
    pub(crate) const fn byte_len(&self) -> Option<u64> {
        self.version.total
    }

    /// A way to read some bytes out of turn: only for what need not be true.
    pub(crate) fn ends(&self) -> Option<Arc<dyn ByteSource>> {
        let total = self.version.total?;
        let client = Arc::clone(&self.client);
        Some(Arc::new(Remote::new(client, self.url.clone(), total, self.version.validator())))
    }

    /// What broke the download for good.
    pub(crate) fn take_fault(&self) -> Option<FetchError> {
        lock(&self.shared).fault.take()
    }

    pub(crate) fn traffic(&self) -> Traffic {
        lock(&self.shared).traffic.clone()
    }

    /// The copy of all bytes that came, where one is kept.
    pub(crate) fn copy(&self) -> Option<&File> {
        self.partial.as_ref().map(Partial::file)
    }

    /// What the record of the image says about it.
    pub(crate) fn record(&self) -> DownloadRecord {
        let (asked, found) = (self.url.shown(), self.found.shown());
        DownloadRecord {
            final_url: (found != asked).then_some(found),
            url: asked,
            etag: self.version.etag.clone(),
            last_modified: self.version.last_modified.clone(),
            fetched_at: jiff::Timestamp::now(),
        }
    }

    /// Leaves the copy in the store for a later run.
    pub(crate) const fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let (Some(partial), false) = (self.partial.take(), self.keep) {
            // What is left here goes with the sweep.
            let _ = partial.discard();
        }
    }
}

/// The name of a download in staging. Nobody reads the URL back from it.
fn key(url: &Url) -> Result<String> {
    let text = format!("{}\n{}", url.address(), url.authorization().unwrap_or_default());
    let digests = hash_source(&MemorySource::new(text.into_bytes()), &[Algorithm::Sha256], &Silent)?;
    let hex = digests.first().map(kiln_disk::digest::Digest::hex).unwrap_or_default();
    Ok(format!("get-{}", hex.get(..32).unwrap_or_default()))
}

/// What an earlier run left: how many bytes to go on behind, and of which version.
fn earlier(partial: Option<&Partial>) -> (u64, Option<Version>) {
    let Some(partial) = partial else { return (0, None) };
    let version: Option<Version> = partial.note().and_then(|text| serde_json::from_str(text).ok());
    let len = partial.file().metadata().map_or(0, |metadata| metadata.len());
    match version {
        // A file that is whole is asked for its last byte, so that the server says whether it still is that file.
        Some(version) if version.total.is_some_and(|total| total > 0) => {
            let most = version.total.unwrap_or(0).saturating_sub(1);
            (len.min(most), Some(version))
        }
        _ => (0, None),
    }
}

/// Whether an answer goes on with what an earlier run has.
fn goes_on(response: &Response<Body>, from: u64, noted: &Version, found: &Version) -> bool {
    response.status().as_u16() == 206
        && content_range(response).is_some_and(|(start, _)| start == from)
        && !noted.contradicts(found)
}

/// The first answer of a download: the rest of what an earlier run has, or all of it, and `earlier` is then 0.
fn first(
    client: &Client,
    url: &Url,
    earlier: &mut u64,
    noted: Option<&Version>,
    limits: Limits,
) -> Result<Found, FetchError> {
    let mut found = ask(client, url, *earlier, noted, limits)?;
    if let (Some(noted), true) = (noted, *earlier > 0)
        && !goes_on(&found.response, *earlier, noted, &found.version)
    {
        *earlier = 0;
        if found.response.status().as_u16() == 206 {
            found = ask(client, url, 0, None, limits)?;
        }
    }
    match found.version.total {
        Some(len) if len > limits.max_len => {
            let problem = FetchProblem::TooLong { len, allowed: limits.max_len };
            Err(FetchError { url: url.shown(), problem })
        }
        _ => Ok(found),
    }
}

struct Found {
    place: Url,
    response: Response<Body>,
    version: Version,
}

/// Asks until there is an answer.
fn ask(
    client: &Client,
    url: &Url,
    from: u64,
    noted: Option<&Version>,
    limits: Limits,
) -> Result<Found, FetchError> {
    let part = (from > 0).then(|| Part { from, to: None, if_range: noted.and_then(Version::validator) });
    // Without a validator only the digest can tell whether both parts are of one file.
    let part = part.filter(|part| part.if_range.is_some() || limits.proved);
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match attempt(client, url, part.as_ref()) {
            Err(error) if error.can_go_on() => {}
            other => return other,
        }
        std::thread::sleep(pause);
        pause = pause.saturating_mul(2);
    }
    attempt(client, url, part.as_ref())
}

fn attempt(client: &Client, url: &Url, part: Option<&Part>) -> Result<Found, FetchError> {
    let (place, response) = client.get(url, part)?;
    match response.status().as_u16() {
        200 | 206 => {
            let version = Version::of(&response);
            Ok(Found { place, response, version })
        }
        // Nothing of the kind: from the beginning, then.
        412 | 416 if part.is_some() => attempt(client, url, None),
        status => Err(FetchError { url: place.shown(), problem: FetchProblem::Status { status } }),
    }
}

/// How reading one body ended.
enum Ended {
    /// With the file.
    Whole,
    /// Before it.
    Cut(String),
    /// It brings too little to wait for.
    Slow(String),
    /// Nobody listens.
    Alone,
}

impl Receiving {
    fn run(mut self, first: Response<Body>) {
        let mut next = Some((first, 0));
        let mut failures = 0;
        let mut why;
        loop {
            let before = self.at;
            let ended = match next.take() {
                Some((response, skip)) => self.body(response, skip),
                None => match self.again() {
                    Ok((response, skip)) => self.body(response, skip),
                    Err(error) if error.can_go_on() => Ok(Ended::Cut(error.problem.to_string())),
                    Err(error) => Err(error),
                },
            };
            match ended {
                Ok(Ended::Whole | Ended::Alone) => return,
                Ok(Ended::Cut(reason)) => {
                    failures = if self.at > before { 1 } else { failures + 1 };
                    why = reason;
                }
                // What came so far is no reason to hope for more.
                Ok(Ended::Slow(reason)) => (failures, why) = (failures + 1, reason),
                Err(error) => return self.fail(error),
            }
            if failures >= TRIES {
                let problem = FetchProblem::Connection { at: self.at, why };
                return self.fail(FetchError { url: self.url.shown(), problem });
            }
            std::thread::sleep(PAUSE.saturating_mul(1 << (failures - 1).min(6)));
            lock(&self.shared).traffic.reconnects += 1;
        }
    }

    fn fail(&self, error: FetchError) {
        lock(&self.shared).fault = Some(error);
        let _ = self.sender.send(Err(io::Error::other("the download failed")));
    }

    /// Asks for the rest. Answers how many bytes to pass over: a server that knows no parts sends all again.
    fn again(&self) -> Result<(Response<Body>, u64), FetchError> {
        let problem = |problem| FetchError { url: self.url.shown(), problem };
        let part = Part { from: self.at, to: None, if_range: self.version.validator() };
        let part = (self.at > 0).then_some(part);
        let (place, response) = self.client.get(&self.url, part.as_ref())?;
        let found = Version::of(&response);
        match response.status().as_u16() {
            206 | 200 if self.version.contradicts(&found) => {
                Err(problem(FetchProblem::Changed { at: self.at }))
            }
            206 => match content_range(&response) {
                Some((from, _)) if from == self.at => Ok((response, 0)),
                _ => Err(problem(FetchProblem::Changed { at: self.at })),
            },
            // The same version, or a digest that will tell.
            200 if self.at == 0 || self.limits.proved || self.version.validator().is_some() => {
                Ok((response, self.at))
            }
            200 => Err(problem(FetchProblem::NoResume { at: self.at })),
            412 | 416 => Err(problem(FetchProblem::Changed { at: self.at })),
            status => Err(FetchError { url: place.shown(), problem: FetchProblem::Status { status } }),
        }
    }

    fn body(&mut self, response: Response<Body>, skip: u64) -> Result<Ended, FetchError> {
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut skip = skip;
        self.pace.begin();
        loop {
            let mut chunk = vec![0; CHUNK];
            let begun = Instant::now();
            let got = match body.read(&mut chunk) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Ended::Cut(error.to_string())),
            };
            if got == 0 {
                return Ok(match self.version.total {
                    Some(total) if self.at < total => Ended::Cut("it was closed early".to_owned()),
                    _ => Ended::Whole,
                });
            }
            chunk.truncate(got);
            let got = u64::try_from(got).unwrap_or(u64::MAX);
            let slow = self.pace.waited(begun.elapsed(), got);
            lock(&self.shared).traffic.received_bytes += got;
            if skip > 0 {
                let over = skip.min(got);
                skip -= over;
                chunk.drain(..usize::try_from(over).unwrap_or(usize::MAX).min(chunk.len()));
            }
            if let Some(ended) = self.pass_on(chunk)? {
                return Ok(ended);
            }
            if let Some(slow) = slow {
                return Ok(Ended::Slow(slow));
            }
        }
    }

    fn pass_on(&mut self, chunk: Vec<u8>) -> Result<Option<Ended>, FetchError> {
        let mut chunk = chunk;
        if let Some(total) = self.version.total {
            // No more than was announced.
            let left = usize::try_from(total.saturating_sub(self.at)).unwrap_or(usize::MAX);
            chunk.truncate(left);
        }
        if chunk.is_empty() {
            return Ok(None);
        }
        if let Some(copy) = &self.copy
            && let Err(error) = copy.write_all_at(&chunk, self.at)
        {
            // No copy, no matter: but the place is probably the one where the layer goes.
            let _ = self.sender.send(Err(error));
            return Ok(Some(Ended::Alone));
        }
        self.at = self.at.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.at > self.limits.max_len {
            let problem = FetchProblem::TooLong { len: self.at, allowed: self.limits.max_len };
            return Err(FetchError { url: self.url.shown(), problem });
        }
        Ok(if self.sender.send(Ok(chunk)).is_err() { Some(Ended::Alone) } else { None })
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some((file, at, end)) = &mut self.earlier {
            let left = usize::try_from(end.saturating_sub(*at)).unwrap_or(usize::MAX);
            let take = left.min(buf.len());
            if take > 0 {
                let got = file.read_at(&mut buf[..take], *at)?;
                *at += u64::try_from(got).unwrap_or(0);
                return if got > 0 { Ok(got) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            self.earlier = None;
        }
        if self.taken == self.current.len() {
            match self.chunks.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => {
                    self.current = chunk?;
                    self.taken = 0;
                }
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::Interrupted.into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let rest = self.current.get(self.taken..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.taken += len;
        Ok(len)
    }
}

/// Fetches a small file whole: a list of checksums, a signature.
pub(crate) fn fetch_small(url: &Url, options: &FetchOptions, max_len: u64) -> Result<Vec<u8>, FetchError> {
    let client = Client::new(options)?;
    let limits = Limits { max_len, proved: false };
    let found = ask(&client, url, 0, None, limits)?;
    let too_long =
        |len| FetchError { url: url.shown(), problem: FetchProblem::TooLong { len, allowed: max_len } };
    if let Some(len) = found.version.total.filter(|len| *len > max_len) {
        return Err(too_long(len));
    }
    let broken = |at: usize, why: String| FetchError {
        url: url.shown(),
        problem: FetchProblem::Connection { at: u64::try_from(at).unwrap_or(u64::MAX), why },
    };
    let mut bytes = Vec::new();
    let mut body = found.response.into_body().into_with_config().limit(u64::MAX).reader().take(max_len + 1);
    let mut pace = Pace::new(options);
    let mut chunk = vec![0; CHUNK];
    loop {
        let begun = Instant::now();
        match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => {
                bytes.extend_from_slice(&chunk[..got]);
                if let Some(slow) = pace.waited(begun.elapsed(), u64::try_from(got).unwrap_or(u64::MAX)) {
                    return Err(broken(bytes.len(), slow));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(bytes.len(), error.to_string())),
        }
    }
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if len > max_len {
        return Err(too_long(len));
    }
    match found.version.total {
        Some(total) if total != len => Err(FetchError {
            url: url.shown(),
            problem: FetchProblem::Connection { at: len, why: "it was closed early".to_owned() },
        }),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_brings_too_little_is_told_and_waiting_elsewhere_does_not_count() {
        let options =
            FetchOptions { patience: Duration::from_secs(10), min_rate: 100, ..FetchOptions::default() };
        let mut pace = Pace::new(&options);
        for _ in 0..9 {
            assert_eq!(pace.waited(Duration::from_secs(1), 1), None);
        }
        let slow = pace.waited(Duration::from_secs(1), 1).unwrap();
        assert_eq!(slow, "only 10 bytes in 10 s, at least 100 a second are wanted");
        for _ in 0..50 {
            assert_eq!(pace.waited(Duration::from_secs(1), 100), None);
        }
        let mut any = Pace::new(&FetchOptions { min_rate: 0, ..options });
        assert_eq!(any.waited(Duration::from_secs(60), 0), None);
    }
}
