//! Running machines.

mod freeze;
mod monitor;
mod point;
mod read;
mod target;
mod virsh;
mod watch;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kiln_catalog::machine::{CAPTURE_SOCKET, QMP_SOCKET};
use kiln_catalog::{InstanceRecord, Job, Store};
use kiln_disk::{Error as DiskError, Event, Observer, go_on, os};
use serde_json::json;

use crate::error::{Error, Refusal, Result};
use crate::ground::Below;
use crate::request::{Request, Sabotage};
use crate::run::{Outcome, Story, begin, keep, outcome, publish, remember};
use crate::stopped::{Taken, unchecked};
use crate::view::Places;

use self::monitor::{Address, Monitor};
use self::point::{Rig, Tap, bitmaps_of, node_name, nodes};
use self::watch::{Orders, State, Watchdog};

pub(crate) use self::target::{Target, TargetDisk, domain, foreign, instance};
pub use self::watch::watch;

/// Room for what the guest overwrites while it is captured, at least, unless its disks are smaller.
const FLEECE_ROOM: u64 = 256 << 20;

/// Captures disks of a running machine.
pub(crate) fn capture(
    store: &Store,
    request: &Request,
    target: &Target,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let mut belows = Vec::new();
    let mut jobs = Vec::new();
    for disk in &target.disks {
        let below = match &disk.record {
            Some(record) => Below::of(store, record, observer)?,
            None => Below {
                layers: Vec::new(),
                ground: None,
                why_full: Some("it stands on no image of the store"),
            },
        };
        jobs.push(begin(store, request, &disk.id, &below)?);
        belows.push(below);
    }
    let mut session = Session::prepare(store, request, target, &belows, &jobs)?;
    match session.run(store, request, target, belows, jobs, observer) {
        // What could not be taken away is tried again when the session goes, and then by the watchdog.
        Ok((outcome, tidy)) => {
            if tidy {
                session.finish();
            }
            Ok(outcome)
        }
        Err(error) => Err(session.give_up(target, error)),
    }
}

/// A capture that has something in the machine. Dropping it takes that away.
struct Session {
    qmp: Address,
    rig: Rig,
    /// Bitmaps that stay, should nothing come of it.
    keep: Vec<String>,
    watchdog: Option<Watchdog>,
    /// Folders that go with it.
    scratch: Vec<tempfile::TempDir>,
    over: bool,
}

impl Session {
    /// Everything that can be done while the guest runs.
    fn prepare(
        store: &Store,
        request: &Request,
        target: &Target,
        belows: &[Below],
        jobs: &[Job],
    ) -> Result<Self> {
        let mut qmp = target.qmp.monitor()?;
        let mut scratch = Vec::new();
        let (socket, listen) = match &target.instance {
            // Its QEMU works in its folder. The name is always the same, so nothing is left of a capture that died.
            Some(record) => (store.instance_dir(&record.id).join(CAPTURE_SOCKET), CAPTURE_SOCKET.to_owned()),
            None => {
                // The path of a socket has at most 107 bytes.
                let base = Some(std::env::temp_dir()).filter(|dir| dir.as_os_str().len() < 80);
                let dir = temporary(&base.unwrap_or_else(|| "/tmp".into()))?;
                let socket = dir.path().join("nbd.sock");
                scratch.push(dir);
                let listen = socket.display().to_string();
                (socket, listen)
            }
        };
        let fleeces = match &request.scratch {
            Some(base) => {
                let dir = temporary(&std::path::absolute(base).unwrap_or_else(|_| base.clone()))?;
                let path = dir.path().to_owned();
                scratch.push(dir);
                Some(path)
            }
            None => None,
        };
        // A machine is captured by one at a time. Names of nodes have at most 31 characters.
        let token = format!("{:x}", Timestamp::now().as_microsecond());
        let mut taps = Vec::new();
        for (number, disk) in target.disks.iter().enumerate() {
            let job = jobs.get(number).ok_or(Error::Disk(DiskError::Cancelled))?;
            let recorded = disk.record.as_ref().and_then(|record| record.captured.as_ref()?.bitmap.clone());
            let is_last = belows
                .get(number)
                .and_then(|below| below.ground.as_ref())
                .is_some_and(|ground| ground.is_last);
            taps.push(Tap {
                node: disk.node.clone(),
                way: disk.way.clone(),
                fleece: fleece(job, fleeces.as_deref(), number, disk.len)?,
                len: disk.len,
                number,
                bitmap: disk.record.is_some().then(|| format!("kiln-{token}-since{number}")),
                counted: recorded.filter(|_| is_last),
            });
        }
        let Sabotage { broken_copy, guest_pays } = request.sabotage;
        let rig = Rig { token, taps, broken_copy, guest_pays, socket, listen };
        let keep = rig.taps.iter().filter_map(|tap| tap.counted.clone()).collect();
        let mut session = Self { qmp: target.qmp.clone(), rig, keep, watchdog: None, scratch, over: false };
        let ready = session.put_in(store, request, target, belows, fleeces.as_deref(), qmp.as_mut());
        // QEMU speaks with one at a time, and a session that goes takes away what it has put in.
        drop(qmp);
        ready.map(|()| session)
    }

