//! What will be done, before it is.

use kiln_catalog::machine::{MachineDisk, QMP_SOCKET};
use kiln_catalog::{FoundBy, ImageId, InstanceRecord, Name, NameTag, Store, check_description};
use kiln_disk::Observer;
use serde::Serialize;

use crate::error::{Refusal, Result};
use crate::live::{self, Target};
use crate::request::{Request, Subject, Which};
use crate::stopped::{self, Taken};

/// A capture that can be run.
pub struct Plan {
    pub(crate) store: Store,
    pub(crate) request: Request,
    pub(crate) facts: PlanFacts,
    pub(crate) what: Prepared,
}

/// What is known before.
#[derive(Debug, Clone, Serialize)]
pub struct PlanFacts {
    /// What is captured, in words.
    pub source: String,
    /// Whether the machine runs.
    pub running: bool,
    /// Whether it will be shut down first.
    pub stop: bool,
    /// The disks.
    pub disks: Vec<DiskFacts>,
}

/// What is known of one disk. Sizes are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct DiskFacts {
    /// Its id.
    pub id: String,
    /// The image that it will be.
    pub name: String,
    /// Length of the disk.
    pub disk_bytes: u64,
    /// The image that the layer will stand on.
    pub parent: Option<ImageId>,
    /// Layers below the new one.
    pub layers_below: usize,
    /// How the changes will be found; a dirty bitmap that cannot be trusted in the end gives way to the overlay.
    pub found_by: FoundBy,
    /// What will be read and compared; none when only the running machine knows.
    pub compare_bytes: Option<u64>,
    /// Why everything has to be stored.
    pub why_full: Option<&'static str>,
}

pub(crate) enum Prepared {
    /// Nobody writes.
    Stopped { disks: Vec<Taken>, instance: Option<Box<InstanceRecord>> },
    /// A running machine.
    Live(Box<Target>),
    /// An instance that runs and is to be shut down first.
    ToStop(Box<InstanceRecord>),
}

/// Looks at what is to be captured. Nothing is changed.
///
/// # Errors
/// [`Refusal`]; the store's; a machine that does not answer.
pub fn plan(store: &Store, subject: Subject, request: Request, observer: &dyn Observer) -> Result<Plan> {
    check_description(&request.description)?;
    let (facts, what) = match subject {
        Subject::Instance(record) => of_instance(store, *record, &request, observer)?,
        Subject::Path { path, choice } => {
            let taken = stopped::of_path(&path, choice, &request, observer)?;
            let source = path.display().to_string();
            stopped_plan(source, vec![taken], None, &request)?
        }
        Subject::Qmp { socket, agent } => {
            let target = live::foreign(&socket, agent.as_deref(), &request)?;
            live_plan(store, target, &request)?
        }
        Subject::Libvirt { domain } => {
            let target = live::domain(&domain, &request)?;
            live_plan(store, target, &request)?
        }
    };
    if request.if_taken == kiln_catalog::IfTaken::Refuse {
        for disk in &facts.disks {
            let name: NameTag = disk.name.parse()?;
            store.check_free(&name)?;
        }
    }
    Ok(Plan { store: store.clone(), request, facts, what })
}

impl Plan {
    /// What is known before.
    #[must_use]
    pub fn facts(&self) -> &PlanFacts {
        &self.facts
    }
}

fn of_instance(
    store: &Store,
    record: InstanceRecord,
    request: &Request,
    observer: &dyn Observer,
) -> Result<(PlanFacts, Prepared)> {
    let dir = store.instance_dir(&record.id);
    let running = match kiln_qemu::socket::connect(&dir, QMP_SOCKET, std::time::Duration::ZERO) {
        Ok(_) => true,
        Err(error) if error.is_gone() => false,
        Err(error) => return Err(error.into()),
    };
    if running && !request.stop {
        let target = live::instance(store, record, request)?;
        return live_plan(store, target, request);
    }
    let source = words(&record);
    if running {
        let chosen = chosen(&record, &request.which)?;
        let disks = chosen.into_iter().map(|disk| later(store, disk, request)).collect::<Result<_>>()?;
        let facts = PlanFacts { source, running: true, stop: true, disks };
        return Ok((facts, Prepared::ToStop(Box::new(record))));
    }
    let mut disks = Vec::new();
    for disk in chosen(&record, &request.which)? {
        disks.push(stopped::of_instance(store, &record, disk, observer)?);
    }
    stopped_plan(source, disks, Some(Box::new(record)), request)
}

/// An instance in words.
pub(crate) fn words(record: &InstanceRecord) -> String {
    match &record.name {
        Some(name) => format!("{name} ({})", record.id),
        None => record.id.to_string(),
    }
}

