//! The answer with the keys of `qemu-img info --output=json`, for scripts that have them.

use kiln_format::qemu::name as qemu_name;
use kiln_format::{ExternalRole, Facts};
use serde_json::{Map, Value, json};

use super::value_json;
use crate::error::Result;
use crate::input::Input;

/// What qemu-img would say, as far as it is known without opening another file.
pub(super) fn info(input: &Input, facts: &Facts) -> Result<Value> {
    let mut record = Map::new();
    record.insert("virtual-size".into(), facts.disk_bytes.into());
    record.insert("filename".into(), input.label.clone().into());
    if let Some(unit) = facts.unit_bytes {
        record.insert("cluster-size".into(), unit.into());
    }
    record.insert("format".into(), qemu_name(facts.format).into());
    record.insert("actual-size".into(), input.file.allocated_len()?.into());
    if let Some(backing) = facts.references.iter().find(|file| file.role == ExternalRole::Backing) {
        record.insert("backing-filename".into(), backing.name.clone().into());
        record.insert("full-backing-filename".into(), backing.name.clone().into());
        if let Some(format) = &backing.format {
            record.insert("backing-filename-format".into(), format.clone().into());
        }
    }
    if !facts.snapshots.is_empty() {
        let snapshots = facts.snapshots.iter().map(|snapshot| {
            json!({
                "id": snapshot.id, "name": snapshot.name, "vm-state-size": snapshot.vm_state_bytes,
                "date-sec": snapshot.taken_at,
            })
        });
        record.insert("snapshots".into(), snapshots.collect());
    }
    let mut data: Map<String, Value> = facts
        .details
        .iter()
        .map(|detail| (detail.name.replace('_', "-"), value_json(&detail.value)))
        .collect();
    if let Some(compression) = facts.compression {
        data.insert("compression-type".into(), compression.into());
    }
    if !data.is_empty() {
        record.insert("format-specific".into(), json!({"type": qemu_name(facts.format), "data": data}));
    }
    record.insert("dirty-flag".into(), data_flag(facts, "dirty").into());
    Ok(record.into())
}

fn data_flag(facts: &Facts, name: &str) -> bool {
    facts
        .details
        .iter()
        .any(|detail| detail.name == name && detail.value == kiln_format::DetailValue::Flag(true))
}
