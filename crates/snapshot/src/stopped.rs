//! Disks that stand still: of stopped instances, files, block devices.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kiln_catalog::machine::{MachineDisk, MachineFirmware};
use kiln_catalog::{CaptureSource, CheckRecord, FindingCount, InstanceRecord, MachineFacts, Store};
use kiln_disk::{ByteSource, Disk, Error as DiskError, FileSource, Findings, Observer, StackDisk, os};
use kiln_format::{CheckScope, Choice, Image, OpenContext, check};
use rustix::fs::{FileType, Mode, OFlags};

use crate::error::{Refusal, Result};
use crate::ground::Below;
use crate::request::Request;
use crate::view::{Places, held};

/// Version of the rules that the check of a container goes by.
const RULE_SET: &str = "1";

/// A disk at its point in time.
pub(crate) struct Taken {
    /// `disk0`, or the file's name.
    pub(crate) id: String,
    /// All of it.
    pub(crate) disk: Arc<dyn Disk>,
    /// What is below, and what a layer can stand on.
    pub(crate) below: Below,
    /// Where it may differ from the ground, or from zeros; nothing is known of that when there is none.
    pub(crate) places: Option<Places>,
    /// Where it comes from.
    pub(crate) source: CaptureSource,
    /// Base name, format and length of the file that it is in.
    pub(crate) file: (String, String, u64),
    /// What the check of that file said.
    pub(crate) checks: CheckRecord,
    /// The file, whose being unchanged proves that all was read at one point in time.
    pub(crate) still: Option<Arc<FileSource>>,
    /// A dirty bitmap told the places.
    pub(crate) by_bitmap: bool,
}

/// The overlay of a stopped instance, locked against QEMU as long as this value lives.
pub(crate) fn of_instance(
    store: &Store,
    record: &InstanceRecord,
    disk: &MachineDisk,
    observer: &dyn Observer,
) -> Result<Taken> {
    let path = store.instance_dir(&record.id).join(plain_name(&disk.file)?);
    let file = lock(&path)?;
    let byte_len = file.byte_len();
    let overlay =
        kiln_format::layer::open_layer("qcow2", Arc::<FileSource>::clone(&file) as Arc<dyn ByteSource>)?;
    let below = Below::of(store, disk, observer)?;
    let places = match &below.ground {
        Some(ground) => Some(Places::of(held(overlay.as_ref())?).and(ground.apart.iter().copied())),
        None => None,
    };
    let mut stack = below.open(store)?;
    stack.push(overlay);
    let stack = StackDisk::new(stack);
    if stack.disk_len() == 0 {
        return Err(Refusal::Empty { what: path.display().to_string() }.into());
    }
    Ok(Taken {
        id: disk.id.clone(),
        disk: Arc::new(stack),
        below,
        places,
        source: CaptureSource::Instance {
            id: record.id.clone(),
            name: record.name.as_ref().map(ToString::to_string),
            disk: disk.id.clone(),
        },
        file: (disk.file.clone(), "qcow2".to_owned(), byte_len),
        checks: unchecked(),
        still: Some(file),
        by_bitmap: false,
    })
}

