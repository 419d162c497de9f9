//! The disk of files inside GRUB's core, `(memdisk)`: `grub-mkimage --memdisk`. Debian's signed programs keep their
//! first script on a FAT there, grub-mkstandalone everything in a tar.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use kiln_disk::{Disk, MemoryDisk};

use crate::fs::{Entry, FileSystem, FsError, Kind, Root, Stat, open};
use crate::tree::Tree;
use crate::volume::probe;

/// The name that scripts call it by.
pub(super) const NAME: &str = "memdisk";

/// What is on it; `None` when that is not known here.
pub(super) fn tree(bytes: Vec<u8>) -> Option<Tree> {
    let fs: Box<dyn FileSystem> = match Tar::of(&bytes) {
        Some(tar) => Box::new(tar),
        None => {
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
            open(&disk, probe(&disk).ok()?.content, &Root::Default).ok()?
        }
    };
    let mut tree = Tree::default();
    tree.mount("/", 0, fs);
    Some(tree)
}

/// The regular files of a tar, by path with a slash in front. Its directories are those that hold something.
struct Tar(BTreeMap<Vec<u8>, Vec<u8>>);

impl Tar {
    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.get(257..262) != Some(b"ustar") {
            return None;
        }
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes).entries().ok()? {
            let Ok(mut entry) = entry else { break };
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path_bytes().into_owned();
            let mut content = Vec::new();
            // A content is no longer than the core that it lies in.
            if entry.read_to_end(&mut content).is_err() {
                break;
            }
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            files.insert([b"/", name.strip_prefix(b"/").unwrap_or(name)].concat(), content);
        }
        Some(Self(files))
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        let inside = [path.strip_suffix(b"/").unwrap_or(path), b"/"].concat();
        self.0.range(inside.clone()..).next().is_some_and(|(name, _)| name.starts_with(&inside))
    }
}

impl FileSystem for Tar {
    fn list(&self, path: &[u8]) -> crate::fs::Result<Vec<Entry>> {
        let inside = [path.strip_suffix(b"/").unwrap_or(path), b"/"].concat();
        let mut found: Vec<Entry> = Vec::new();
        for name in self.0.keys().filter_map(|name| name.strip_prefix(inside.as_slice())) {
            let part = name.split(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
            let kind = if part.len() == name.len() { Kind::File } else { Kind::Directory };
            if found.last().is_none_or(|last| last.name != part) {
                found.push(Entry { name: part, kind });
            }
        }
        Ok(found)
    }

    fn stat(&self, path: &[u8]) -> crate::fs::Result<Stat> {
        let (kind, len) = match self.0.get(path) {
            Some(content) => (Kind::File, u64::try_from(content.len()).unwrap_or(u64::MAX)),
            None if self.is_directory(path) => (Kind::Directory, 0),
            None => return Err(FsError::NotFound),
        };
        Ok(Stat { kind, len, mode: None, uid: None })
    }

    fn read_link(&self, _: &[u8]) -> crate::fs::Result<Vec<u8>> {
        Err(FsError::WrongKind)
    }

    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> crate::fs::Result<usize> {
        let content = self.0.get(path).ok_or(FsError::NotFound)?;
        let rest = usize::try_from(at).ok().and_then(|at| content.get(at..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_of_a_standalone_grub_is_read() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in
            [("./boot/grub/grub.cfg", "set timeout=0\n"), ("boot/grub/fonts/unicode.pf2", "PFF2")]
        {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let found = tree(builder.into_inner().unwrap()).unwrap();
        assert_eq!(found.text("/boot/grub/grub.cfg").as_deref(), Some("set timeout=0\n"));
        assert_eq!(found.names("/boot/grub"), ["fonts", "grub.cfg"]);
        assert!(found.exists("/boot") && !found.exists("/boot/grub2"));
        assert!(tree(vec![0; 4096]).is_none());
    }
}
