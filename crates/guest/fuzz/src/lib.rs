//! What the targets share: small file systems to lay an input over, and a walk through a tree.

use std::io::Read;
use std::sync::Arc;

use kiln_disk::{Disk, MemoryDisk};
use kiln_guest::fs::{FileSystem, Kind, Root, open};
use kiln_guest::volume::Content;

/// A small file system and where it is not empty: only there changes have an effect.
pub struct Seed {
    image: Vec<u8>,
    used: Vec<usize>,
}

impl Seed {
    /// Of one of `seeds/*.img.gz`.
    ///
    /// # Panics
    /// When it does not unpack.
    #[must_use]
    pub fn new(packed: &[u8]) -> Self {
        let mut image = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut image).expect("a seed unpacks");
        let used =
            (0..image.len()).step_by(16).filter(|at| image[*at..*at + 16].iter().any(|byte| *byte != 0));
        let used = used.collect();
        Self { image, used }
    }

    /// The file system with changes: of each four bytes of the input two say which 16 bytes, one which of them, one the
    /// value.
    #[must_use]
    pub fn changed(&self, input: &[u8]) -> Vec<u8> {
        let mut image = self.image.clone();
        for change in input.chunks_exact(4) {
            let which = usize::from(u16::from_le_bytes([change[0], change[1]]));
            let at = self.used[which % self.used.len()] + usize::from(change[2] & 15);
            image[at] = change[3];
        }
        image
    }
}

/// Opens a file system, lists it and reads the beginning of everything.
pub fn walk(bytes: Vec<u8>, content: Content) {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
    let Ok(fs) = open(&disk, content, &Root::Default) else { return };
    let _ = fs.space();
    if let Ok(mut probed) = kiln_guest::volume::probe(&disk) {
        let _ = fs.describe(&mut probed);
    }
    visit(fs.as_ref());
}

fn visit(fs: &dyn FileSystem) {
    let mut dirs = vec![Vec::new()];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        let at = if dir.is_empty() { b"/".to_vec() } else { dir.clone() };
        for entry in fs.list(&at).unwrap_or_default() {
            let path = [dir.as_slice(), b"/", &entry.name].concat();
            let _ = (fs.stat(&path), fs.read_link(&path), fs.read(&path, 0, &mut [0; 4096]));
            seen += 1;
            if seen > 300 {
                return;
            }
            if entry.kind == Kind::Directory && path.len() < 200 {
                dirs.push(path);
            }
        }
    }
}
