//! Running work, as other processes see it: what it is, how far it is, how to stop it, how to go on with it.
//!
//! A job's directory says it all. `lock` is held by its process; `job.json` says what it does and which images it
//! needs; `progress.json` is written now and then and may be cut off; a file `cancel` asks it to stop.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kiln_disk::{Event, Existing, Observer};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::error::{Error, Refusal, Result, io};
use crate::id::ImageId;
use crate::job::{Job, JobDir, scratch_dir};
use crate::layout::{FILE_MODE, create_new, names_in, remove_file, remove_tree, write_whole};
use crate::lock::{self, Share};
use crate::store::Store;

/// How long a job that could go on is kept.
pub const KEPT_DAYS: i64 = 7;

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFacts {
    /// One word: "import", "copy".
    pub kind: String,
    /// The particulars, for people.
    pub what: String,
    /// On whose behalf.
    pub account: Account,
    /// When it began.
    pub started_at: Timestamp,
    /// Images that it needs: they cannot be removed meanwhile.
    pub images: Vec<ImageId>,
    /// How another process can go on with it; none when it has to begin anew.
    pub resume: Option<Resume>,
}

/// How to go on with a job whose process is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// A copy between stores: what has arrived is kept in the job's directory.
    Copy(CopyResume),
    /// A command that is to be given again. Nothing is kept in the job's directory; what it downloaded is kept by the
    /// store, under its URL.
    Command(CommandResume),
}

/// A command, as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandResume {
    /// The folder that its paths start in.
    pub folder: PathBuf,
    /// Its words, without the name of the program. No secret is among them.
    pub words: Vec<String>,
}

/// How to go on with a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyResume {
    /// The store that it copies from.
    pub from: PathBuf,
    /// The image there.
    pub image: ImageId,
    /// The name that the copy gets.
    pub name: String,
    /// Whether it takes the name from another image.
    pub replace: bool,
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub phase: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 when unknown.
    pub total: u64,
}

/// A job as other processes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// Its id: the name of its directory.
    pub id: String,
    /// What it does.
    pub facts: JobFacts,
    /// Whether its process is alive.
    pub running: bool,
    /// How far it is, when it said so.
    pub progress: Option<Progress>,
}

impl Store {
    /// Starts a job that other processes can see. What an earlier run of the same command has left is forgotten.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`], [`Refusal::Busy`].
    pub fn begin_job(
        &self,
        kind: &str,
        what: &str,
        images: Vec<ImageId>,
        resume: Option<Resume>,
    ) -> Result<Job> {
        let _lock = self.exclusive()?;
        if let Some(command @ Resume::Command(_)) = &resume {
            self.forget(command)?;
        }
        let dir = scratch_dir(&self.layout)?;
        let facts = JobFacts {
            kind: kind.to_owned(),
            what: what.chars().take(200).collect(),
            account: self.account.clone(),
            started_at: Timestamp::now(),
            images,
            resume,
        };
        let text = serde_json::to_string_pretty(&facts).unwrap_or_default();
        write_whole(&dir.path().join("job.json"), &text, Existing::Keep)?;
        Ok(Job { store: self.clone(), dir, signer: None })
    }

    /// Clears away what dead processes of the account have left to go on with in this way. The caller holds the
    /// store's exclusive lock.
    fn forget(&self, resume: &Resume) -> Result<()> {
        for job in self.jobs()? {
            let dir = self.layout.staging().join(&job.id);
            if !job.running && job.facts.resume.as_ref() == Some(resume) && !dir.join("intent.json").exists()
            {
                remove_tree(&dir)?;
            }
        }
        Ok(())
    }

    /// The jobs of the account, running and left, oldest first.
    ///
    /// # Errors
    /// I/O.
    pub fn jobs(&self) -> Result<Vec<JobView>> {
        let mut jobs = Vec::new();
        for id in names_in(&self.layout.staging())? {
            let dir = self.layout.staging().join(&id);
            let Some(facts) = facts_in(&dir).filter(|facts| facts.account == self.account) else { continue };
            let running = is_running(&dir)?;
            let progress = std::fs::read(dir.join("progress.json")).ok();
            let progress = progress.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            jobs.push(JobView { id, facts, running, progress });
        }
        jobs.sort_by(|a, b| (a.facts.started_at, &a.id).cmp(&(b.facts.started_at, &b.id)));
        Ok(jobs)
    }

    /// The job of the account with this id.
    fn job_named(&self, id: &str) -> Result<JobView> {
        let found = self.jobs()?.into_iter().find(|job| job.id == id);
        found.ok_or_else(|| Refusal::NoJob { id: id.chars().take(80).collect() }.into())
    }

    /// Asks a running job to stop, and clears a left one away. A job that is asked stops at its next step.
    ///
    /// # Errors
    /// [`Refusal::NoJob`]; I/O.
    pub fn cancel_job(&self, id: &str) -> Result<JobView> {
        let job = self.job_named(id)?;
        let dir = self.layout.staging().join(&job.id);
        if job.running {
            match create_new(&dir.join("cancel")) {
                Ok(_) => {}
                Err(error) if matches!(error.code(), "io.exists" | "io.not-found") => {}
                Err(error) => return Err(error),
            }
            return Ok(job);
        }
        let _lock = self.exclusive()?;
        if !is_running(&dir)? && !dir.join("intent.json").exists() {
            remove_tree(&dir)?;
        }
        Ok(job)
    }

    /// How to go on with a job.
    ///
    /// # Errors
    /// [`Refusal::NoJob`]; [`Refusal::NotResumable`] while it runs, or when it has to begin anew.
    pub fn how_to_resume(&self, id: &str) -> Result<Resume> {
        let job = self.job_named(id)?;
        let refuse = |reason| Error::from(Refusal::NotResumable { id: job.id.clone(), reason });
        if job.running {
            return Err(refuse("it is running"));
        }
        job.facts.resume.ok_or_else(|| refuse("it has to begin anew"))
    }

