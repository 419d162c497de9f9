//! The check of an appliance: its archive, its manifest, and every disk in it.

use std::collections::{HashMap, HashSet};

use kiln_disk::digest::{Algorithm, Digest, hash_source};
use kiln_disk::{CheckSpec, Disk, Error, Finding, Findings, Observer, Result};

use super::appliance::{Appliance, is_named};
use super::descriptor::percent_decoded;
use super::files::{Files, Part};
use super::image::ApplianceImage;
use super::manifest::{Manifest, ManifestLine};
use super::specs;
use crate::completeness;
use crate::identify::explained;
use crate::image::{CheckScope, OpenContext, Tolerance};
use crate::nested::Nested;
use crate::tar::{Archive, MemberKind, check_archive};

/// Looks for all rows of the table. `own` is the disk that is open.
pub(super) fn run(
    image: &ApplianceImage,
    own: Option<&Nested>,
    scope: CheckScope,
    observer: &dyn Observer,
) -> Result<Findings> {
    let mut findings = Findings::default();
    let appliance = &image.appliance;
    if let Files::Archive(members) = &appliance.files {
        archive(&members.archive, &members.folder, appliance, &mut findings);
    }
    files(appliance, &mut findings)?;
    match (&appliance.manifest, &appliance.manifest_part) {
        (Some(manifest), Some(part)) => self::manifest(appliance, manifest, part, &mut findings, observer)?,
        _ => findings.push(specs::NO_MANIFEST.found(appliance.name.as_str())),
    }
    if let Some(name) = &appliance.certificate {
        findings.push(specs::CERTIFICATE.found(name.as_str()));
    }
    let mut seen = HashSet::new();
    for (index, (_, file)) in appliance.disks().enumerate() {
        if (image.is_choice && index != image.chosen) || !seen.insert(file.id.as_str()) {
            continue;
        }
        match own.filter(|_| index == image.chosen) {
            // How far it reaches is looked at by whoever runs this check.
            Some(disk) => disk_findings(image, index, disk, scope, observer, &mut findings)?,
            None => other_disk(image, index, scope, observer, &mut findings)?,
        }
    }
    Ok(findings)
}

/// Every disk but the one that is open.
fn other_disk(
    image: &ApplianceImage,
    index: usize,
    scope: CheckScope,
    observer: &dyn Observer,
    findings: &mut Findings,
) -> Result<()> {
    let context = OpenContext { tolerance: Tolerance::Damaged, ..image.context.clone() };
    match image.appliance.open_disk(index, &context) {
        Ok(disk) => {
            disk_findings(image, index, &disk, scope, observer, findings)?;
            completeness::check(&disk, findings)
        }
        // Polyglots and other refusals of what the file is, like damage, are about the file.
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) => {
            let (detail, at) = explained(&error);
            let finding = specs::DISK_UNREADABLE.found(format!("disk {}: {detail}", index.saturating_add(1)));
            findings.push(match at {
                Some(at) => finding.at(at),
                None => finding,
            });
            Ok(())
        }
    }
}

fn disk_findings(
    image: &ApplianceImage,
    index: usize,
    disk: &Nested,
    scope: CheckScope,
    observer: &dyn Observer,
    findings: &mut Findings,
) -> Result<()> {
    let appliance = &image.appliance;
    if let Some((entry, file)) = appliance.disks().nth(index) {
        let at = appliance.descriptor_at.saturating_add(entry.at);
        if let Some(capacity) = entry.capacity_bytes.filter(|capacity| *capacity != disk.disk_len()) {
            let detail =
                format!("{}: {capacity} bytes in the descriptor, {} in the disk", file.href, disk.disk_len());
            findings.push(specs::DISK_CAPACITY.found(detail).at(at));
        }
        let id = disk.format_id();
        if let Some(uri) = entry.format.as_deref().filter(|uri| is_another(uri, id)) {
            findings
                .push(specs::DISK_FORMAT.found(format!("{}: {id}, declared as {uri:?}", file.href)).at(at));
        }
    }
    findings.extend(disk.check(scope, observer)?);
    Ok(())
}

/// Whether a format URI clearly means another format than `id`.
fn is_another(uri: &str, id: &str) -> bool {
    let uri = uri.to_ascii_lowercase();
    super::appliance::names_a_container(&uri) && !uri.contains(id)
}

/// What is wrong with the archive around the files.
fn archive(archive: &Archive, folder: &str, appliance: &Appliance, findings: &mut Findings) {
    check_archive(archive, findings);
    if let Some((name, at)) = &appliance.other_descriptor {
        findings.push(specs::DESCRIPTORS.found(format!("{} and {name}", appliance.name)).at(*at));
    }
    let first = archive.members.iter().find(|member| member.is_file());
    if let Some(first) = first.filter(|member| !is_named(member, ".ovf")) {
        findings.push(specs::ORDER.found(first.name()).at(first.header_at));
    }
    let mut known = HashSet::new();
    let referenced: HashSet<String> = appliance
        .descriptor
        .files
        .iter()
        .flat_map(|file| [file.href.clone(), percent_decoded(&file.href)])
        .collect();
    for member in &archive.members {
        let found = |row: &'static CheckSpec| row.found(member.name()).at(member.header_at);
        match member.kind {
            MemberKind::File => {}
            MemberKind::Directory | MemberKind::Label => continue,
            kind => findings.push(
                specs::MEMBER_KIND
                    .found(format!("{} is a {}", member.name(), kind.words()))
                    .at(member.header_at),
            ),
        }
        let Some(name) = member.plain_name() else {
            findings.push(found(&specs::MEMBER_NAME));
            continue;
        };
        if !known.insert(name) {
            findings.push(found(&specs::MEMBER_TWICE));
        }
        let own = name.strip_prefix(folder).unwrap_or(name);
        let is_ours = [".ovf", ".mf", ".cert"].iter().any(|ending| is_named(member, ending));
        // A piece of a file has a number behind its name.
        let whole =
            own.rsplit_once('.').filter(|(_, digits)| digits.len() == 9).map_or(own, |(name, _)| name);
        let is_known = referenced.contains(own) || referenced.contains(whole);
        if member.is_file() && !is_ours && !is_known {
            findings.push(found(&specs::MEMBER_EXTRA));
        }
    }
}

