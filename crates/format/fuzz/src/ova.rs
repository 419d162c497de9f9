//! Everything that can be done with an appliance, a descriptor and a manifest from a stranger. Shared by the fuzz
//! targets and the test suite.

use std::sync::Arc;

use kiln_disk::{Budget, FileOffset, GuestOffset, Limits, MemorySource, Silent};
use kiln_format::ova::{Descriptor, FORMAT, Manifest, OVF};
use kiln_format::{AllowList, CheckScope, Format, OpenContext, Resolved, Tolerance};

/// Opens the bytes as OVA and as OVF both ways, reads and checks what opens. Answers whether anything did.
pub(crate) fn ova(bytes: &[u8]) -> bool {
    let formats: [&'static Format; 2] = [&FORMAT, &OVF];
    formats.into_iter().map(|format| open(format, bytes)).fold(false, |any, one| any | one)
}

fn open(format: &'static Format, bytes: &[u8]) -> bool {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let mut opened = false;
    for (tolerance, part) in
        [(Tolerance::Strict, None), (Tolerance::Strict, Some("2")), (Tolerance::Damaged, None)]
    {
        // A descriptor gets itself as its disk: the shortest way to a loop.
        let mut list = AllowList::default();
        list.allow("disk.vhd", Resolved { source: source.clone(), format: None });
        let context = OpenContext {
            resolver: Arc::new(list),
            budget: Arc::new(Budget::new(Limits::INSPECT)),
            tolerance,
            part: part.map(str::to_owned),
            ..OpenContext::new()
        };
        let Ok(image) = (format.open)(source.clone(), &context) else { continue };
        opened = true;
        assert_eq!(image.facts().disk_bytes, image.disk_len());
        let mut buf = vec![0; 512.min(image.disk_len() as usize)];
        let _ = image.read_guest(GuestOffset::ZERO, &mut buf);
        let _ = image.check(CheckScope::Data, &Silent);
    }
    opened
}

/// Reads a descriptor.
pub(crate) fn ovf(bytes: &[u8]) -> bool {
    let Ok(descriptor) = Descriptor::parse(bytes, FileOffset::ZERO) else { return false };
    for file in &descriptor.files {
        assert!(!file.href.starts_with('/') && !file.href.split('/').any(|part| part == ".."));
    }
    true
}

/// Reads a manifest.
pub(crate) fn mf(bytes: &[u8]) -> bool {
    let manifest = Manifest::parse(bytes);
    for line in &manifest.lines {
        assert!(line.at <= bytes.len() as u64 && !line.name.is_empty());
    }
    !manifest.lines.is_empty()
}
