//! The rows of the check of an appliance: what can be found, said before anything is.

use kiln_disk::{CheckSpec, Severity};

use crate::tar::{HIDDEN, NO_END};

const fn row(
    id: &'static str,
    severity: Severity,
    summary: &'static str,
    effect: &'static str,
    fix: &'static str,
) -> CheckSpec {
    CheckSpec { id, severity, summary, effect, fix }
}

const AGAIN: &str = "get the appliance again and compare its checksum";
const EXPORT: &str = "kiln convert -O ova packs it as all programs take it";

pub(super) static ORDER: CheckSpec = row(
    "ova.order",
    Severity::Advice,
    "the descriptor is not the first member of the archive",
    "VMware and clouds that read the archive as a stream refuse it",
    EXPORT,
);
pub(super) static DESCRIPTORS: CheckSpec = row(
    "ova.descriptors",
    Severity::Fatal,
    "the archive has several descriptors",
    "programs disagree about which machine it is",
    "pack the files again with one of them",
);
pub(super) static MEMBER_KIND: CheckSpec = row(
    "ova.member.kind",
    Severity::Damage,
    "a member is neither a file nor a directory",
    "a program that unpacks it may write or read outside its folder; Kiln never follows it",
    "pack the files again without it",
);
pub(super) static MEMBER_NAME: CheckSpec = row(
    "ova.member.name",
    Severity::Damage,
    "the name of a member leads out of the archive's folder",
    "a program that unpacks it may overwrite other files; Kiln never opens a file by it",
    "pack the files again without it",
);
pub(super) static MEMBER_TWICE: CheckSpec = row(
    "ova.member.twice",
    Severity::Damage,
    "two members have the same name",
    "programs disagree about which one counts",
    "pack the files again with one of them",
);
pub(super) static MEMBER_EXTRA: CheckSpec = row(
    "ova.member.extra",
    Severity::Advice,
    "a member belongs to nothing in the descriptor",
    "none",
    EXPORT,
);
pub(super) static FILE_MISSING: CheckSpec = row(
    "ova.file.missing",
    Severity::Damage,
    "a file of the descriptor is not in the appliance",
    "what it holds is lost; most programs refuse the appliance",
    AGAIN,
);
pub(super) static FILE_SIZE: CheckSpec = row(
    "ova.file.size",
    Severity::Damage,
    "a file is not as long as the descriptor says",
    "it was cut or replaced; VMware refuses it",
    AGAIN,
);
pub(super) static DISK_UNREADABLE: CheckSpec = row(
    "ova.disk.unreadable",
    Severity::Fatal,
    "a disk of the appliance cannot be opened",
    "nothing of that disk can be read",
    AGAIN,
);
pub(super) static DISK_FORMAT: CheckSpec = row(
    "ova.disk.format",
    Severity::Advice,
    "a disk is of another format than the descriptor says",
    "programs that believe the descriptor refuse it",
    EXPORT,
);
pub(super) static DISK_CAPACITY: CheckSpec = row(
    "ova.disk.capacity",
    Severity::Advice,
    "a disk is not as long as the descriptor says",
    "the disk's own length counts; some programs reserve the other",
    EXPORT,
);
pub(super) static NO_MANIFEST: CheckSpec = row(
    "ova.mf.absent",
    Severity::Advice,
    "the appliance has no manifest",
    "changes on the way here cannot be seen",
    "compare a checksum that its maker published",
);
pub(super) static MF_LINE: CheckSpec = row(
    "ova.mf.line",
    Severity::Damage,
    "a line of the manifest cannot be read",
    "what it protects is not protected",
    AGAIN,
);
pub(super) static MF_DIFFERS: CheckSpec = row(
    "ova.mf.differs",
    Severity::Damage,
    "a file has another digest than the manifest says",
    "the file was changed or damaged, or the manifest is of another appliance",
    AGAIN,
);
pub(super) static MF_MISSING: CheckSpec = row(
    "ova.mf.missing-file",
    Severity::Damage,
    "the manifest lists a file that is not in the appliance",
    "the appliance is not whole",
    AGAIN,
);
pub(super) static MF_UNLISTED: CheckSpec = row(
    "ova.mf.unlisted",
    Severity::Damage,
    "the manifest does not list a file of the appliance",
    "that file could have been changed without a trace",
    "compare a checksum that its maker published",
);
pub(super) static MF_UNCHECKED: CheckSpec = row(
    "ova.mf.unchecked",
    Severity::Damage,
    "a file of the manifest is stored with holes, which appliances must not be",
    "its digest was not computed: it can be long out of all proportion",
    "pack the files again with: tar --format=ustar",
);
pub(super) static MF_SPELLING: CheckSpec = row(
    "ova.mf.spelling",
    Severity::Advice,
    "a line of the manifest is not spelled as all programs read it",
    "some hypervisors refuse the appliance: they want exactly SHA256(name)= and lower-case digits",
    EXPORT,
);
pub(super) static MF_SHA1: CheckSpec = row(
    "ova.mf.sha1",
    Severity::Advice,
    "the manifest has SHA-1 digests",
    "they show accidents, not forgeries; vSphere 8 refuses them",
    EXPORT,
);
pub(super) static CERTIFICATE: CheckSpec = row(
    "ova.cert.unverified",
    Severity::Advice,
    "the appliance is signed, and Kiln does not verify that signature",
    "the manifest shows accidents; who made it is not known",
    "verify it with openssl or the hypervisor's own tool, or compare a checksum that its maker published",
);

pub(super) static ALL: &[CheckSpec] = &[
    NO_END,
    HIDDEN,
    ORDER,
    DESCRIPTORS,
    MEMBER_KIND,
    MEMBER_NAME,
    MEMBER_TWICE,
    MEMBER_EXTRA,
    FILE_MISSING,
    FILE_SIZE,
    DISK_UNREADABLE,
    DISK_FORMAT,
    DISK_CAPACITY,
    NO_MANIFEST,
    MF_LINE,
    MF_DIFFERS,
    MF_MISSING,
    MF_UNLISTED,
    MF_UNCHECKED,
    MF_SPELLING,
    MF_SHA1,
    CERTIFICATE,
];