/// A disk file in any format, or a block device.
pub(crate) fn of_path(
    path: &Path,
    choice: Choice,
    request: &Request,
    observer: &dyn Observer,
) -> Result<Taken> {
    let file = lock(path)?;
    let label = path.display().to_string();
    let is_device = !file.file().metadata().is_ok_and(|metadata| metadata.is_file());
    let bytes: Arc<dyn ByteSource> = Arc::<FileSource>::clone(&file) as Arc<dyn ByteSource>;
    let context = OpenContext { resolver: Arc::clone(&request.resolver), ..OpenContext::new() };
    let image: Box<dyn Image> = kiln_format::open(Arc::clone(&bytes), choice, &context)?;
    let format = image.format();
    if image.disk_len() == 0 {
        return Err(Refusal::Empty { what: label }.into());
    }
    let declared = if choice == Choice::AsRaw { choice } else { Choice::Declared(format) };
    let report = check(bytes, declared, &context, CheckScope::Metadata, observer)?;
    let checks = pass(&report.findings, &label)?;
    let name = path.file_name().map_or_else(|| label.clone(), |name| name.to_string_lossy().into_owned());
    let source = match is_device {
        true => CaptureSource::Device { name: name.clone() },
        false => CaptureSource::File { name: name.clone(), format: format.id.to_owned() },
    };
    let below =
        Below { layers: Vec::new(), ground: None, why_full: Some("it stands on no image of the store") };
    Ok(Taken {
        id: name.clone(),
        disk: Arc::from(image as Box<dyn Disk>),
        below,
        places: None,
        source,
        file: (name, format.id.to_owned(), file.byte_len()),
        checks,
        still: Some(file),
        by_bitmap: false,
    })
}

/// Opens a file that nobody writes to, and keeps QEMU processes from beginning to, as long as it is open.
fn lock(path: &Path) -> Result<Arc<FileSource>> {
    let label = path.display().to_string();
    let failed = |source: std::io::Error| DiskError::io("open", &label, source);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let found = rustix::fs::stat(path).map_err(|errno| failed(errno.into()))?;
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice;
    let exclusive = if is_device { OFlags::EXCL } else { OFlags::empty() };
    let file = match rustix::fs::open(path, flags | exclusive, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::BUSY) => {
            return Err(Refusal::InUse { what: label, seen: "it is mounted, or opened exclusively" }.into());
        }
        Err(errno) => return Err(failed(errno.into()).into()),
    };
    // File systems without such locks have no QEMU that takes them either.
    match os::claim_reading(&file) {
        Ok(true) | Err(_) => {}
        Ok(false) => {
            return Err(Refusal::InUse { what: label, seen: "a QEMU process holds its write lock" }.into());
        }
    }
    Ok(Arc::new(FileSource::from_file(file, label)?))
}

/// A name that is one component of a path.
pub(crate) fn plain_name(name: &str) -> Result<&str> {
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        let problem = format!("its record names the file {name:?}, which is not in its folder");
        return Err(Refusal::Machine { machine: "the instance".to_owned(), problem }.into());
    }
    Ok(name)
}

/// What is known of the machine of an instance.
pub(crate) fn machine_of(record: &InstanceRecord) -> MachineFacts {
    let machine = &record.machine;
    MachineFacts {
        architecture: Some(machine.architecture.clone()),
        cpus: Some(machine.cpus),
        memory_bytes: Some(machine.memory_bytes),
        firmware: Some(
            match machine.firmware {
                MachineFirmware::Bios => "bios",
                MachineFirmware::Uefi => "uefi",
            }
            .to_owned(),
        ),
        qemu: None,
    }
}

/// A record of no check: the file was Kiln's own.
pub(crate) fn unchecked() -> CheckRecord {
    CheckRecord {
        rule_set: RULE_SET.to_owned(),
        scope: "metadata".to_owned(),
        forced: false,
        findings: Vec::new(),
    }
}

fn pass(findings: &Findings, label: &str) -> Result<CheckRecord> {
    let list = findings.list();
    let mut counts = Vec::new();
    for (id, count) in findings.counts() {
        if let Some(finding) = list.iter().find(|finding| finding.check.id == *id) {
            counts.push(FindingCount {
                id: (*id).to_owned(),
                severity: finding.check.severity,
                count: *count,
            });
        }
    }
    if findings.fails() {
        let failing = counts.iter().filter(|one| one.severity.fails());
        let ids = failing.map(|one| one.id.clone()).collect();
        return Err(Refusal::Findings { what: label.to_owned(), ids }.into());
    }
    Ok(CheckRecord { findings: counts, ..unchecked() })
}