    fn put_in(
        &mut self,
        store: &Store,
        request: &Request,
        target: &Target,
        belows: &[Below],
        scratch: Option<&Path>,
        qmp: &mut dyn Monitor,
    ) -> Result<()> {
        // What a capture left whose watchdog died as well.
        self.rig.undo(qmp, &self.keep, true)?;
        self.trust_bitmaps(qmp)?;
        self.check_room(store, qmp, belows, scratch)?;
        let orders = Orders {
            qmp: target.qmp.clone(),
            agent: target.agent.clone(),
            rig: self.rig.clone(),
            keep: self.keep.clone(),
            limit_ms: u64::try_from(request.freeze_limit.as_millis()).unwrap_or(u64::MAX),
            parent: std::process::id(),
            scratch: self.scratch.iter().map(|dir| dir.path().to_owned()).collect(),
        };
        self.watchdog = Some(Watchdog::start(request.watchdog.as_deref(), &orders)?);
        Ok(self.rig.prepare(qmp)?)
    }

    /// A bitmap counts when this very QEMU has counted with it since the last capture: it is kept in memory only, so it
    /// is either there and whole, or not there.
    fn trust_bitmaps(&mut self, qmp: &mut dyn Monitor) -> Result<()> {
        let nodes = nodes(qmp)?;
        for tap in &mut self.rig.taps {
            let Some(name) = &tap.counted else { continue };
            let there = nodes.iter().find(|node| node_name(node) == Some(&tap.node)).map(bitmaps_of);
            let sound = there.into_iter().flatten().any(|bitmap| bitmap.name == *name && bitmap.sound);
            if !sound {
                tap.counted = None;
            }
        }
        self.keep = self.rig.taps.iter().filter_map(|tap| tap.counted.clone()).collect();
        Ok(())
    }

    /// Room for the layers and for what the guest overwrites meanwhile.
    fn check_room(
        &self,
        store: &Store,
        qmp: &mut dyn Monitor,
        belows: &[Below],
        scratch: Option<&Path>,
    ) -> Result<()> {
        let nodes = nodes(qmp)?;
        let (mut layers, mut fleeces) = (0_u64, 0_u64);
        for (tap, below) in self.rig.taps.iter().zip(belows) {
            let node = nodes.iter().find(|node| node_name(node) == Some(&tap.node));
            let counted = tap.counted.as_ref().and_then(|name| {
                node.map(bitmaps_of)?
                    .into_iter()
                    .find(|bitmap| bitmap.name == *name)
                    .map(|bitmap| bitmap.bytes)
            });
            let size =
                node.and_then(|node| node.get("image")?.get("actual-size")?.as_u64()).unwrap_or(tap.len);
            let layer = match (&below.ground, counted) {
                (Some(_), Some(bytes)) => bytes,
                _ => size,
            };
            layers = layers.saturating_add(layer.min(tap.len));
            fleeces = fleeces.saturating_add(FLEECE_ROOM.min(tap.len));
        }
        match scratch {
            Some(scratch) => {
                has_room(store.path(), layers)?;
                has_room(scratch, fleeces)
            }
            None => has_room(store.path(), layers.saturating_add(fleeces)),
        }
    }