fn stopped_plan(
    source: String,
    disks: Vec<Taken>,
    instance: Option<Box<InstanceRecord>>,
    request: &Request,
) -> Result<(PlanFacts, Prepared)> {
    let facts = disks
        .iter()
        .map(|taken| {
            let len = taken.disk.disk_len();
            let ground = taken.below.ground.as_ref();
            Ok(DiskFacts {
                id: taken.id.clone(),
                name: name_of(&taken.id, request, disks.len())?.to_string(),
                disk_bytes: len,
                parent: ground.and_then(|ground| Some(ground.image.as_ref()?.manifest.id.clone())),
                layers_below: ground.map_or(0, |ground| ground.layers.len()),
                found_by: if ground.is_some() { FoundBy::Overlay } else { FoundBy::Everything },
                compare_bytes: Some(taken.places.as_ref().map_or(len, |places| places.bytes(len))),
                why_full: taken.below.why_full,
            })
        })
        .collect::<Result<_>>()?;
    let facts = PlanFacts { source, running: false, stop: false, disks: facts };
    Ok((facts, Prepared::Stopped { disks, instance }))
}

fn live_plan(store: &Store, target: Target, request: &Request) -> Result<(PlanFacts, Prepared)> {
    let disks = target
        .disks
        .iter()
        .map(|disk| match &disk.record {
            Some(record) => later(store, record, request),
            None => Ok(DiskFacts {
                id: disk.id.clone(),
                name: name_of(&disk.id, request, target.disks.len())?.to_string(),
                disk_bytes: disk.len,
                parent: None,
                layers_below: 0,
                found_by: FoundBy::Everything,
                compare_bytes: Some(disk.len),
                why_full: Some("it stands on no image of the store"),
            }),
        })
        .collect::<Result<_>>()?;
    let facts = PlanFacts { source: target.words.clone(), running: true, stop: false, disks };
    Ok((facts, Prepared::Live(Box::new(target))))
}

/// What is known of a disk that is being written.
fn later(store: &Store, disk: &MachineDisk, request: &Request) -> Result<DiskFacts> {
    let below = crate::ground::Below::of(store, disk, &kiln_disk::Silent)?;
    let several = if request.which == Which::All { 2 } else { 1 };
    let ground = below.ground.as_ref();
    let bitmap = disk.captured.as_ref().and_then(|captured| captured.bitmap.as_ref());
    let found_by = match ground {
        None => FoundBy::Everything,
        Some(ground) if ground.is_last && bitmap.is_some() && !request.stop => FoundBy::Bitmap,
        Some(_) => FoundBy::Overlay,
    };
    Ok(DiskFacts {
        id: disk.id.clone(),
        name: name_of(&disk.id, request, several)?.to_string(),
        disk_bytes: disk.disk_bytes,
        parent: ground.and_then(|ground| Some(ground.image.as_ref()?.manifest.id.clone())),
        layers_below: ground.map_or(0, |ground| ground.layers.len()),
        found_by,
        compare_bytes: ground.is_none().then_some(disk.disk_bytes),
        why_full: below.why_full,
    })
}

/// The disks that are asked for.
pub(crate) fn chosen<'a>(record: &'a InstanceRecord, which: &Which) -> Result<Vec<&'a MachineDisk>> {
    let disks = &record.machine.disks;
    let ids: Vec<String> = disks.iter().map(|disk| disk.id.clone()).collect();
    pick(&ids, which).map(|indexes| indexes.into_iter().filter_map(|index| disks.get(index)).collect())
}

/// Which of these disks are asked for, by number.
pub(crate) fn pick(ids: &[String], which: &Which) -> Result<Vec<usize>> {
    let none = |asked: &str| Refusal::NoDisk { asked: asked.to_owned(), known: ids.to_vec() };
    match which {
        _ if ids.is_empty() => Err(none("disk0").into()),
        Which::Root => Ok(vec![0]),
        Which::All => Ok((0..ids.len()).collect()),
        Which::One(asked) => {
            let by_number = asked.parse::<usize>().ok().filter(|number| *number < ids.len());
            let index = ids.iter().position(|id| id == asked).or(by_number);
            Ok(vec![index.ok_or_else(|| none(asked))?])
        }
    }
}

/// The name of the image of a disk: as asked, and of several disks all but the root's with their id behind.
pub(crate) fn name_of(id: &str, request: &Request, disks: usize) -> Result<NameTag> {
    if disks < 2 || id == "disk0" {
        return Ok(request.name.clone());
    }
    let name: Name = format!("{}-{id}", request.name.name).parse()?;
    Ok(NameTag { name, tag: request.name.tag.clone() })
}
