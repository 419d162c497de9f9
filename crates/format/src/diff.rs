//! Two disks side by side: what their containers say, how they are divided, and which bytes differ.

use std::collections::BTreeMap;

use kiln_disk::digest::differing_ranges;
use kiln_disk::{GuestRange, Observer, Result};
use serde::Serialize;

use crate::facts::{DetailValue, Facts};
use crate::image::Image;
use crate::partitions::{Layout, Partition};

/// A fact that is not the same on both sides; absent where the container has no such fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FactDiff {
    /// Its name: a field of [`Facts`], or of its details.
    pub name: String,
    /// On the first side.
    pub first: Option<String>,
    /// On the second.
    pub second: Option<String>,
}

/// A partition that is not the same on both sides; absent where there is none of this number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionDiff {
    /// Its number.
    pub number: u32,
    /// On the first side.
    pub first: Option<Partition>,
    /// On the second.
    pub second: Option<Partition>,
}

/// What differs.
#[derive(Debug)]
pub struct DiskDiff {
    /// Of the containers. These may differ for the same disk.
    pub facts: Vec<FactDiff>,
    /// Partitions of the first disk, and of the second.
    pub layouts: [Layout; 2],
    /// Of the tables.
    pub partitions: Vec<PartitionDiff>,
    /// Of the disks: ascending ranges of whole 64 KiB blocks.
    pub ranges: Vec<GuestRange>,
}

impl DiskDiff {
    /// Compares. Reads both disks where either has data.
    ///
    /// # Errors
    /// Whatever reading either disk says; [`kiln_disk::Error::Cancelled`].
    pub fn of(first: &dyn Image, second: &dyn Image, observer: &dyn Observer) -> Result<Self> {
        let layouts = [Layout::read(first)?, Layout::read(second)?];
        Ok(Self {
            facts: facts(&first.facts(), &second.facts()),
            partitions: partitions(&layouts),
            layouts,
            ranges: differing_ranges(first, second, observer)?,
        })
    }

    /// Whether it is one disk in two files. Disks of different length differ in a range.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes in all ranges.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|range| range.len).fold(0, u64::saturating_add)
    }

    /// Differing bytes in each partition of the first disk that has any, and outside them.
    #[must_use]
    pub fn by_partition(&self) -> Vec<(Option<&Partition>, u64)> {
        let [layout, _] = &self.layouts;
        let mut list = Vec::new();
        let mut inside = 0_u64;
        for partition in &layout.partitions {
            let bytes = self
                .ranges
                .iter()
                .map(|range| {
                    let end = range.start.get().saturating_add(range.len).min(partition.end());
                    end.saturating_sub(range.start.get().max(partition.start_bytes))
                })
                .fold(0, u64::saturating_add);
            inside = inside.saturating_add(bytes);
            if bytes > 0 {
                list.push((Some(partition), bytes));
            }
        }
        let outside = self.total().saturating_sub(inside);
        if outside > 0 {
            list.push((None, outside));
        }
        list
    }
}

/// Facts as pairs of words.
fn words(facts: &Facts) -> BTreeMap<String, String> {
    let own = [
        ("format", facts.format.to_owned()),
        ("variant", facts.variant.clone()),
        ("disk_bytes", facts.disk_bytes.to_string()),
        ("file_bytes", facts.file_bytes.to_string()),
        ("unit_bytes", facts.unit_bytes.map(|bytes| bytes.to_string()).unwrap_or_default()),
        ("compression", facts.compression.unwrap_or_default().to_owned()),
        ("references", facts.references.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")),
        ("snapshots", facts.snapshots.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    let details = facts.details.iter().map(|detail| (detail.name.to_owned(), text(&detail.value)));
    own.chain(details).filter(|(_, value)| !value.is_empty()).collect()
}

fn text(value: &DetailValue) -> String {
    match value {
        DetailValue::Flag(flag) => flag.to_string(),
        DetailValue::Number(number) => number.to_string(),
        DetailValue::Text(text) => text.clone(),
        DetailValue::List(list) => list.join(", "),
    }
}

fn facts(first: &Facts, second: &Facts) -> Vec<FactDiff> {
    let (mut first, mut second) = (words(first), words(second));
    let names: std::collections::BTreeSet<String> = first.keys().chain(second.keys()).cloned().collect();
    let pairs = names.into_iter().map(|name| {
        let (first, second) = (first.remove(&name), second.remove(&name));
        FactDiff { name, first, second }
    });
    pairs.filter(|diff| diff.first != diff.second).collect()
}

fn partitions([first, second]: &[Layout; 2]) -> Vec<PartitionDiff> {
    let find = |layout: &Layout, number| layout.partitions.iter().find(|one| one.number == number).cloned();
    let numbers: std::collections::BTreeSet<u32> =
        first.partitions.iter().chain(&second.partitions).map(|one| one.number).collect();
    // A volume without a table is as long as its disk: that is no difference of tables.
    let is_table = |number: &u32| *number > 0;
    numbers
        .into_iter()
        .filter(is_table)
        .map(|number| PartitionDiff { number, first: find(first, number), second: find(second, number) })
        .filter(|diff| diff.first != diff.second)
        .collect()
}