    /// Also answers whether nothing is left in the machine.
    fn run(
        &mut self,
        store: &Store,
        request: &Request,
        target: &Target,
        belows: Vec<Below>,
        jobs: Vec<Job>,
        observer: &dyn Observer,
    ) -> Result<(Outcome, bool)> {
        go_on(observer)?;
        let (mut story, frozen) = self.take(request, target, observer)?;
        let mut qmp = self.qmp.monitor()?;
        story.machine = Some(target.machine.clone());
        self.rig.open(qmp.as_mut())?;
        // Others may want to speak to the machine while it is read.
        drop(qmp);
        let mut disks = Vec::new();
        for ((tap, below), disk) in self.rig.taps.iter().zip(belows).zip(&target.disks) {
            disks.push(self.taken(tap, below, disk, request, observer)?);
        }
        let kept = keep(request, &disks, jobs, observer)?;
        // The point in time is not needed any more; its bitmaps are.
        let since = self.rig.since();
        let all: Vec<String> = since.iter().chain(&self.keep).cloned().collect();
        for taken in &mut disks {
            taken.disk = std::sync::Arc::new(kiln_disk::StackDisk::new(Vec::new()));
        }
        let mut qmp = self.qmp.monitor()?;
        self.rig.undo(qmp.as_mut(), &all, false)?;
        let images = publish(store, request, &disks, kept, &story, observer)?;
        if let Some(record) = &target.instance {
            let bitmaps: Vec<Option<String>> = self.rig.taps.iter().map(|tap| tap.bitmap.clone()).collect();
            if let Err(error) = remember(store, record, &disks, &images, &bitmaps, story.point) {
                for image in &images {
                    // The first error is the one to tell.
                    let _ = store.remove(&image.manifest.id);
                }
                return Err(error);
            }
            self.keep = since;
            if let Some(watchdog) = &mut self.watchdog {
                // Without one, the next capture takes away what is left.
                let _ = watchdog.tell(State::Published);
            }
        }
        // The images are there: nothing makes a failure of that any more.
        let tidy = self.rig.undo(qmp.as_mut(), &self.keep, true).is_ok();
        Ok((outcome(images, frozen), tidy))
    }

    /// Freezes, takes the point in time, thaws.
    fn take(
        &mut self,
        request: &Request,
        target: &Target,
        observer: &dyn Observer,
    ) -> Result<(Story, Option<Duration>)> {
        let mut qmp = self.qmp.monitor()?;
        let mut none = Watchdog::none();
        let watchdog = self.watchdog.as_mut().unwrap_or(&mut none);
        let guard = freeze::freeze(target.agent.as_ref(), request.quiesce, request.freeze_limit, watchdog)?;
        let pauses = self.rig.pauses();
        if let Some(rest) = guard.rest() {
            qmp.limit(rest.max(Duration::from_millis(100)));
        }
        if pauses {
            watchdog.tell(State::Pausing)?;
        }
        let began = Instant::now();
        let point = Timestamp::now();
        self.rig.take(qmp.as_mut())?;
        if pauses {
            watchdog.tell(State::Resumed)?;
        }
        let took = began.elapsed();
        let (quieted, freeze, frozen) = guard.release(request.quiesce, watchdog)?;
        if let Some(frozen) = frozen {
            observer.event(Event::Note {
                text: &format!(
                    "the guest stood still for {} ms, the point in time took {} ms",
                    frozen.as_millis(),
                    took.as_millis()
                ),
            });
        }
        Ok((Story { point, running: true, quieted, freeze, machine: None }, frozen))
    }

    fn taken(
        &self,
        tap: &Tap,
        below: Below,
        disk: &TargetDisk,
        request: &Request,
        observer: &dyn Observer,
    ) -> Result<Taken> {
        let places = match (&below.ground, &tap.counted) {
            (Some(_), Some(_)) => Places::of(read::counted(&self.rig, tap, observer)?),
            (Some(ground), None) => {
                Places::of(read::held(&self.rig, tap, observer)?).and(ground.apart.iter().copied())
            }
            (None, _) => Places::of(read::not_zeros(&self.rig, tap, observer)?),
        };
        Ok(Taken {
            id: disk.id.clone(),
            disk: read::disk(&self.rig, tap, request.threads)?,
            by_bitmap: below.ground.is_some() && tap.counted.is_some(),
            below,
            places: Some(places),
            source: disk.source.clone(),
            file: (disk.id.clone(), disk.format.clone(), disk.len),
            checks: unchecked(),
            still: None,
        })
    }