/// Whether the files of the descriptor are there, in their length.
fn files(appliance: &Appliance, findings: &mut Findings) -> Result<()> {
    for file in &appliance.descriptor.files {
        let at = appliance.descriptor_at.saturating_add(file.at);
        match appliance.files.get(file, at) {
            Ok(part) => {
                let len = part.source.byte_len();
                if let Some(size) = file.size_bytes.filter(|size| *size != len) {
                    let detail = format!("{}: {size} bytes in the descriptor, {len} in the file", file.href);
                    findings.push(specs::FILE_SIZE.found(detail).at(at));
                }
            }
            Err(error @ (Error::Io { .. } | Error::Cancelled)) => return Err(error),
            Err(error) if error.code() == "ova.file.twice" => {}
            Err(_) => findings.push(specs::FILE_MISSING.found(file.href.as_str()).at(at)),
        }
    }
    Ok(())
}

/// Compares the files with the manifest. Each is read once, whatever its lines ask for.
fn manifest(
    appliance: &Appliance,
    manifest: &Manifest,
    part: &Part,
    findings: &mut Findings,
    observer: &dyn Observer,
) -> Result<()> {
    let place = |at: u64, finding: Finding| match part.at {
        Some(base) => finding.at(base.saturating_add(at)),
        None => finding,
    };
    for (line, at) in &manifest.odd {
        findings.push(place(*at, specs::MF_LINE.found(format!("line {line} of {}", part.name))));
    }
    let mut by_name: Vec<(&str, Vec<&ManifestLine>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for line in &manifest.lines {
        let index = *places.entry(&line.name).or_insert(by_name.len());
        match by_name.get_mut(index) {
            Some((_, lines)) => lines.push(line),
            None => by_name.push((&line.name, vec![line])),
        }
        if !line.usual {
            let finding = specs::MF_SPELLING.found(format!("line {} of {}", line.line, part.name));
            findings.push(place(line.at, finding));
        }
    }
    if manifest.algorithms().contains(&Algorithm::Sha1) {
        findings.push(specs::MF_SHA1.found(part.name.as_str()));
    }
    for (name, lines) in by_name {
        let at = lines.first().map_or(0, |line| line.at);
        let found = match appliance.files.find(name, appliance.descriptor_at) {
            Ok(Some(found)) => found,
            Err(error @ (Error::Io { .. } | Error::Cancelled)) => return Err(error),
            Ok(None) | Err(_) => {
                findings.push(place(at, specs::MF_MISSING.found(name)));
                continue;
            }
        };
        if found.is_sparse {
            findings.push(place(at, specs::MF_UNCHECKED.found(name)));
            continue;
        }
        let hashed = appliance.hashed.as_ref().filter(|(at, _)| found.at == Some(*at));
        compare(&found, hashed.map(|(_, digests)| digests.as_slice()), &lines, findings, observer)?;
    }
    let needed = appliance.descriptor.files.iter().map(|file| file.href.as_str());
    for name in needed.chain([appliance.name.as_str()]) {
        let is_listed =
            places.contains_key(name) || places.contains_key(format!("{name}.000000000").as_str());
        if !is_listed {
            findings.push(place(0, specs::MF_UNLISTED.found(name)));
        }
    }
    Ok(())
}

fn compare(
    found: &Part,
    hashed: Option<&[Digest]>,
    lines: &[&ManifestLine],
    findings: &mut Findings,
    observer: &dyn Observer,
) -> Result<()> {
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for line in lines {
        if !algorithms.contains(&line.digest.algorithm()) {
            algorithms.push(line.digest.algorithm());
        }
    }
    let is_known = |digests: &&[Digest]| {
        algorithms.iter().all(|algorithm| digests.iter().any(|digest| digest.algorithm() == *algorithm))
    };
    let digests = match hashed.filter(is_known) {
        Some(digests) => digests.to_vec(),
        None => hash_source(found.source.as_ref(), &algorithms, observer)?,
    };
    for line in lines {
        let computed = digests.iter().find(|digest| digest.algorithm() == line.digest.algorithm());
        if computed != Some(&line.digest) {
            let computed = computed.map(ToString::to_string).unwrap_or_default();
            let detail = format!("{}: {} in the manifest, {computed} by its bytes", line.name, line.digest);
            let finding = specs::MF_DIFFERS.found(detail);
            findings.push(match found.at {
                Some(at) => finding.at(at),
                None => finding,
            });
        }
    }
    Ok(())
}
