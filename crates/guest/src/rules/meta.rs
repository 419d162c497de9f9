//! Rules of what a place must be told about the system: its kind, its machine, its licence.

use super::{Case, Hits};
use crate::facts::Seen;

/// Systems that Tencent's import knows by name; all others are "Other Linux" (DescribeImportImageOs).
const TENCENT: [&str; 19] = [
    "centos",
    "ubuntu",
    "debian",
    "opensuse",
    "opensuse-leap",
    "opensuse-tumbleweed",
    "sles",
    "sles_sap",
    "sled",
    "coreos",
    "fedora",
    "almalinux",
    "rocky",
    "kylin",
    "uos",
    "uniontech",
    "tencentos",
    "opencloudos",
    "tlinux",
];

/// meta.os
pub(super) fn system(case: &Case<'_>, hits: &mut Hits) {
    let Some(os) = case.report.os.as_ref().filter(|_| case.is_linux()) else { return };
    if case.place.id == "tencent" && !TENCENT.contains(&os.id.as_str()) {
        let name = if os.name.is_empty() { "the system" } else { &os.name };
        hits.add_fix(
            format!("the import has no OsType of its own for {name}"),
            Seen::file("/etc/os-release"),
            "tccli cvm ImportImage --OsType 'Other Linux' ...; tccli cvm DescribeImportImageOs lists them"
                .to_owned(),
        );
    }
    if case.place.id == "aws" && os.architecture == Some("aarch64") {
        hits.add_fix(
            "import-image takes x86_64 and i386 only; the system is for aarch64",
            Seen::file(os.architecture_from.clone().unwrap_or_default()),
            "aws ec2 import-snapshot, then aws ec2 register-image --architecture arm64 --boot-mode uefi"
                .to_owned(),
        );
    }
}

/// How a place is told whose licence counts; places without such a choice have none.
fn choice(place: &str, windows: bool) -> Option<&'static str> {
    match place {
        "aws" => {
            Some("aws ec2 import-image --license-type BYOL, or AWS; strongly recommended by ImportImage")
        }
        "azure" if windows => Some(
            "az vm create --license-type Windows_Server, where there are licences with Software Assurance",
        ),
        "azure" => Some("az vm create --license-type RHEL_BYOS, or SLES_BYOS"),
        "gcp" => Some(
            "gcloud compute images import --os=rhel-9-byol, sles-15-byol, windows-2022-byol; an image without such a licence is billed as rented",
        ),
        "tencent" if windows => Some("tccli cvm ImportImage --LicenseType BYOL; the default is TencentCloud"),
        "alibaba" if windows => Some("aliyun ecs ImportImage --LicenseType BYOL; Aliyun is the other"),
        "alibaba" => Some("aliyun ecs ImportImage --LicenseType BYOL: the subscription is brought along"),
        _ => None,
    }
}

/// meta.license
pub(super) fn licence(case: &Case<'_>, hits: &mut Hits) {
    let Some(os) = &case.report.os else { return };
    if let Some(origin) = &case.report.origin
        && origin.place != case.place.id
    {
        let of = if origin.place == "any" { "another place" } else { origin.place };
        let what = format!("the licence was rented from {of} and does not go along: {}", origin.what);
        hits.add(what, origin.seen.clone());
    }
    let windows = case.report.windows.as_ref();
    if let Some((server, windows)) = windows.and_then(|it| Some((it.licence_server.as_ref()?, it))) {
        let key = "Microsoft\\Windows NT\\CurrentVersion\\SoftwareProtectionPlatform";
        hits.add_fix(
            format!("it asks {server} for its licence, which need not answer there"),
            windows.seen("SOFTWARE", key),
            "slmgr.vbs /ckms, then slmgr.vbs /skms SERVER of the new place".to_owned(),
        );
    }
    let sold = windows.is_some() || matches!(os.id.as_str(), "rhel" | "sles" | "sles_sap" | "sled");
    let Some(how) = choice(case.place.id, windows.is_some()).filter(|_| sold) else { return };
    let name = if os.name.is_empty() { os.id.as_str() } else { &os.name };
    let seen = match windows {
        Some(windows) => windows.seen("SOFTWARE", "Microsoft\\Windows NT\\CurrentVersion"),
        None => Seen::file("/etc/os-release"),
    };
    hits.add_fix(format!("{name} needs a licence, brought along or rented"), seen, how.to_owned());
}