    fn finish(&mut self) {
        self.over = true;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.done();
        }
    }

    /// Takes everything away after a failure, and says what it means.
    fn give_up(&mut self, target: &Target, error: Error) -> Error {
        let undone = self.undo();
        if undone {
            self.finish();
        }
        match error {
            Error::Qemu(_) | Error::Disk(DiskError::Io { .. }) if target.is_gone() => Refusal::Machine {
                machine: target.words.clone(),
                problem: "it ended while it was captured".to_owned(),
            }
            .into(),
            Error::Disk(DiskError::Io { ref target, .. }) if target == READER => {
                use std::error::Error as _;
                let mut why = error.to_string();
                let mut next = match &error {
                    Error::Disk(error) => error.source(),
                    _ => None,
                };
                while let Some(cause) = next {
                    why = cause.to_string();
                    next = cause.source();
                }
                let ids: Vec<&str> = self.rig.taps.iter().map(|tap| tap.node.as_str()).collect();
                Refusal::Lost { disk: ids.join(", "), why }.into()
            }
            other => other,
        }
    }

    /// Whether nothing of ours is left in the machine.
    fn undo(&self) -> bool {
        match self.qmp.monitor() {
            Ok(mut qmp) => self.rig.undo(qmp.as_mut(), &self.keep, true).is_ok(),
            Err(Error::Qemu(error)) => error.is_gone(),
            Err(_) => false,
        }
    }
}

/// How errors of reading a point in time call it.
const READER: &str = "the running machine's disk";

impl Drop for Session {
    fn drop(&mut self) {
        // Else the watchdog sees its pipe close and goes on trying.
        if !self.over && self.undo() {
            self.finish();
        }
    }
}

fn has_room(dir: &Path, needed: u64) -> Result<()> {
    let place = dir.display().to_string();
    let (free, _) = os::free_space(dir).map_err(|source| DiskError::io("measure", &place, source))?;
    if free < needed {
        return Err(Refusal::Space { place, needed, free }.into());
    }
    Ok(())
}

/// A folder of our own that goes with the value.
fn temporary(base: &Path) -> Result<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("kiln-").tempdir_in(base);
    Ok(made.map_err(|source| DiskError::io("create a folder in", base.display().to_string(), source))?)
}

/// An empty file of the disk's length in the folder that is meant for it, else in the job's.
fn fleece(job: &Job, dir: Option<&Path>, number: usize, len: u64) -> Result<PathBuf> {
    let (file, path) = match dir {
        Some(dir) => {
            let path = dir.join(format!("fleece{number}.raw"));
            let file = File::create_new(&path)
                .map_err(|source| DiskError::io("create", path.display().to_string(), source))?;
            (file, path)
        }
        None => job.create_file("fleece.raw")?,
    };
    file.set_len(len)
        .map_err(|source| DiskError::io("set the length of", path.display().to_string(), source))?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

/// Shuts an instance down as its power button does, and waits until its QEMU has ended.
pub(crate) fn shut_down(
    store: &Store,
    record: &InstanceRecord,
    patience: Duration,
    observer: &dyn Observer,
) -> Result<()> {
    let dir = store.instance_dir(&record.id);
    let address = Address::Socket { dir, name: QMP_SOCKET.to_owned() };
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    loop {
        go_on(observer)?;
        // A guest may not listen yet: it is asked again now and then.
        match address.monitor() {
            Ok(mut qmp) if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) => {
                match qmp.execute("system_powerdown", json!({})) {
                    Ok(_) => asked = Some(Instant::now()),
                    Err(error) if error.is_gone() => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(_) => {}
            Err(Error::Qemu(error)) if error.is_gone() => return Ok(()),
            Err(error) => return Err(error),
        }
        if began.elapsed() >= patience {
            return Err(Refusal::NotStopped { seconds: patience.as_secs() }.into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
