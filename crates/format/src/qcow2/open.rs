//! Opening: headers, extensions, the lists of snapshots and bitmaps, the place of the L1 table, other files.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Findings, Observer, Result};

use super::bitmap::{self, Bitmap};
use super::charged::Charged;
use super::entry::EntryRules;
use super::extension::{Extensions, confirm_known_features, feature_doubts};
use super::external::{External, data_file_reference, open_backing, open_data_file};
use super::geometry::in_memory;
use super::header::{Compression, Header, incompatible};
use super::map::{L1At, Map};
use super::problem::Table;
use super::snapshot::{self, Snapshots};
use super::{FORMAT, check};
use crate::encoded::DecodedCache;
use crate::facts::Facts;
use crate::image::{CheckScope, Image, OpenContext, Tolerance};
use crate::resolver::{ExternalRef, ExternalRole};
use crate::table::Format;

/// An open qcow2 image: the active disk, or the internal snapshot that was asked for.
pub struct Qcow2Image {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) budget: Arc<Budget>,
    pub(super) header: Header,
    pub(super) compression: Compression,
    pub(super) extensions: Extensions,
    pub(super) backing_reference: Option<ExternalRef>,
    pub(super) snapshots: Snapshots,
    pub(super) bitmaps: Vec<Bitmap>,
    /// What is wrong with headers and the places of tables; empty after a strict open.
    pub(super) doubts: Vec<Error>,
    pub(super) disk_len: u64,
    /// Pays for the two lists.
    _held: Charged,
    pub(super) map: Map,
    pub(super) decoded: DecodedCache,
    pub(super) data_file: External<Arc<dyn ByteSource>>,
    pub(super) backing: External<Box<dyn Image>>,
}

impl std::fmt::Debug for Qcow2Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2Image").field("source", &self.source.label()).finish_non_exhaustive()
    }
}

/// Opens a qcow2 file; see [`Format::open`].
pub(super) fn open(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<Box<dyn Image>> {
    Qcow2Image::open(source, context).map(|image| -> Box<dyn Image> { Box::new(image) })
}

impl Qcow2Image {
    /// Opens a qcow2 file.
    ///
    /// Reads the first cluster, the snapshot table and the bitmap directory; under [`Tolerance::Strict`] also the L1
    /// table, once. Tables are otherwise read when they are needed.
    ///
    /// # Errors
    /// - [`Error::Malformed`] with a [`super::Qcow2Problem`];
    /// - [`Error::Unsupported`]: `qcow2.version`, `qcow2.feature-unknown`, `qcow2.compression`,
    ///   `qcow2.encryption-aes`, `qcow2.encryption-luks`, `reference.format-unknown`;
    /// - [`Error::Refused`]: `reference.denied`, `reference.format-missing`, `qcow2.corrupt`,
    ///   `qcow2.snapshot-missing`, sizes of tables, and the budget's;
    /// - [`Error::Io`].
    pub fn open(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<Self> {
        context.budget.check_depth(context.depth)?;
        context.budget.check_time()?;
        let header = read_header(&source)?;
        let (geometry, file_len) = (header.geometry, source.byte_len());
        let first_cluster = read_head(&source, &context.budget, geometry.cluster_len())?;
        let (extensions, mut doubts) = Extensions::decode(&first_cluster, &header);
        confirm_known_features(&header, &extensions)?;
        header.confirm_plain()?;
        let compression = header.compression()?;
        let backing_reference = backing_reference(&header, &extensions, &first_cluster)?;
        doubts.extend(feature_doubts(&header, &extensions));
        doubts.extend(header.l1_doubts(file_len));
        doubts.extend(header.refcount_doubts(file_len));
        let mut held = Charged::new(&context.budget);
        let snapshots = snapshot::read(&source, &header, context, &mut held, &mut doubts)?;
        let bitmaps = match &extensions.bitmaps {
            Some(place) => bitmap::read(&source, geometry, place, context, &mut held, &mut doubts)?,
            None => Vec::new(),
        };
        let (l1, disk_len) = choose_disk(&header, &snapshots, context, file_len, &mut doubts)?;
        if context.tolerance == Tolerance::Strict && !doubts.is_empty() {
            return Err(doubts.swap_remove(0));
        }

        let external = header.has(incompatible::DATA_FILE);
        let rules = EntryRules { geometry, version: header.version, external };
        let budget = Arc::clone(&context.budget);
        let map = Map::new(Arc::clone(&source), rules, l1, context.tolerance, Arc::clone(&budget));
        if context.tolerance == Tolerance::Strict {
            map.confirm_tables_unshared()?;
        }
        let data_reference = external.then(|| data_file_reference(extensions.data_file.as_deref()));
        let data_file = open_data_file(data_reference, context)?;
        let backing = open_backing(backing_reference.clone(), context)?;
        Ok(Self {
            source,
            budget,
            header,
            compression,
            extensions,
            backing_reference,
            snapshots,
            bitmaps,
            doubts,
            disk_len,
            _held: held,
            map,
            decoded: DecodedCache::default(),
            data_file,
            backing,
        })
    }
}

impl Qcow2Image {
    /// Whether the active disk is read, and no snapshot.
    pub(super) fn reads_active(&self) -> bool {
        self.map.reads(Table::L1)
    }
}

impl Image for Qcow2Image {
    fn format(&self) -> &'static Format {
        &FORMAT
    }

    fn facts(&self) -> Facts {
        self.describe()
    }

    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        check::run(self, scope, observer)
    }
}