    /// Takes over a copy whose process is gone.
    ///
    /// # Errors
    /// As [`Store::how_to_resume`]; for what is not a copy as well.
    pub(crate) fn take_over(&self, id: &str) -> Result<(Job, CopyResume)> {
        let job = self.job_named(id)?;
        let refuse = |reason| Refusal::NotResumable { id: job.id.clone(), reason };
        let resume = match job.facts.resume.clone() {
            Some(Resume::Copy(resume)) => resume,
            Some(Resume::Command(_)) => return Err(refuse("its command has to be given again").into()),
            None => return Err(refuse("it has to begin anew").into()),
        };
        let _lock = self.exclusive()?;
        let dir = self.layout.staging().join(&job.id);
        if !dir.is_dir() {
            return Err(Refusal::NoJob { id: job.id }.into());
        }
        match lock::try_now(&dir.join("lock"), Share::Exclusive)? {
            Some(lock) => {
                Ok((Job { store: self.clone(), dir: JobDir::taken_over(dir, lock), signer: None }, resume))
            }
            None => Err(refuse("it is running").into()),
        }
    }

    /// Whether a running job needs the image.
    pub(crate) fn is_busy(&self, id: &ImageId) -> Result<bool> {
        for name in names_in(&self.layout.staging())? {
            let dir = self.layout.staging().join(name);
            if facts_in(&dir).is_some_and(|facts| facts.images.contains(id)) && is_running(&dir)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn facts_in(dir: &Path) -> Option<JobFacts> {
    serde_json::from_slice(&std::fs::read(dir.join("job.json")).ok()?).ok()
}

fn is_running(dir: &Path) -> Result<bool> {
    let path = dir.join("lock");
    if !path.exists() {
        return Ok(false);
    }
    match lock::try_now(&path, Share::Shared) {
        Ok(lock) => Ok(lock.is_none()),
        // Gone meanwhile, with its directory.
        Err(error) if error.code() == "io.not-found" => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes away what is not needed to go on with the job of a dead process; answers whether another may go on with it.
pub(crate) fn keep_for_resume(dir: &Path) -> Result<bool> {
    let limit = Timestamp::now() - SignedDuration::from_hours(24 * KEPT_DAYS);
    let fresh = facts_in(dir).filter(|facts| facts.started_at > limit && !dir.join("cancel").exists());
    match fresh.and_then(|facts| facts.resume) {
        None => Ok(false),
        Some(Resume::Copy(_)) => Ok(true),
        Some(Resume::Command(_)) => {
            for name in names_in(dir)? {
                if !["job.json", "lock", "progress.json"].contains(&name.as_str()) {
                    let path = dir.join(&name);
                    if path.is_dir() { remove_tree(&path)? } else { remove_file(&path).map(drop)? }
                }
            }
            Ok(true)
        }
    }
}

impl Job {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> String {
        self.dir().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// An observer that also tells other processes how far the job is, and listens to them.
    #[must_use]
    pub fn watched<'a>(&self, observer: &'a dyn Observer) -> Watched<'a> {
        Watched {
            observer,
            dir: self.dir().to_owned(),
            done: AtomicU64::new(0),
            asked_to_stop: AtomicBool::new(false),
            last: Mutex::new(Last { at: None, looked: None, phase: String::new(), total: 0 }),
        }
    }
}

/// See [`Job::watched`].
pub struct Watched<'a> {
    observer: &'a dyn Observer,
    dir: PathBuf,
    done: AtomicU64,
    asked_to_stop: AtomicBool,
    last: Mutex<Last>,
}

struct Last {
    at: Option<Instant>,
    looked: Option<Instant>,
    phase: String,
    total: u64,
}

/// How often progress is written down, and other processes are listened to.
const BEAT: Duration = Duration::from_millis(200);

impl Observer for Watched<'_> {
    fn event(&self, event: Event<'_>) {
        self.observer.event(event);
        match event {
            Event::Started { phase, total } => {
                if let Ok(mut last) = self.last.lock() {
                    self.done.store(0, Ordering::Relaxed);
                    phase.clone_into(&mut last.phase);
                    last.total = total;
                }
            }
            Event::Advanced { bytes } => {
                self.done.fetch_add(bytes, Ordering::Relaxed);
            }
            _ => return,
        }
        let Ok(mut last) = self.last.try_lock() else { return };
        if last.at.is_some_and(|at| at.elapsed() < BEAT) {
            return;
        }
        last.at = Some(Instant::now());
        let done = self.done.load(Ordering::Relaxed);
        let progress = Progress { phase: last.phase.clone(), done, total: last.total };
        // Only to be looked at: no reason to stop the work when it cannot be written.
        let text = serde_json::to_vec(&progress).unwrap_or_default();
        let place = self.dir.join("progress.json");
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(place);
        let _ = opened.and_then(|mut file| file.write_all(&text));
    }

    fn is_cancelled(&self) -> bool {
        if self.asked_to_stop.load(Ordering::Relaxed) || self.observer.is_cancelled() {
            return true;
        }
        let Ok(mut last) = self.last.try_lock() else { return false };
        if last.looked.is_some_and(|at| at.elapsed() < BEAT) {
            return false;
        }
        last.looked = Some(Instant::now());
        let asked = self.dir.join("cancel").exists();
        self.asked_to_stop.store(asked, Ordering::Relaxed);
        asked
    }
}

/// Length of a file that may not be there.
pub(crate) fn len_of(path: &Path) -> Result<u64> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(io("stat", path, error)),
    }
}
