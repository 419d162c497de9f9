//! Extents beside the file that describes them: the one reference that is followed unasked.
//!
//! A disk that some formats keep in several files is one disk, made and moved as a folder; its small text file is
//! the one that users name. Whoever made that file may have written any name into it (CVE-2022-47951: a descriptor
//! that names `/etc/passwd`), so a name is only ever one component, looked up in the descriptor's own folder, and
//! what it leads to is a regular file, not a link.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kiln_disk::{Error, FileSource, Result, os};

use crate::resolver::{ExternalRef, ExternalRole, Resolved, Resolver};

/// Asks another resolver first; an extent that it denies may still be a file of one folder.
pub struct Siblings {
    folder: PathBuf,
    others: Arc<dyn Resolver>,
}

impl Siblings {
    /// Extents in the folder of `descriptor`, and whatever `others` allows.
    #[must_use]
    pub fn beside(descriptor: &Path, others: Arc<dyn Resolver>) -> Self {
        let folder = descriptor.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self { folder: folder.unwrap_or(Path::new(".")).to_owned(), others }
    }

    fn open(&self, reference: &ExternalRef) -> Result<Resolved> {
        let name = reference.name.as_str();
        if !is_plain(name) {
            return Err(refused(reference, "reference.extent.path", "which is a path", PATH_HINT));
        }
        let dir = os::directory(&self.folder)
            .map_err(|source| Error::io("open", self.folder.display().to_string(), source))?;
        let label = self.folder.join(name).display().to_string();
        let opened = os::open_in(&dir, name).map_err(|source| Error::io("open", &label, source))?;
        let Some(file) = opened else {
            return Err(refused(reference, "reference.extent.link", "which is a symbolic link", LINK_HINT));
        };
        let metadata = file.metadata().map_err(|source| Error::io("stat", &label, source))?;
        if !metadata.is_file() {
            let what = "which is no regular file";
            return Err(refused(reference, "reference.extent.kind", what, LINK_HINT));
        }
        let source = FileSource::from_file(file, label)?;
        Ok(Resolved { source: Arc::new(source), format: None })
    }
}

const PATH_HINT: &str = "extents are looked for beside their descriptor only; put them there and write bare names \
                         into it, or allow one file with --allow-backing NAME=PATH";
const LINK_HINT: &str =
    "put the extent itself beside its descriptor, or allow one file with --allow-backing NAME=PATH";

impl Resolver for Siblings {
    fn resolve(&self, reference: &ExternalRef) -> Result<Resolved> {
        match self.others.resolve(reference) {
            Err(error) if error.code() == "reference.denied" && reference.role == ExternalRole::Extent => {
                self.open(reference)
            }
            answer => answer,
        }
    }
}

/// Whether a name is one ordinary component, on Windows as well.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!(components.next(), Some(Component::Normal(part)) if part == OsStr::new(name));
    one && components.next().is_none() && !name.contains(['\\', '\0'])
}

fn refused(reference: &ExternalRef, code: &'static str, what: &str, hint: &'static str) -> Error {
    Error::Refused {
        code,
        what: format!("the image names an {} {:?}, {what}", reference.role.words(), reference.name),
        asked: 0,
        allowed: 0,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use kiln_disk::FileOffset;

    use super::*;
    use crate::resolver::{AllowList, DenyAll};

    fn reference(role: ExternalRole, name: &str) -> ExternalRef {
        ExternalRef { role, name: name.to_owned(), format: None, at: FileOffset::ZERO }
    }

    fn answer(resolver: &Siblings, role: ExternalRole, name: &str) -> String {
        match resolver.resolve(&reference(role, name)) {
            Ok(resolved) => format!("{} bytes", resolved.source.byte_len()),
            Err(error) => error.code().to_owned(),
        }
    }

    #[test]
    fn only_regular_files_of_the_folder_are_extents() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::write(path("disk-s001.vmdk"), [1; 7]).unwrap();
        std::fs::write(path("sub/inner"), [1; 9]).unwrap();
        symlink("disk-s001.vmdk", path("link")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        let resolver = Siblings::beside(&path("disk.vmdk"), Arc::new(DenyAll));
        let absolute = path("disk-s001.vmdk").display().to_string();
        for (name, expected) in [
            ("disk-s001.vmdk", "7 bytes"),
            ("absent", "io.not-found"),
            ("link", "reference.extent.link"),
            ("sub", "reference.extent.kind"),
            ("fifo", "reference.extent.kind"),
            (absolute.as_str(), "reference.extent.path"),
            ("./disk-s001.vmdk", "reference.extent.path"),
            ("disk-s001.vmdk/", "reference.extent.path"),
            ("sub/inner", "reference.extent.path"),
            ("sub\\inner", "reference.extent.path"),
            ("..", "reference.extent.path"),
            (".", "reference.extent.path"),
            ("", "reference.extent.path"),
            ("disk-s001.vmdk\0", "reference.extent.path"),
        ] {
            assert_eq!(answer(&resolver, ExternalRole::Extent, name), expected, "{name:?}");
        }
        for role in [ExternalRole::Parent, ExternalRole::Backing, ExternalRole::DataFile] {
            assert_eq!(answer(&resolver, role, "disk-s001.vmdk"), "reference.denied");
        }
    }

    #[test]
    fn what_is_allowed_by_name_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), [1; 7]).unwrap();
        let mut list = AllowList::default();
        let source = Arc::new(kiln_disk::MemorySource::new(vec![0; 3]));
        list.allow("a", Resolved { source: source.clone(), format: None });
        list.allow("/abs", Resolved { source, format: None });
        let resolver = Siblings::beside(&dir.path().join("disk.vmdk"), Arc::new(list));
        assert_eq!(answer(&resolver, ExternalRole::Extent, "a"), "3 bytes");
        assert_eq!(answer(&resolver, ExternalRole::Extent, "/abs"), "3 bytes");
    }
}