fn read_header(source: &Arc<dyn ByteSource>) -> Result<Header> {
    let mut bytes = vec![0; in_memory(source.byte_len().min(512))];
    source.read_bytes(FileOffset::ZERO, &mut bytes)?;
    Header::decode(&bytes, source.byte_len())
}

/// The first cluster, as much of it as there is.
fn read_head(source: &Arc<dyn ByteSource>, budget: &Budget, cluster_len: u64) -> Result<Vec<u8>> {
    let len = cluster_len.min(source.byte_len());
    budget.charge(Cost::MetadataBytes, len)?;
    let mut bytes = vec![0; in_memory(len)];
    source.read_bytes(FileOffset::ZERO, &mut bytes)?;
    Ok(bytes)
}

fn backing_reference(
    header: &Header,
    extensions: &Extensions,
    first_cluster: &[u8],
) -> Result<Option<ExternalRef>> {
    let Some(place) = header.backing_name(super::geometry::as_bytes(first_cluster.len()))? else {
        return Ok(None);
    };
    let name = first_cluster.get(in_memory(place.start)..in_memory(place.end)).unwrap_or_default();
    Ok(Some(ExternalRef {
        role: ExternalRole::Backing,
        name: String::from_utf8_lossy(name).into_owned(),
        format: extensions.backing_format.clone(),
        at: FileOffset::new(place.start),
    }))
}

/// The L1 table and the length of the disk to read.
fn choose_disk(
    header: &Header,
    snapshots: &Snapshots,
    context: &OpenContext,
    file_len: u64,
    doubts: &mut Vec<Error>,
) -> Result<(L1At, u64)> {
    let Some(wanted) = &context.snapshot else {
        let entries = header.l1_size.into();
        return Ok((L1At { start: header.l1_table_offset, entries, table: Table::L1 }, header.size));
    };
    let by_name = snapshots.list.iter().find(|snapshot| snapshot.name == *wanted);
    let chosen = by_name.or_else(|| snapshots.list.iter().find(|snapshot| snapshot.id == *wanted));
    let Some(chosen) = chosen else {
        return Err(Error::Refused {
            code: "qcow2.snapshot-missing",
            what: format!("no internal snapshot {wanted:?} in this image"),
            asked: 0,
            allowed: 0,
            hint: "kiln inspect lists the snapshots of an image",
        });
    };
    snapshot::l1_doubts(chosen, header, file_len, doubts);
    let l1 = L1At { start: chosen.l1_table_offset, entries: chosen.l1_size.into(), table: Table::SnapshotL1 };
    Ok((l1, chosen.disk_size))
}
