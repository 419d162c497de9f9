//! What a machine's screen shows.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use kiln_catalog::{InstanceRecord, Store};
use serde_json::json;

use crate::error::{Failure, Refusal, Result, io};
use crate::process::{control, title};

/// QEMU's own word for a file of this name: it knows no other folder than the instance's.
const FILE: &str = "screen.png";
/// A picture of 8192 by 8192 points that does not compress.
const MAX_LEN: u64 = 256 << 20;
const PNG: &[u8; 8] = b"\x89PNG\r\n\x1a\n";

/// The bytes of a PNG picture of the screen.
///
/// # Errors
/// [`Refusal::NotRunning`]; [`Failure::NoPicture`]; whatever QEMU says.
pub fn take(store: &Store, record: &InstanceRecord) -> Result<Vec<u8>> {
    let dir = store.instance_dir(&record.id);
    if !store.instance_running(&record.id)? {
        return Err(Refusal::NotRunning { name: title(record) }.into());
    }
    let mut qmp = control(&dir, Duration::from_secs(2))?;
    let path = dir.join(FILE);
    qmp.execute("screendump", json!({ "filename": FILE, "format": "png" }))?;
    let picture = read(&path);
    let _ = std::fs::remove_file(&path);
    picture
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|source| io("open", path, source))?;
    file.take(MAX_LEN).read_to_end(&mut bytes).map_err(|source| io("read", path, source))?;
    if bytes.starts_with(PNG) { Ok(bytes) } else { Err(Failure::NoPicture.into()) }
}
