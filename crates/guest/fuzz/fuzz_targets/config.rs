//! Fuzzes the parsers of the guest's own text files, by way of a tree whose every file is the input.

#![no_main]

use kiln_guest::fs::{Entry, FileSystem, FsError, Kind, Result, Stat};
use libfuzzer_sys::fuzz_target;

struct Everywhere(Vec<u8>);

impl FileSystem for Everywhere {
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        if path.iter().filter(|byte| **byte == b'/').count() > 5 {
            return Err(FsError::NotFound);
        }
        let names = ["a.conf", "a.yaml", "a.network", "a.cfg", "ifcfg-a", "a.nmconnection", "70-a.rules"];
        Ok(names.iter().map(|name| Entry { name: name.as_bytes().to_vec(), kind: Kind::File }).collect())
    }
    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let kind =
            if name.contains(&b'.') || name.contains(&b'-') || path.starts_with(b"/etc/") && name.len() > 4 {
                Kind::File
            } else {
                Kind::Directory
            };
        Ok(Stat { kind, len: self.0.len() as u64, mode: Some(0o644), uid: Some(0) })
    }
    fn read_link(&self, _: &[u8]) -> Result<Vec<u8>> {
        Err(FsError::WrongKind)
    }
    fn read(&self, _: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = self.0.get(at as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut tree = kiln_guest::tree::Tree::default();
    tree.mount("/", 0, Box::new(Everywhere(bytes.to_vec())));
    let _ = kiln_guest::facts::fstab::read(&tree);
    let _ = kiln_guest::facts::fstab::crypttab(&tree);
    let _ = kiln_guest::facts::network::read(&tree);
    let _ = kiln_guest::facts::cloud::read(&tree);
    let _ = kiln_guest::facts::access::ssh(&tree);
    let _ = kiln_guest::facts::access::accounts(&tree);
    let _ = kiln_guest::facts::os::read(&tree);
    let _ = kiln_guest::facts::loader::parse_all(&tree);
    let _ = kiln_guest::facts::program::fault(&tree, "/sbin/init.d");
    let _ = kiln_guest::grub::chosen_of(&String::from_utf8_lossy(bytes));
});
